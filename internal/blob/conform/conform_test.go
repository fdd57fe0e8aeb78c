package conform_test

import (
	"context"
	"strings"
	"testing"

	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/blob/conform"
	"github.com/backstay/backstay/internal/blob/fault"
	"github.com/backstay/backstay/internal/blob/mem"
)

var small = conform.Options{Large: 1 << 20, Many: 20}

func verdicts(r conform.Report) map[string]conform.Verdict {
	all := map[string]conform.Verdict{}
	for _, result := range r.Results {
		all[result.Check] = result.Verdict
	}
	return all
}

func listed(t *testing.T, s blob.Store) (names []string) {
	t.Helper()
	if err := s.List(t.Context(), "", func(i blob.Info) error { names = append(names, i.Name); return nil }); err != nil {
		t.Fatal(err)
	}
	return names
}

func TestASoundStoreIsOKAndIsLeftAsItWas(t *testing.T) {
	s := mem.New()
	s.Replace("vault.json", []byte("a vault lives here"))
	told := 0
	r := conform.Run(t.Context(), s, small, func(conform.Result) { told++ })
	if !r.OK || len(r.Results) != len(conform.Checks())+1 || told != len(r.Results) {
		t.Errorf("%+v", r)
	}
	for check, verdict := range verdicts(r) {
		if verdict != conform.OK {
			t.Errorf("%s: %s", check, verdict)
		}
	}
	if left := listed(t, s); len(left) != 1 {
		t.Errorf("left: %v", left)
	}
}

func TestAStoreThatIgnoresPutIfAbsentIsWarnedOf(t *testing.T) {
	r := conform.Run(t.Context(), fault.Wrap(mem.New(), &fault.Fault{Kind: fault.Replaces}), small, nil)
	if got := verdicts(r); !r.OK || got["put-if-absent"] != conform.Warn {
		t.Errorf("%v", got)
	}
	for _, result := range r.Results {
		if result.Check == "put-if-absent" && !strings.Contains(result.Detail, "ignores put-if-absent: the catalogue's lock is what counts") {
			t.Errorf("it says %q", result.Detail)
		}
	}
}

// loose is a store whose put-if-absent is a question before a put, and so no help
// when two writers come at once.
type loose struct{ *mem.Store }

func (l loose) Put(ctx context.Context, name string, data []byte) error {
	if err := blob.CheckName(name); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if strings.Contains(name, "points/") {
		l.Replace(name, data)
		return nil
	}
	return l.Store.Put(ctx, name, data)
}

func TestAStoreWhereSeveralRacingWritersWinIsWarnedOf(t *testing.T) {
	r := conform.Run(t.Context(), loose{mem.New()}, small, nil)
	if got := verdicts(r); got["put-if-absent"] != conform.OK || got["put-if-absent, racing writers"] != conform.Warn || !r.OK {
		t.Errorf("%v", got)
	}
}

func TestEveryLieOfAStoreIsFound(t *testing.T) {
	for check, f := range map[string]*fault.Fault{
		"put, read back":             {Kind: fault.Corrupt, Nth: 1},
		"ranges are exact":           {Kind: fault.Cut, Call: fault.Get, Prefix: "backstay-check-"},
		"list after write, in order": {Kind: fault.Stale, Call: fault.List},
		"long listing":               {Kind: fault.LeaveOut, Call: fault.List, Name: "000007"},
		"delete":                     {Kind: fault.Fail, Call: fault.Delete, Err: blob.ErrReadOnly},
		"empty and large objects":    {Kind: fault.Cut, Prefix: "backstay-check-", Nth: 0},
	} {
		r := conform.Run(t.Context(), fault.Wrap(mem.New(), f), small, nil)
		if got := verdicts(r); r.OK || got[check] != conform.Fails {
			t.Errorf("%s: %v", check, got)
		}
		for _, result := range r.Results {
			if result.Verdict != conform.OK && (result.Detail == "" || result.Action == "") {
				t.Errorf("%s: it does not say what, and what to do: %+v", check, result)
			}
		}
	}
}

func TestAStoreThatIsAwayIsAskedOnce(t *testing.T) {
	f := &fault.Fault{Kind: fault.Fail}
	r := conform.Run(t.Context(), fault.Wrap(mem.New(), f), small, nil)
	if r.OK || len(r.Results) != 2 || f.Hits() != 1 {
		t.Errorf("%+v, %d puts", r, f.Hits())
	}
}
