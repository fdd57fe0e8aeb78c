package movertest

import (
	"context"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/mover"
)

// Serve is mover.Streams'. The fake's points have no content: an ask is answered
// with nothing.
func (f *Fake) Serve(ctx context.Context, r mover.ServeRequest) (mover.Served, error) {
	if err := f.enter(ctx, "Serve"); err != nil {
		return mover.Served{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if p := f.points[r.Point]; p == nil || !p.snapshot {
		return mover.Served{}, backstay.Errorf(backstay.CodeUnknownPoint, "there is no point %s", r.Point)
	}
	served := mover.Served{Key: []byte("fake")}
	for _, a := range r.Asks {
		served.Pieces = append(served.Pieces, mover.StreamPiece{ID: a.ID})
	}
	return served, nil
}

// Exchange is mover.Streams'. The fake asks for nothing.
func (f *Fake) Exchange(ctx context.Context, _ mover.ExchangeRequest) (mover.Exchanged, error) {
	if err := f.enter(ctx, "Exchange"); err != nil {
		return mover.Exchanged{}, err
	}
	select {
	case <-ctx.Done():
		return mover.Exchanged{}, context.Cause(ctx)
	case <-time.After(time.Second):
		return mover.Exchanged{Key: []byte("fake")}, nil
	}
}

// EndStream is mover.Streams'.
func (f *Fake) EndStream(ctx context.Context, _ backstay.JobID) error {
	return f.enter(ctx, "EndStream")
}

// testStream: a host serves the points that it has, and a stream that is not there
// can be ended.
func testStream(t *testing.T, s Subject) {
	m, key := s.Mover, make([]byte, 32)
	key[0] = 9 // a point of the curve
	ask := mover.ServeRequest{Job: otherJob, Point: nowhere, Key: key, Asks: []mover.StreamAsk{{ID: 7, Kind: mover.AskDefinition}}}
	if _, err := m.Serve(t.Context(), ask); !backstay.IsCode(err, backstay.CodeUnknownPoint) {
		t.Errorf("a point that is not there is served: %v", err)
	}
	take(t, s)
	ask.Point = point
	served, err := m.Serve(t.Context(), ask)
	if err != nil || len(served.Pieces) != 1 || served.Pieces[0].ID != 7 || served.Pieces[0].Error != nil || len(served.Key) == 0 {
		t.Errorf("served %+v, %v", served, err)
	}
	for range 2 {
		if err := m.EndStream(t.Context(), otherJob); err != nil {
			t.Error(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := m.Exchange(ctx, mover.ExchangeRequest{Job: otherJob}); err == nil {
		t.Error("a call that was cancelled waits for asks")
	}
}
