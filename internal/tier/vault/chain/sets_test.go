package chain_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/blob/mem"
	"github.com/backstay/backstay/internal/blob/replica"
	"github.com/backstay/backstay/internal/tier/vault/chain"
)

// set opens the chain in some of the copies, as a process does that knows of others
// as lost.
func (w *world) set(copies ...int) *chain.Log {
	var stores []blob.Store
	for _, i := range copies {
		stores = append(stores, w.copies[i])
	}
	return chain.Open(replica.New(stores...), keyed(1))
}

// twoSets are the sets of copies that two processes may have at one time: the older
// one still has a unit that is recorded as lost, or lacks one that came back.
var twoSets = [][2][]int{
	{{0, 1, 2}, {1, 2}}, {{0, 1, 2}, {0, 2}}, {{0, 1, 2}, {0, 1}}, {{0, 1, 2}, {2}}, {{0, 1, 2}, {1}}, {{0, 1}, {1, 2}}, {{0, 2}, {1, 2}}, {{0, 1}, {0, 2}},
}

// Two writers with different copies never both win a place: what either was told
// is in the chain is there for both, and for everybody after them.
func TestWritersWithDifferentCopiesNeverBothWin(t *testing.T) {
	for _, sets := range twoSets {
		t.Run(fmt.Sprint(sets), func(t *testing.T) {
			w := newWorld(t)
			w.fill(0, 2)
			const each = 60
			var wg sync.WaitGroup
			for n, set := range sets {
				for k := range 2 {
					wg.Go(func() {
						l := w.set(set...)
						for i := range each {
							if _, err := add(w.ctx, l, commit(n*2000+k*1000+i+100)); err != nil {
								t.Errorf("writer %v, record %d: %v", set, i, err)
							}
						}
					})
				}
			}
			wg.Wait()
			for _, set := range sets {
				s, err := w.set(set...).Read(w.ctx)
				w.must(err)
				if want := 2 + 4*each; len(s.Live) != want {
					t.Errorf("%v shows %d points, %d were acknowledged", set, len(s.Live), want)
				}
			}
		})
	}
}

// stop is a copy behind whose first put its writer is held up, or ends.
type stop struct {
	*mem.Store
	behind func() error
}

func (s *stop) Put(ctx context.Context, name string, data []byte) error {
	err := s.Store.Put(ctx, name, data)
	if do := s.behind; do != nil && err == nil {
		s.behind = nil
		err = do()
	}
	return err
}

// A writer is held up behind its first copy. That one is recorded as lost meanwhile,
// and another writer goes on with the rest: the first one's record must not take the
// other's place, wherever it is put then.
func TestARecordInALostCopyTakesNobodysPlace(t *testing.T) {
	for _, ends := range []bool{false, true} {
		w := newWorld(t)
		w.fill(0, 2)
		var said chain.State
		held := &stop{Store: w.copies[0], behind: func() (err error) {
			said, err = add(w.ctx, w.set(1, 2), commit(8))
			if err == nil && ends {
				err = errors.New("the writer ended")
			}
			return err
		}}
		l := chain.Open(replica.New(held, w.copies[1], w.copies[2]), keyed(1))
		_, err := add(w.ctx, l, commit(7))
		if ends == (err == nil) {
			t.Fatalf("ends %v: %v", ends, err)
		}
		w.must(w.set(1, 2).Expect(w.ctx, said.Head))
		// The lost copy is back, with what it has: nothing is rolled back, nothing lost.
		w.must(w.open().Expect(w.ctx, said.Head))
		s, err := add(w.ctx, w.open(), commit(9))
		w.must(err)
		for _, n := range []int{8, 9} {
			if _, ok := s.Live[pointID(n)]; !ok {
				t.Errorf("ends %v: commit %d was acknowledged, and is not in the chain", ends, n)
			}
		}
		if _, ok := s.Live[pointID(7)]; ok == ends {
			t.Errorf("ends %v: commit 7 is in the chain: %v", ends, ok)
		}
		w.must(w.set(1, 2).Expect(w.ctx, said.Head))
		w.same()
	}
}

// A head that only one copy shows is remembered by nobody: that copy may be lost a
// moment later, and the vault would look rolled back for ever.
func TestOnlyAHeadThatStaysIsRemembered(t *testing.T) {
	w := newWorld(t)
	w.fill(0, 3)
	for _, c := range w.copies[1:] {
		w.must(c.Delete(w.ctx, chain.Object(3)))
	}
	head, err := w.open().Settled(w.ctx)
	w.must(err)
	if head.Seq != 2 {
		t.Fatalf("record %d is remembered, which one copy has", head.Seq)
	}
	_, err = add(w.ctx, w.set(1, 2), commit(9))
	w.must(err)
	w.must(w.set(1, 2).Expect(w.ctx, head))
	head, err = w.set(1, 2).Settled(w.ctx)
	w.must(err)
	if head.Seq != 3 {
		t.Errorf("record %d is remembered, and every copy has record 3", head.Seq)
	}
}
