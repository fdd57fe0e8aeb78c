package host

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/mover"
	"github.com/backstay/backstay/internal/tier/snapshot"
)

// courier carries what a restore asks to the point's host, as a server does, and
// lets a test look at and change what passes.
type courier struct {
	from, to *Host
	passes   func(*mover.Served)

	mu    sync.Mutex
	asked map[mover.AskKind]int // guarded by mu
}

// carry runs fn with two carriers at work.
func (c *courier) carry(t *testing.T, r mover.StageRequest, fn func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	for range 2 {
		all.Go(func() {
			var served mover.Served
			for ctx.Err() == nil {
				next, err := c.to.Exchange(ctx, mover.ExchangeRequest{Job: r.Job, Served: served})
				if served = (mover.Served{}); err != nil || len(next.Asks) == 0 {
					continue
				}
				c.note(next.Asks)
				served, err = c.from.Serve(ctx, mover.ServeRequest{Job: r.Job, Point: r.Plan.Point, Key: next.Key, Asks: next.Asks})
				if err != nil {
					for _, a := range next.Asks {
						served.Pieces = append(served.Pieces, mover.StreamPiece{ID: a.ID, Error: backstay.AsError(err)})
					}
				}
				if c.passes != nil {
					c.passes(&served)
				}
			}
		})
	}
	fn()
	cancel()
	all.Wait()
	must(t, c.from.EndStream(context.Background(), r.Job))
	must(t, c.to.EndStream(context.Background(), r.Job))
}

func (c *courier) note(asks []mover.StreamAsk) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.asked == nil {
		c.asked = map[mover.AskKind]int{}
	}
	for _, a := range asks {
		c.asked[a.Kind]++
	}
}

// elsewhere is a restore of the world's point on another host, from the snapshot tier.
func elsewhere(t *testing.T, w *testWorld) (*testWorld, mover.StageRequest) {
	t.Helper()
	r := w.backup(backstay.SnapshotTier)
	other := newTestWorld(t)
	r.Vault, r.Plan.StreamedFrom, r.Plan.Host = nil, "h1", "h2"
	for i := range r.Plan.Disks {
		r.Plan.Disks[i].Path = other.path("out/copy-" + string(r.Plan.Disks[i].Target))
	}
	return other, r
}

// TestAStreamedPointIsTheSameOnTheOtherHost, though the source wrote on, and though
// whoever carries it sees no byte of it (I10).
func TestAStreamedPointIsTheSameOnTheOtherHost(t *testing.T) {
	w := newTestWorld(t)
	marker := bytes.Repeat([]byte("marker on the disk "), 1000)
	must(t, w.hv.WriteGuest(sourceVM, "vda", 65536, marker))
	want := map[backstay.DiskTarget][]byte{"vda": w.content(sourceVM, "vda"), "vdb": w.content(sourceVM, "vdb")}
	other, r := elsewhere(t, w)
	must(t, w.hv.WriteGuest(sourceVM, "vda", 0, bytes.Repeat([]byte("later "), 4096)))
	var largest atomic.Int64
	c := &courier{from: w.host, to: other.host, passes: func(s *mover.Served) {
		for _, p := range s.Pieces {
			if bytes.Contains(p.Sealed, marker[:19]) || bytes.Contains(p.Sealed, []byte("<domain")) {
				t.Error("what passes the server is in the clear")
			}
			largest.Store(max(largest.Load(), int64(len(p.Sealed))))
		}
	}}
	c.carry(t, r, func() {
		staged, err := other.host.Stage(t.Context(), r, nil)
		must(t, err)
		if staged.BytesWritten == 0 || staged.BytesWritten > testSize {
			t.Errorf("%d bytes were written; zeros are to be left out", staged.BytesWritten)
		}
		if users := w.users(); len(users) != 2 || users[0].Kind != snapshot.UserTransfer {
			t.Errorf("while the point is streamed its layers have the users %+v", users)
		}
		if err := w.host.DropPoint(t.Context(), pointID, nil); !backstay.IsCode(err, backstay.CodeLayerInUse) {
			t.Errorf("dropping a point that is being streamed: %v", err)
		}
		must(t, define(t, other, r))
	})
	_, err := other.host.Start(t.Context(), r)
	must(t, err)
	for target, data := range want {
		if !bytes.Equal(other.content(copyVM, target), data) {
			t.Errorf("disk %s is not that of the point", target)
		}
	}
	if largest.Load() > mover.MaxAsk+1024 || c.asked[mover.AskDefinition] != 1 || c.asked[mover.AskProof] != 1 || c.asked[mover.AskData] == 0 {
		t.Errorf("asked %v, the largest answer has %d bytes", c.asked, largest.Load())
	}
	if users := w.users(); len(users) != 0 {
		t.Errorf("users after the stream: %+v", users)
	}
	must(t, w.host.DropPoint(t.Context(), pointID, nil))
}

// TestWhatIsNotAuthenticIsNeverWritten, and nothing of such a restore stays (I4).
func TestWhatIsNotAuthenticIsNeverWritten(t *testing.T) {
	for name, spoil := range map[string]func(*mover.Served){
		"a byte changed": func(s *mover.Served) {
			for _, p := range s.Pieces {
				if n := len(p.Sealed); n > 100 {
					p.Sealed[n/2] ^= 1
				}
			}
		},
		"an answer to another ask": func(s *mover.Served) {
			if n := len(s.Pieces); n > 1 {
				s.Pieces[0].Sealed, s.Pieces[n-1].Sealed = s.Pieces[n-1].Sealed, s.Pieces[0].Sealed
			}
			for i, p := range s.Pieces {
				if len(s.Pieces) == 1 && len(p.Sealed) > 4096 {
					s.Pieces[i].Sealed = p.Sealed[:len(p.Sealed)-4096]
				}
			}
		},
		"the key of somebody else": func(s *mover.Served) { s.Key = append([]byte{9}, make([]byte, 31)...) },
		"no answer at all":         func(s *mover.Served) { s.Pieces = slices.Clone(s.Pieces); s.Pieces[0].Sealed = nil },
	} {
		t.Run(name, func(t *testing.T) {
			w := newTestWorld(t)
			other, r := elsewhere(t, w)
			c := &courier{from: w.host, to: other.host, passes: spoil}
			c.carry(t, r, func() {
				if _, err := other.host.Stage(t.Context(), r, nil); !backstay.IsCode(err, backstay.CodeRestoreFailed) {
					t.Errorf("staged: %v", err)
				}
			})
			if left := other.left(); len(left) != 0 {
				t.Errorf("left: %v", left)
			}
		})
	}
}

// TestARestoreSaysWhyItsSourceIsGone, and nothing of it stays.
func TestARestoreSaysWhyItsSourceIsGone(t *testing.T) {
	w := newTestWorld(t)
	other, r := elsewhere(t, w)
	var answers atomic.Int64
	c := &courier{from: w.host, to: other.host, passes: func(s *mover.Served) {
		if answers.Add(1) < 4 {
			return
		}
		for i := range s.Pieces {
			s.Pieces[i] = mover.StreamPiece{ID: s.Pieces[i].ID, Error: backstay.Errorf(backstay.CodeHostAway, "host h1 went away")}
		}
	}}
	c.carry(t, r, func() {
		if _, err := other.host.Stage(t.Context(), r, nil); !backstay.IsCode(err, backstay.CodeHostAway) {
			t.Errorf("staged: %v", err)
		}
	})
	if left := other.left(); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
	if users := w.users(); len(users) != 0 {
		t.Errorf("users: %+v", users)
	}
}

// TestAStreamThatIsCutGoesOn: the restoring host's mover is started anew in the
// middle, with another key, and the serving one after it.
func TestAStreamThatIsCutGoesOn(t *testing.T) {
	w := newTestWorld(t)
	want := w.content(sourceVM, "vda")
	other, r := elsewhere(t, w)
	killed, kill := context.WithCancelCause(t.Context())
	var answers atomic.Int64
	c := &courier{from: w.host, to: other.host, passes: func(*mover.Served) {
		if answers.Add(1) == 5 {
			kill(errors.New("the server went away"))
		}
	}}
	c.carry(t, r, func() {
		if _, err := other.host.Stage(killed, r, nil); err == nil {
			t.Fatal("staged before it was cut")
		}
	})
	other.restart()
	w.restart()
	c = &courier{from: w.host, to: other.host}
	c.carry(t, r, func() {
		_, err := other.host.Stage(t.Context(), r, nil)
		must(t, err)
		must(t, define(t, other, r))
	})
	_, err := other.host.Start(t.Context(), r)
	must(t, err)
	if !bytes.Equal(other.content(copyVM, "vda"), want) {
		t.Error("disk vda is not that of the point")
	}
	if users := w.users(); len(users) != 0 {
		t.Errorf("users: %+v", users)
	}
}

// TestNobodyAsksForMoreThanAPointHas: asks come over a wire.
func TestNobodyAsksForMoreThanAPointHas(t *testing.T) {
	w := newTestWorld(t)
	r := w.backup(backstay.SnapshotTier)
	d, err := w.host.deskOf("other")
	must(t, err)
	ask := mover.ServeRequest{Job: r.Job, Point: pointID, Key: d.own.PublicKey().Bytes(), Asks: []mover.StreamAsk{
		{ID: 1, Kind: mover.AskData, Disk: "vdz", Length: 512},
		{ID: 2, Kind: mover.AskData, Disk: "vda", Offset: -512, Length: 512},
		{ID: 3, Kind: mover.AskData, Disk: "vda", Length: mover.MaxAsk + 1},
		{ID: 4, Kind: mover.AskData, Disk: "vda", Offset: testSize, Length: 512},
		{ID: 5, Kind: mover.AskData, Disk: "vda", Offset: 1 << 62, Length: 1 << 62},
		{ID: 6, Kind: mover.AskExtents, Disk: "vda", Length: 1 << 62},
		{ID: 7, Kind: "everything", Disk: "vda", Length: 512},
	}}
	served, err := w.host.Serve(t.Context(), ask)
	must(t, err)
	for _, p := range served.Pieces {
		if p.Error == nil || len(p.Sealed) > 0 {
			t.Errorf("ask %d was answered", p.ID)
		}
	}
	ask.Key = []byte("too short")
	if _, err := w.host.Serve(t.Context(), ask); err == nil {
		t.Error("a key that is none was taken")
	}
	must(t, w.host.EndStream(t.Context(), r.Job))
}
