package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/blob/mem"
	"github.com/backstay/backstay/internal/tier"
	"github.com/backstay/backstay/internal/tier/vault"
)

// dying is a unit that is lost at the n-th call that changes it, for all processes
// at once: before the call is done, or behind it with its answer lost.
type dying struct {
	blob.Store
	late bool

	mu    sync.Mutex
	calls int // until it is lost; guarded by mu
	dead  bool
}

func (d *dying) Put(ctx context.Context, name string, data []byte) error {
	return d.change(func() error { return d.Store.Put(ctx, name, data) })
}

func (d *dying) Delete(ctx context.Context, name string) error {
	return d.change(func() error { return d.Store.Delete(ctx, name) })
}

func (d *dying) change(do func() error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.calls--; d.calls == 0 && !d.dead {
		d.dead = true
		if d.late {
			_ = do()
		}
	}
	if d.dead {
		return fmt.Errorf("lost: %w", blob.ErrAway)
	}
	return do()
}

func (d *dying) gone() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.dead {
		return fmt.Errorf("lost: %w", blob.ErrAway)
	}
	return nil
}

func (d *dying) Get(ctx context.Context, name string, offset, length int64) ([]byte, error) {
	if err := d.gone(); err != nil {
		return nil, err
	}
	return d.Store.Get(ctx, name, offset, length)
}

func (d *dying) Stat(ctx context.Context, name string) (blob.Info, error) {
	if err := d.gone(); err != nil {
		return blob.Info{}, err
	}
	return d.Store.Stat(ctx, name)
}

func (d *dying) List(ctx context.Context, prefix string, fn func(blob.Info) error) error {
	if err := d.gone(); err != nil {
		return err
	}
	return d.Store.List(ctx, prefix, fn)
}

// image is a disk in memory.
type image struct{ *bytes.Reader }

func (image) Close() error  { return nil }
func (i image) Size() int64 { return i.Reader.Size() }
func (i image) Extents(offset, length int64) ([]tier.Extent, error) {
	return []tier.Extent{{Range: backstay.Range{Offset: offset, Length: length}}}, nil
}

func content(seed byte) []byte {
	data := make([]byte, 300<<10)
	for i := range data {
		data[i] = byte(i*7) ^ byte(i>>8) ^ seed
	}
	return data
}

// transfer is one attempt of a mover at a point.
func (w *witnessed) transfer(id backstay.PointID, seed byte, packs *[]string) error {
	ctx := w.t.Context()
	access, err := w.writing(ctx, w.name)
	if err != nil {
		return err
	}
	v, err := w.openVault(ctx, access)
	if err != nil {
		return err
	}
	defer v.Close()
	tr, err := v.Begin(ctx, vault.WriteOptions{Point: id, Now: time.Now, Packs: *packs, OnPack: func(p string) { *packs = append(*packs, p) }})
	if backstay.IsCode(err, backstay.CodeExists) {
		return nil
	}
	if err != nil {
		return err
	}
	defer tr.Abort()
	if _, err := tr.WriteDisk(ctx, vault.DiskSource{Target: "vda", Format: "raw", Image: image{bytes.NewReader(content(seed))}}); err != nil {
		return err
	}
	done, err := tr.Commit(ctx, backstay.RecoveryPoint{ID: id, VM: backstay.VMRef{UUID: "u"}}, tier.Definition{})
	if err != nil {
		return err
	}
	return w.saw(ctx, w.name, done.Head)
}

func (w *witnessed) reads(id backstay.PointID, seed byte) {
	w.t.Helper()
	opened, err := w.open(w.t.Context(), w.name)
	w.must(err)
	defer opened.Close()
	p, err := opened.OpenPoint(w.t.Context(), id)
	w.must(err)
	disk, err := p.Disk(w.t.Context(), "vda")
	w.must(err)
	got := make([]byte, disk.Size())
	_, err = disk.ReadAt(got, 0)
	w.must(err)
	if !bytes.Equal(got, content(seed)) {
		w.t.Errorf("point %s reads differently", id)
	}
}

// Any unit is lost at any of the changes that a transfer makes in it: the write
// fails, the unit is recorded as lost, and the transfer goes on to a whole point in
// the rest, with the one before it whole too. Nothing looks rolled back or damaged.
func TestAUnitThatIsLostAtAnyStepOfATransferLeavesAWholePointInTheRest(t *testing.T) {
	steps := 0
	for unit := range 3 {
		for _, late := range []bool{false, true}[:2-min(unit, 1)] { // the first one decides, so it is lost in both ways
			for n := 1; ; n++ {
				w := newWitnessed(t)
				w.must(w.transfer(firstPoint, 1, new([]string)))
				victim := &dying{Store: mem.New(), late: late, calls: n}
				name := filepath.Dir(w.units[unit])
				w.hooks.Unit = func(url string, s blob.Store) blob.Store {
					if !strings.Contains(url, name) {
						return s
					}
					victim.mu.Lock()
					defer victim.mu.Unlock()
					if _, first := victim.Store.(*mem.Store); first {
						victim.Store = s
					}
					return victim
				}
				var packs []string
				err := w.transfer(secondPoint, 2, &packs)
				if !victim.dead {
					w.must(err)
					break
				}
				steps++
				if err != nil {
					told, lookErr := w.lostMeanwhile(t.Context(), w.name)
					w.must(lookErr)
					if len(told) != 1 {
						t.Fatalf("unit %d, step %d: %v, and nothing is recorded as lost: %q", unit, n, err, told)
					}
					w.must(w.transfer(secondPoint, 2, &packs))
				}
				w.reads(firstPoint, 1)
				w.reads(secondPoint, 2)
				opened, err := w.openToWrite(t.Context(), w.name)
				w.must(err)
				report, err := opened.Scrub(t.Context(), vault.ScrubOptions{})
				w.must(errors.Join(err, opened.Close()))
				for _, d := range report.Damages {
					t.Errorf("unit %d, step %d: %s", unit, n, d)
				}
			}
		}
	}
	if steps < 16 { // four changes in each unit, and the first one twice
		t.Errorf("only %d steps were tried", steps)
	}
}
