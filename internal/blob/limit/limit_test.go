package limit_test

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/blob/blobtest"
	"github.com/backstay/backstay/internal/blob/limit"
	"github.com/backstay/backstay/internal/blob/mem"
)

func TestConformance(t *testing.T) {
	for name, o := range map[string]limit.Options{"no limits": {}, "limits": {Rate: 1 << 40, Requests: 2}} {
		t.Run(name, func(t *testing.T) {
			blobtest.Run(t, func(*testing.T) blob.Store { return limit.Wrap(mem.New(), o) })
		})
	}
}

func TestBytesGoNoFasterThanTheLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := limit.Wrap(mem.New(), limit.Options{Rate: 1 << 20})
		began := time.Now()
		var wg sync.WaitGroup
		for _, name := range []string{"a", "b", "c", "d"} {
			wg.Go(func() {
				if err := s.Put(t.Context(), name, make([]byte, 1<<20)); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if took := time.Since(began).Round(time.Millisecond); took != 3*time.Second { // the last one begins when three are through
			t.Errorf("4 MiB at 1 MiB/s took %s", took)
		}
		for range 2 {
			if _, err := s.Get(t.Context(), "a", 0, -1); err != nil {
				t.Error(err)
			}
		}
		if took := time.Since(began).Round(time.Second); took != 5*time.Second {
			t.Errorf("4 MiB there and 2 MiB back took %s", took)
		}
	})
}

func TestWaitingForTheLineEndsWithTheCaller(t *testing.T) {
	s := limit.Wrap(mem.New(), limit.Options{Rate: 1})
	if err := s.Put(t.Context(), "a", make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := s.Put(ctx, "b", make([]byte, 1)); err == nil {
		t.Error("it did not wait")
	}
}

// busy is a store that says how many requests it has at once.
type busy struct {
	blob.Store
	mu        sync.Mutex
	now, most int // guarded by mu
}

func (b *busy) Put(context.Context, string, []byte) error {
	b.mu.Lock()
	b.now++
	b.most = max(b.most, b.now)
	b.mu.Unlock()
	time.Sleep(time.Second)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.now--
	return nil
}

func TestNoMoreRequestsAtOnceThanTheLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		below := &busy{}
		s := limit.Wrap(below, limit.Options{Requests: 3})
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() { _ = s.Put(t.Context(), "a", nil) })
		}
		wg.Wait()
		if below.most != 3 {
			t.Errorf("%d at once, want 3", below.most)
		}
	})
}
