package chain_test

import (
	"context"
	"errors"
	"testing"

	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/blob/mem"
	"github.com/backstay/backstay/internal/blob/replica"
	"github.com/backstay/backstay/internal/tier/vault/chain"
)

// failing is a copy whose puts fail, after something else was done.
type failing struct {
	*mem.Store
	first func()
}

func (f *failing) Put(context.Context, string, []byte) error {
	if do := f.first; do != nil {
		f.first = nil
		do()
	}
	return blob.ErrAway
}

// Somebody may have read a record, remembered it as the head, or appended behind
// it, before its writer finds that one of the copies fails.
func TestARecordThatSomebodyReadIsNotTakenBack(t *testing.T) {
	w := newWorld(t)
	w.fill(0, 2)
	var seen chain.State
	bad := &failing{Store: w.copies[2]}
	bad.first = func() {
		var err error
		seen, err = w.open().Read(w.ctx)
		w.must(err)
	}
	l := chain.Open(replica.New(w.copies[0], w.copies[1], bad), keyed(1))
	if _, err := add(w.ctx, l, commit(2)); !errors.Is(err, blob.ErrAway) {
		t.Fatalf("a copy failed, and the append says %v", err)
	}
	if seen.Seq != 3 {
		t.Fatalf("the record was not there when it was read: head %d", seen.Seq)
	}
	if err := w.open().Expect(w.ctx, seen.Head); err != nil {
		t.Errorf("the head that was read is not in the chain any more: %v", err)
	}
	s, err := add(w.ctx, w.open(), commit(3))
	w.must(err)
	if _, ok := s.Live[pointID(2)]; !ok || s.Seq != 4 {
		t.Errorf("the record that was read does not count: %+v", s)
	}
	w.must(w.open().Expect(w.ctx, seen.Head))
	w.same()
}

// Another writer completes the newest record and appends behind it. What its own
// writer does then must not leave a hole in the first copy.
func TestARecordThatAnotherOneFollowsStaysInEveryCopy(t *testing.T) {
	w := newWorld(t)
	w.fill(0, 2)
	bad := &failing{Store: w.copies[2]}
	bad.first = func() {
		_, err := add(w.ctx, w.open(), commit(9))
		w.must(err)
	}
	l := chain.Open(replica.New(w.copies[0], w.copies[1], bad), keyed(1))
	_, _ = add(w.ctx, l, commit(2)) // whether it says so or not, its record counts
	s, err := w.open().Read(w.ctx)
	w.must(err)
	if s.Seq != 4 || len(s.Live) != 4 {
		t.Errorf("%+v", s)
	}
	w.same()
}

// vanishing is a copy that lists nothing from some moment on.
type vanishing struct {
	*mem.Store
	lists int
}

func (v *vanishing) List(ctx context.Context, prefix string, fn func(blob.Info) error) error {
	if v.lists--; v.lists < 0 {
		return nil
	}
	return v.Store.List(ctx, prefix, fn)
}

func TestAChainThatIsGoneAtTheSecondLookIsAnError(t *testing.T) {
	w := newWorld(t)
	w.fill(0, 3)
	early, err := w.open().Read(w.ctx)
	w.must(err)
	w.fill(3, 1)
	l := chain.Open(&vanishing{Store: w.copies[0], lists: 1}, keyed(1))
	if err := l.Expect(w.ctx, early.Head); err == nil {
		t.Error("a chain without records has the head that is expected")
	}
}
