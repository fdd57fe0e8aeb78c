package retry_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/blob/blobtest"
	"github.com/backstay/backstay/internal/blob/fault"
	"github.com/backstay/backstay/internal/blob/mem"
	"github.com/backstay/backstay/internal/blob/retry"
)

func TestConformance(t *testing.T) {
	blobtest.Run(t, func(*testing.T) blob.Store { return retry.Wrap(mem.New(), retry.Options{}) })
}

// Every call fails in each way at its first attempt: callers see nothing of it. Of
// several puts at once one may meet all of it: five failures in a row.
func TestConformanceOverABadLine(t *testing.T) {
	blobtest.Run(t, func(*testing.T) blob.Store {
		return retry.Wrap(fault.Wrap(mem.New(),
			&fault.Fault{Kind: fault.Fail, Nth: 1}, &fault.Fault{Kind: fault.FailLate, Nth: 2},
			&fault.Fault{Kind: fault.Broken, Call: fault.Get, Nth: 1}, &fault.Fault{Kind: fault.Broken, Call: fault.List, Nth: 2},
			&fault.Fault{Kind: fault.Fail, Call: fault.Stat, Nth: 1}, &fault.Fault{Kind: fault.Fail, Call: fault.Delete, Nth: 1},
		), retry.Options{First: time.Microsecond, Attempts: 6})
	})
}

func TestAnswersAreNotAskedForAgain(t *testing.T) {
	for _, answer := range []error{blob.ErrReadOnly, blob.ErrFull, blob.ErrExist, blob.ErrNotExist, errors.New("strange"),
		fmt.Errorf("%w: %w", blob.ErrAway, blob.ErrDenied)} {
		f := &fault.Fault{Kind: fault.Fail, Err: answer}
		s := retry.Wrap(fault.Wrap(mem.New(), f), retry.Options{})
		if err := s.Put(t.Context(), "a", nil); !errors.Is(err, answer) || f.Hits() != 1 {
			t.Errorf("%v after %d attempts: %v", answer, f.Hits(), err)
		}
	}
}

func TestAPutWhoseAnswerWasLostIsComparedWithWhatIsThere(t *testing.T) {
	below := mem.New()
	late := func() blob.Store {
		return retry.Wrap(fault.Wrap(below, &fault.Fault{Kind: fault.FailLate, Nth: 1}), retry.Options{First: time.Microsecond})
	}
	if err := late().Put(t.Context(), "a", []byte("mine")); err != nil {
		t.Errorf("the object is ours: %v", err)
	}
	away := retry.Wrap(fault.Wrap(below, &fault.Fault{Kind: fault.Fail, Nth: 1}), retry.Options{First: time.Microsecond})
	if err := away.Put(t.Context(), "a", []byte("other")); !errors.Is(err, blob.ErrExist) {
		t.Errorf("the object is another's: %v", err)
	}
	if err := late().Put(t.Context(), "a", []byte("mine")); !errors.Is(err, blob.ErrExist) {
		t.Errorf("the name was taken at the first attempt: %v", err)
	}
}

func TestAStoreThatStaysAwayIsGivenUpAndThenAskedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fault.Fault{Kind: fault.Fail, Call: fault.Stat}
		s := retry.Wrap(fault.Wrap(mem.New(), f), retry.Options{})
		began := time.Now()
		if _, err := s.Stat(t.Context(), "a"); !errors.Is(err, blob.ErrAway) || f.Hits() != 4 {
			t.Errorf("%v after %d attempts", err, f.Hits())
		}
		// Pauses of 1/4, 1 and 4 s, each half to one and a half times.
		if took := time.Since(began); took < 2600*time.Millisecond || took > 7900*time.Millisecond {
			t.Errorf("it took %s", took)
		}
		began = time.Now()
		for range 100 {
			if _, err := s.Stat(t.Context(), "a"); !errors.Is(err, blob.ErrAway) || errors.Is(err, blob.ErrNotExist) {
				t.Errorf("while it is left alone: %v", err)
			}
		}
		if f.Hits() != 4 || time.Since(began) > 0 {
			t.Errorf("it was asked %d times while it is left alone, which took %s", f.Hits()-4, time.Since(began))
		}
		time.Sleep(11 * time.Second)
		began = time.Now()
		if _, err := s.Stat(t.Context(), "a"); !errors.Is(err, blob.ErrAway) || f.Hits() != 5 || time.Since(began) > 0 {
			t.Errorf("after a while: %v after %d attempts and %s", err, f.Hits()-4, time.Since(began))
		}
	})
}

func TestAStoreThatCameBackIsTriedAgainAsBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fault.Fault{Kind: fault.Fail, Call: fault.Stat}
		s := retry.Wrap(fault.Wrap(mem.New(), f), retry.Options{})
		_, _ = s.Stat(t.Context(), "a")
		time.Sleep(11 * time.Second)
		if err := s.Put(t.Context(), "b", nil); err != nil { // it answers
			t.Fatal(err)
		}
		if _, _ = s.Stat(t.Context(), "a"); f.Hits() != 8 {
			t.Errorf("%d attempts, want 4 and 4", f.Hits())
		}
	})
}

// A caller who gave up says nothing of the store.
func TestACancelledCallDoesNotMakeAStoreAway(t *testing.T) {
	s := retry.Wrap(fault.Wrap(mem.New(), &fault.Fault{Kind: fault.Fail, Call: fault.Stat}), retry.Options{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, _ = s.Stat(ctx, "a")
	if err := s.Put(t.Context(), "b", nil); err != nil {
		t.Error(err)
	}
}

func TestABrokenListingGoesOnWhereItBroke(t *testing.T) {
	below := mem.New()
	var want []string
	for i := range 40 {
		want = append(want, fmt.Sprintf("a/%02d", i))
		below.Replace(want[i], bytes.Repeat([]byte{1}, i))
	}
	broken := &fault.Fault{Kind: fault.Broken, Call: fault.List, Nth: 1}
	s := retry.Wrap(fault.Wrap(below, broken), retry.Options{First: time.Microsecond})
	var got []string
	err := s.List(t.Context(), "", func(i blob.Info) error { got = append(got, i.Name); return nil })
	if err != nil || !slices.Equal(got, want) || broken.Hits() != 1 {
		t.Errorf("%v, %v", got, err)
	}
}

func TestTheCallersErrorEndsAListing(t *testing.T) {
	below := mem.New()
	below.Replace("a", nil)
	calls := 0
	err := retry.Wrap(below, retry.Options{}).List(t.Context(), "", func(blob.Info) error { calls++; return blob.ErrAway })
	if !errors.Is(err, blob.ErrAway) || calls != 1 {
		t.Errorf("%v after %d calls", err, calls)
	}
}
