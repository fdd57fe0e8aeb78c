package chain_test

import (
	"context"
	"errors"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/blob/fault"
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

// The newest record may be in one copy only, and that one away: nobody can tell
// then whether it is gone (I5).
func TestAHeadThatOnlyACopyWhichIsAwayHasIsNotRolledBack(t *testing.T) {
	w := newWorld(t)
	w.fill(0, 3)
	for _, c := range w.copies[1:] {
		w.must(c.Delete(w.ctx, chain.Object(3)))
	}
	seen, err := w.open().Read(w.ctx)
	w.must(err)
	away := &fault.Fault{Kind: fault.Fail, Call: fault.List}
	if err := w.open(away).Expect(w.ctx, seen.Head); !backstay.IsCode(err, backstay.CodeVaultAway) {
		t.Errorf("with the copy away: %v", err)
	}
	w.must(w.copies[0].Delete(w.ctx, chain.Object(3)))
	if err := w.open().Expect(w.ctx, seen.Head); !backstay.IsCode(err, backstay.CodeVaultRolledBack) {
		t.Errorf("gone everywhere: %v", err)
	}
}

// spoiling is a first copy that spoils the first put on its way, and tells when it
// is asked to remove what came of it.
type spoiling struct {
	*mem.Store
	puts    int
	removed func()
}

func (s *spoiling) Put(ctx context.Context, name string, data []byte) error {
	if s.puts++; s.puts == 1 {
		data = data[:len(data)/2]
	}
	return s.Store.Put(ctx, name, data)
}

func (s *spoiling) Delete(ctx context.Context, name string) error {
	err := s.Store.Delete(ctx, name)
	if do := s.removed; do != nil {
		s.removed = nil
		do()
	}
	return err
}

// slow is a first copy in which something happens before the first put.
type slow struct {
	*mem.Store
	first func()
}

func (s *slow) Put(ctx context.Context, name string, data []byte) error {
	if do := s.first; do != nil {
		s.first = nil
		do()
	}
	return s.Store.Put(ctx, name, data)
}

// One writer's record comes spoilt into the first copy; while that is mended
// another one, which knows nothing of it, gets the place and is told so.
func TestMendingDoesNotRemoveARecordThatWasAcknowledged(t *testing.T) {
	w := newWorld(t)
	w.fill(0, 2)
	free, acknowledged, done := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	spoilt := &spoiling{Store: w.copies[0], removed: func() { close(free); <-acknowledged }}
	first := chain.Open(replica.New(spoilt, w.copies[1], w.copies[2]), keyed(1))
	second := chain.Open(replica.New(&slow{w.copies[0], func() {
		go func() {
			_, err := add(w.ctx, first, commit(7))
			done <- err
		}()
		<-free
	}}, w.copies[1], w.copies[2]), keyed(1))
	said, err := add(w.ctx, second, commit(8))
	w.must(err)
	close(acknowledged)
	w.must(<-done)
	s, err := w.open().Read(w.ctx)
	w.must(err)
	for _, n := range []int{7, 8} {
		if _, ok := s.Live[pointID(n)]; !ok {
			t.Errorf("commit %d was acknowledged, and is not in the chain", n)
		}
	}
	w.must(w.open().Expect(w.ctx, said.Head))
	w.same()
}
