package fault_test

import (
	"errors"
	"testing"

	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/blob/blobtest"
	"github.com/backstay/backstay/internal/blob/fault"
	"github.com/backstay/backstay/internal/blob/mem"
)

func TestConformanceWithoutFaults(t *testing.T) {
	blobtest.Run(t, func(*testing.T) blob.Store {
		return fault.Wrap(mem.New(), &fault.Fault{Kind: fault.Fail, Prefix: "never-named"})
	})
}

func TestFaultsHitWhatTheyAreFor(t *testing.T) {
	corrupt := &fault.Fault{Kind: fault.Corrupt, Prefix: "packs/", Nth: 2}
	cut := &fault.Fault{Kind: fault.Cut, Prefix: "points/"}
	full := &fault.Fault{Kind: fault.Full, Prefix: "full/", Nth: 2, Onwards: true}
	late := &fault.Fault{Kind: fault.FailLate, Prefix: "late/"}
	never := &fault.Fault{Kind: fault.Fail, Prefix: "never/"}
	s := fault.Wrap(mem.New(), corrupt, cut, full, late, never)
	for name, want := range map[string]string{"packs/1": "0123", "points/1": "01", "full/1": "0123"} {
		if err := s.Put(t.Context(), name, []byte("0123")); err != nil {
			t.Fatal(err)
		}
		if got, _ := s.Get(t.Context(), name, 0, -1); string(got) != want {
			t.Errorf("%s holds %q, want %q", name, got, want)
		}
	}
	_ = s.Put(t.Context(), "packs/2", []byte("0123"))
	if got, _ := s.Get(t.Context(), "packs/2", 0, -1); string(got) == "0123" || len(got) != 4 {
		t.Errorf("the second pack is %q", got)
	}
	for _, name := range []string{"full/2", "full/3"} {
		if err := s.Put(t.Context(), name, nil); !errors.Is(err, blob.ErrFull) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := s.Put(t.Context(), "late/1", nil); !errors.Is(err, blob.ErrAway) {
		t.Errorf("late: %v", err)
	}
	if _, err := s.Stat(t.Context(), "late/1"); err != nil {
		t.Errorf("late: %v", err)
	}
	if unhit := s.Unhit(); len(unhit) != 1 || unhit[0] != never || full.Hits() != 2 || s.Puts() != 7 {
		t.Errorf("unhit %v, hits %d, puts %d", unhit, full.Hits(), s.Puts())
	}
}

func TestStoresThatLieAreMade(t *testing.T) {
	below := mem.New()
	for _, name := range []string{"a/1", "a/2", "a/3", "a/4"} {
		below.Replace(name, []byte("0123"))
	}
	// There are five objects then, of which one is put through the store.
	for kind, want := range map[fault.Kind]struct {
		listed int
		err    error
	}{fault.Broken: {2, blob.ErrAway}, fault.Cut: {2, nil}, fault.LeaveOut: {4, nil}, fault.Stale: {4, nil}} {
		f := &fault.Fault{Kind: kind, Call: fault.List, Name: "2"}
		s := fault.Wrap(below, f, &fault.Fault{Kind: fault.Replaces})
		if err := s.Put(t.Context(), "new", nil); err != nil {
			t.Fatal(err)
		}
		listed := 0
		err := s.List(t.Context(), "", func(blob.Info) error { listed++; return nil })
		if listed != want.listed || !errors.Is(err, want.err) || f.Hits() != 1 {
			t.Errorf("%s: %d listed, %v", kind, listed, err)
		}
	}
	s := fault.Wrap(below, &fault.Fault{Kind: fault.Replaces}, &fault.Fault{Kind: fault.Broken, Call: fault.Get, Nth: 2})
	if err := s.Put(t.Context(), "a/1", []byte("other")); err != nil {
		t.Error(err)
	}
	if got, err := s.Get(t.Context(), "a/1", 0, -1); err != nil || string(got) != "other" {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := s.Get(t.Context(), "a/1", 0, -1); !errors.Is(err, blob.ErrAway) || string(got) != "ot" {
		t.Errorf("%q, %v", got, err)
	}
}
