package vault_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/blob/replica"
	"github.com/backstay/backstay/internal/tier/vault"
)

// plantEvery is a vault with an object of every kind that a vault can have: points
// of which one needs chunks that were moved, a list of condemned packs, which are
// nobody's, two headers, and lists of files.
func plantEvery(t testing.TB) (w *world, k kept, nobodys []string) {
	var ids []backstay.PointID
	w, k, ids = storied(t, 5)
	w.drop(k, ids[0], ids[2])
	if done := w.reclaim(vault.ReclaimOptions{LiveFraction: 0.95}); done.Moved.Objects == 0 {
		t.Fatalf("nothing was moved: %+v", done)
	}
	w.vault = w.open(w.store)
	needed := w.objects("packs/")
	id := newID()
	w.backup(vault.WriteOptions{Point: id}, source{target: "vda", disk: &disk{data: sparse(99, 256<<10)}})
	w.drop(k, id)
	// That these may be missing is no damage.
	for _, name := range w.objects("packs/") {
		if !slices.Contains(needed, name) {
			nobodys = append(nobodys, name)
		}
	}
	if condemned, err := w.vault.Reclaim(vault.ReclaimOptions{Now: created, NoRepack: true}).Condemn(w.ctx); err != nil || condemned.Objects == 0 {
		t.Fatalf("nothing was condemned: %+v, %v", condemned, err)
	}
	_, recipient, err := vault.NewIdentity()
	w.must(err)
	_, err = w.vault.AddRecipient(w.ctx, vault.NewRecipient{Recipient: recipient, Purpose: backstay.ForPerson}, created)
	w.must(err)
	w.must(commitList(w, w.store, "a", "b"))
	kinds := map[string]bool{}
	for _, name := range w.objects("") {
		kind, _, _ := strings.Cut(name, "/")
		kinds[kind] = true
	}
	for _, kind := range []string{"chain", "find", "headers", "indexes", "keys", "moved", "packs", "points", "trash", "vault.json"} {
		if !kinds[kind] {
			t.Fatalf("there is no object of kind %s", kind)
		}
	}
	return w, k, nobodys
}

// Any one copy, and any two of three, of any object of any kind are deleted, flipped,
// cut: what is restored is right, a scrub counts exactly those, and a repair brings
// them back, in turns with the key and without.
func TestAnyOneCopyThenAnyTwoOfThreeOfAnyObjectMayGo(t *testing.T) {
	w, k, nobodys := plantEvery(t)
	good := w.all()[0]
	r, turn := rand.New(rand.NewPCG(7, 1)), 0
	for n, name := range w.objects("") {
		kind, _, _ := strings.Cut(name, "/")
		if slices.Contains(nobodys, name) {
			continue
		}
		for what, data := range map[string][]byte{"deleted": nil, "flipped": flip(good[name], r), "truncated": good[name][:r.IntN(len(good[name]))]} {
			for _, gone := range [][]int{{n % 3}, {n % 3, (n + 1) % 3}} {
				t.Run(fmt.Sprintf("%s %s in %d", kind, what, len(gone)), func(t *testing.T) {
					for _, i := range gone {
						w.plantIn(i, name, data)
					}
					if len(gone) == 2 {
						k.checkIn(w, w.store)
					}
					turn++
					way := w.scrubbings()[turn%2]
					if len(gone) == 2 && data != nil && !tellsItself(name) {
						way = w.scrubbings()[0] // two wrong ones outvote the right one: only a key tells
					}
					demandCounted(t, w, way, name, data, gone)
					w.demandSame(good)
					for i := range w.copies {
						w.plantIn(i, name, good[name])
					}
				})
			}
		}
	}
}

func flip(data []byte, r *rand.Rand) []byte {
	bad := bytes.Clone(data)
	bad[r.IntN(len(bad))] ^= 1 << r.IntN(8)
	return bad
}

// tellsItself tells whether an object shows without a key that it is unharmed.
func tellsItself(name string) bool {
	return !strings.HasPrefix(name, "headers/") && !strings.HasPrefix(name, "keys/") && name != "vault.json"
}

// demandCounted scrubs and demands that exactly these copies of one object are wrong,
// and repairs.
func demandCounted(t *testing.T, w *world, way scrubbing, name string, data []byte, gone []int) {
	t.Helper()
	report, err := way.scrub(w.store, vault.ScrubOptions{})
	w.must(err)
	if len(report.Damages) != 1 || report.Damages[0].Object != name || report.Damages[0].Lost() {
		t.Fatalf("%s: found %v, wrong is %s", way.name, report.Damages, name)
	}
	for i, c := range report.Copies {
		missing, damaged := int64(0), int64(0)
		if slices.Contains(gone, i) && data == nil {
			missing = 1
		} else if slices.Contains(gone, i) {
			damaged = 1
		}
		if c.Missing != missing || c.Damaged != damaged || c.Unreadable != 0 {
			t.Fatalf("%s: copy %d of %s: %+v", way.name, i+1, name, c)
		}
	}
	fixed, err := way.repair(w.store, report.Damages)
	w.must(err)
	if fixed.Copies != len(gone) || len(fixed.Lost)+len(fixed.Failed) != 0 {
		t.Fatalf("%s: repaired %+v", way.name, fixed)
	}
}

// weather is a store on a network that has its days: calls fail, connections break
// in the middle of an answer, and now and then a read has wrong bytes.
type weather struct {
	blob.Store
	mu     sync.Mutex
	r      *rand.Rand // guarded by mu
	chance float64
	hits   int // guarded by mu
}

func (s *weather) bad() (int, *rand.Rand) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.r.Float64() >= s.chance {
		return 0, nil
	}
	s.hits++
	return 1 + s.r.IntN(3), rand.New(rand.NewPCG(s.r.Uint64(), 1))
}

func (s *weather) Get(ctx context.Context, name string, offset, length int64) ([]byte, error) {
	data, err := s.Store.Get(ctx, name, offset, length)
	kind, r := s.bad()
	switch {
	case err != nil || kind == 0 || len(data) == 0:
		return data, err
	case kind == 1:
		return flip(data, r), nil
	case kind == 2:
		return data[:r.IntN(len(data))], fmt.Errorf("read %s: connection reset: %w", name, blob.ErrAway)
	}
	return nil, fmt.Errorf("read %s: time-out: %w", name, blob.ErrAway)
}

func (s *weather) Stat(ctx context.Context, name string) (blob.Info, error) {
	if kind, _ := s.bad(); kind > 1 {
		return blob.Info{}, fmt.Errorf("stat %s: %w", name, blob.ErrAway)
	}
	return s.Store.Stat(ctx, name)
}

func (s *weather) List(ctx context.Context, prefix string, fn func(blob.Info) error) error {
	if kind, _ := s.bad(); kind == 3 {
		return fmt.Errorf("list %s: %w", prefix, blob.ErrAway)
	}
	return s.Store.List(ctx, prefix, fn)
}

// A day of transient errors: the vault is scrubbed, and backed up into, every hour,
// with every hundredth call going wrong in some way. Nothing is called damaged or
// missing that is not, with the key and without.
func TestADayOfTransientErrorsRaisesNoFalseAlarm(t *testing.T) {
	w, k, _ := plantEvery(t)
	var all []*weather
	for i, c := range w.copies {
		all = append(all, &weather{Store: c, r: rand.New(rand.NewPCG(uint64(i), 24)), chance: 0.01})
	}
	outside := replica.New(all[0], all[1], all[2])
	unproved := int64(0)
	for hour := range 24 {
		for _, way := range w.scrubbings() {
			report, err := way.scrub(outside, vault.ScrubOptions{})
			if err != nil && !backstay.IsCode(err, backstay.CodeVaultAway) {
				t.Fatalf("hour %d: %s: %v", hour, way.name, err)
			}
			if len(report.Damages) != 0 {
				t.Fatalf("hour %d: %s: a false alarm: %v", hour, way.name, report.Damages)
			}
			for i, c := range report.Copies {
				if c.Missing+c.Damaged != 0 {
					t.Fatalf("hour %d: %s: copy %d: %+v", hour, way.name, i+1, c)
				}
			}
			unproved += report.Unproved
		}
		if hour%6 == 0 {
			id := newID()
			data := sparse(uint64(hour), 128<<10)
			w.backup(vault.WriteOptions{Point: id}, source{target: "vda", disk: &disk{data: data}})
			k[id] = data
		}
	}
	for i, s := range all {
		if s.hits < 100 {
			t.Errorf("copy %d had %d errors: that is no test", i+1, s.hits)
		}
	}
	if unproved != 0 {
		t.Errorf("%d objects were not proved by three copies", unproved)
	}
	k.checkIn(w, w.store)
}
