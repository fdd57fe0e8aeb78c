package replica_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/blob/blobtest"
	"github.com/backstay/backstay/internal/blob/fault"
	"github.com/backstay/backstay/internal/blob/mem"
	"github.com/backstay/backstay/internal/blob/replica"
)

func TestConformance(t *testing.T) {
	blobtest.Run(t, func(*testing.T) blob.Store { return replica.New(mem.New(), mem.New(), mem.New()) })
}

func TestEveryCopyHoldsEveryObject(t *testing.T) {
	a, b := mem.New(), mem.New()
	s := replica.New(a, b)
	if err := s.Put(t.Context(), "x", []byte("1")); err != nil {
		t.Fatal(err)
	}
	for i, c := range s.Copies() {
		if got, err := c.Get(t.Context(), "x", 0, -1); err != nil || string(got) != "1" {
			t.Errorf("copy %d: %q %v", i, got, err)
		}
	}
	if err := s.Delete(t.Context(), "x"); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Stat(t.Context(), "x"); !errors.Is(err, blob.ErrNotExist) {
		t.Errorf("deleted: %v", err)
	}
}

func TestPutThatFailsInOneCopyIsTakenBackAndCanBeRetried(t *testing.T) {
	for n := range 3 {
		below := []*mem.Store{mem.New(), mem.New(), mem.New()}
		full := &fault.Fault{Kind: fault.Full, Nth: 1}
		stores := []blob.Store{below[0], below[1], below[2]}
		stores[n] = fault.Wrap(stores[n], full)
		s := replica.New(stores...)
		if err := s.Put(t.Context(), "x", []byte("1")); !errors.Is(err, blob.ErrFull) {
			t.Fatalf("copy %d full: %v", n, err)
		}
		for i, c := range below {
			if _, err := c.Stat(t.Context(), "x"); !errors.Is(err, blob.ErrNotExist) {
				t.Errorf("copy %d full: copy %d kept the object: %v", n, i, err)
			}
		}
		if err := s.Put(t.Context(), "x", []byte("1")); err != nil {
			t.Errorf("copy %d full, retry: %v", n, err)
		}
	}
}

func TestWhatACrashLeftInOneCopyIsCompleted(t *testing.T) {
	for n := range 2 {
		below := []*mem.Store{mem.New(), mem.New()}
		below[n].Replace("x", []byte("1"))
		s := replica.New(below[0], below[1])
		if err := s.Put(t.Context(), "x", []byte("1")); err != nil {
			t.Fatal(err)
		}
		for i, c := range below {
			if got, err := c.Get(t.Context(), "x", 0, -1); err != nil || string(got) != "1" {
				t.Errorf("copy %d: %q %v", i, got, err)
			}
		}
		if err := s.Put(t.Context(), "x", []byte("1")); !errors.Is(err, blob.ErrExist) {
			t.Errorf("put of a complete object: %v", err)
		}
	}
}

func TestALostCopyHidesNothing(t *testing.T) {
	a, b := mem.New(), mem.New()
	if err := replica.New(a, b).Put(t.Context(), "x", []byte("1")); err != nil {
		t.Fatal(err)
	}
	for n := range 2 {
		stores := []blob.Store{a, b}
		var faults []*fault.Fault
		for _, call := range []fault.Call{fault.Get, fault.Stat, fault.List} {
			faults = append(faults, &fault.Fault{Kind: fault.Fail, Call: call})
		}
		stores[n] = fault.Wrap(stores[n], faults...)
		s := replica.New(stores...)
		if got, err := s.Get(t.Context(), "x", 0, -1); err != nil || string(got) != "1" {
			t.Errorf("copy %d away: %q %v", n, got, err)
		}
		listed := 0
		if err := s.List(t.Context(), "", func(blob.Info) error { listed++; return nil }); err != nil || listed != 1 {
			t.Errorf("copy %d away: %d listed, %v", n, listed, err)
		}
		// I5: that an object is absent takes the word of every copy.
		if _, err := s.Get(t.Context(), "y", 0, -1); !errors.Is(err, blob.ErrAway) || errors.Is(err, blob.ErrNotExist) {
			t.Errorf("copy %d away, object absent in the other: %v", n, err)
		}
	}
}

// A copy that hangs costs one time-out and not one for each object; when it is back
// one read finds out. Where no other copy has the object it is asked all the same.
func TestACopyThatFailedIsAskedLastForAWhile(t *testing.T) {
	a, b := mem.New(), mem.New()
	away := &fault.Fault{Kind: fault.Fail, Call: fault.Get}
	s := replica.New(fault.Wrap(a, away), b)
	now := time.Unix(1e9, 0)
	s.SetNow(func() time.Time { return now })
	if err := s.Put(t.Context(), "x", []byte("1")); err != nil {
		t.Fatal(err)
	}
	read := func(times int) int {
		t.Helper()
		before := away.Hits()
		for range times {
			if _, err := s.Get(t.Context(), "x", 0, -1); err != nil {
				t.Fatal(err)
			}
		}
		return away.Hits() - before
	}
	if n := read(10); n != 1 {
		t.Errorf("%d of 10 reads asked the copy that fails", n)
	}
	if _, err := s.Get(t.Context(), "y", 0, -1); errors.Is(err, blob.ErrNotExist) {
		t.Errorf("what only the copy that fails may have: %v", err)
	}
	now = now.Add(2 * time.Minute)
	if n := read(10); n != 1 {
		t.Errorf("after a while %d of 10 reads asked it again", n)
	}
}

// Two writers with different copies, since one knows a unit as lost, never both get
// a name: they share a copy. Both may be refused.
func TestWritersWithDifferentCopiesNeverBothGetAName(t *testing.T) {
	for round := range 300 {
		c := []blob.Store{mem.New(), mem.New(), mem.New()}
		sets := [][]blob.Store{{c[0], c[1], c[2]}, {c[1], c[2]}}
		if round%2 == 1 {
			sets[1] = []blob.Store{c[0], c[2]}
		}
		errs := make([]error, 2)
		var wg sync.WaitGroup
		for i, set := range sets {
			wg.Go(func() { errs[i] = replica.New(set...).Put(context.Background(), "x", []byte{byte(i)}) })
		}
		wg.Wait()
		if errs[0] == nil && errs[1] == nil {
			t.Fatalf("round %d: both won", round)
		}
		for i, set := range sets {
			for k, store := range set {
				if got, err := store.Get(t.Context(), "x", 0, -1); errs[i] == nil && (err != nil || got[0] != byte(i)) {
					t.Fatalf("round %d: %d won, and its copy %d shows %v %v", round, i, k, got, err)
				}
			}
		}
	}
}
