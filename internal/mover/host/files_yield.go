package host

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/mover"
	"github.com/backstay/backstay/internal/tier/snapshot"
)

// barred is how long no new session may stand on layers whose room is needed.
const barred = time.Minute

// EndSessionsOn ends the sessions that keep a point's layers from being merged: its
// own, and those of points above it.
func (h *Host) EndSessionsOn(ctx context.Context, p backstay.PointID, why string) ([]backstay.FileSessionID, error) {
	record, err := h.tier.Record(ctx, p)
	if backstay.IsCode(err, backstay.CodeUnknownPoint) {
		return []backstay.FileSessionID{}, nil
	}
	if err != nil {
		return nil, err
	}
	layers := layersOf(&record)
	h.files.bar(layers, h.now().Add(barred))
	return h.endSessions(why, func(s *fileSession) bool { return s.standsOn(layers) }), nil
}

func layersOf(record *snapshot.PointRecord) (layers []backstay.LayerID) {
	for _, d := range record.Disks {
		if d.Layer != "" {
			layers = append(layers, d.Layer)
		}
	}
	return layers
}

// endSessions ends those sessions for which which is true, and returns when nothing
// of them is left.
func (h *Host) endSessions(why string, which func(*fileSession) bool) []backstay.FileSessionID {
	ended := []backstay.FileSessionID{}
	var closing sync.WaitGroup
	for _, s := range h.files.all() {
		if which(s) {
			ended = append(ended, s.request.Session)
			closing.Go(func() { s.close(sessionEnded(s.request.Session, "%s", why)) })
		}
	}
	closing.Wait()
	slices.Sort(ended)
	return ended
}

// standsOn tells whether the session reads one of the layers, or what is above it.
func (s *fileSession) standsOn(layers []backstay.LayerID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(s.layers, func(l backstay.LayerID) bool { return slices.Contains(layers, l) })
}

// bar keeps new sessions off layers until a time.
func (f *fileSessions) bar(layers []backstay.LayerID, until time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, l := range layers {
		f.barred[l] = until
	}
}

// unbar lets new sessions stand on layers again.
func (f *fileSessions) unbar(layers []backstay.LayerID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, l := range layers {
		delete(f.barred, l)
	}
}

// stand has a session stand on layers, unless their room is needed. From here on it is
// found by whoever needs them.
func (f *fileSessions) stand(s *fileSession, layers []backstay.LayerID, now time.Time) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for l, until := range f.barred {
		switch {
		case !now.Before(until):
			delete(f.barred, l)
		case slices.Contains(layers, l):
			return backstay.Errorf(backstay.CodeLayerInUse, "point %s cannot be opened in the snapshot tier now", s.request.Point).
				Becausef("the room of a layer that it stands on is needed").Do("try again in a minute, or open it in the vault: --tier vault")
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.layers = layers
	return nil
}

// dropGoing drops a point that goes, whatever session shows it: a point that is gone
// shows nothing. Sessions of other points are waited for.
func (h *Host) dropGoing(ctx context.Context, p backstay.PointID, progress mover.Progress) error {
	record, err := h.tier.Record(ctx, p)
	if backstay.IsCode(err, backstay.CodeUnknownPoint) {
		return nil
	}
	if err != nil {
		return err
	}
	err = h.ending(ctx, p, progress, h.tier.Drop)
	if backstay.IsCode(err, backstay.CodeLayerInUse) && !record.Pinned {
		ended := h.endSessions("its point leaves the snapshot tier", func(s *fileSession) bool {
			return s.request.Point == p && s.request.Tier != backstay.VaultTier
		})
		if len(ended) > 0 {
			err = h.ending(ctx, p, progress, h.tier.Drop)
		}
	}
	if err == nil {
		h.files.unbar(layersOf(&record))
	}
	return err
}

// endSessionsOf ends the sessions that show points of a VM in the snapshot tier, since
// its protection ends. A point that is pinned keeps all of that from happening.
func (h *Host) endSessionsOf(ctx context.Context, vm backstay.VMID) error {
	points, err := h.tier.Points(ctx)
	if err != nil {
		return err
	}
	points = slices.DeleteFunc(points, func(p snapshot.PointRecord) bool { return p.VM.UUID != vm })
	if slices.ContainsFunc(points, func(p snapshot.PointRecord) bool { return p.Pinned }) {
		return nil
	}
	var layers []backstay.LayerID
	for i := range points {
		layers = append(layers, layersOf(&points[i])...)
	}
	h.files.bar(layers, h.now().Add(barred))
	h.endSessions("the protection of its VM ends", func(s *fileSession) bool {
		return slices.ContainsFunc(points, func(p snapshot.PointRecord) bool {
			return p.ID == s.request.Point && s.request.Tier != backstay.VaultTier
		})
	})
	return nil
}

// onPoint lets work of the host's own use an open point, as a session that nobody else
// sees: it is on no list and counts against no limit, and gives way like any other.
func (h *Host) onPoint(ctx context.Context, r mover.OpenFilesRequest, progress mover.Progress, work func(context.Context, *fileSession) error) error {
	s := newFileSession(h, r)
	if err := h.files.enter(s); err != nil {
		s.timer.Stop()
		return err
	}
	stop := context.AfterFunc(ctx, func() { s.end(context.Cause(ctx)) })
	defer stop()
	err := s.open(s.ctx, oneAtATime(progress))
	if err == nil {
		err = s.during(ctx, func(ctx context.Context) error { return work(ctx, s) })
	} else if reason := context.Cause(s.ctx); reason != nil {
		err = reason
	}
	s.close(errors.New("its work is done"))
	return err
}

// enter adds a session of the host's own.
func (f *fileSessions) enter(s *fileSession) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.open[s.request.Session] != nil {
		return backstay.Errorf(backstay.CodeConflict, "session %s is open already", s.request.Session)
	}
	s.hidden = true
	f.open[s.request.Session] = s
	return nil
}
