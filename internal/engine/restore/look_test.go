package restore

import (
	"errors"
	"strings"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/mover"
)

func TestAnEstimateComesFromRestoresOfTheSameSort(t *testing.T) {
	vault := func(bytes int64, moving, all float64) Past {
		return Past{Kind: backstay.CreateVM, Tier: backstay.VaultTier, Bytes: bytes, Moving: moving, Seconds: all}
	}
	instant := func(all float64) Past {
		return Past{Kind: backstay.CreateVM, Tier: backstay.SnapshotTier, Moving: 0.2, Seconds: all}
	}
	plan := func(tier backstay.Tier, bytes int64) backstay.RestorePlan {
		return backstay.RestorePlan{Kind: backstay.CreateVM, Tier: tier, Bytes: bytes}
	}
	for name, c := range map[string]struct {
		plan backstay.RestorePlan
		past []Past
		want int64 // 0: nothing is said
	}{
		"nothing is known":           {plan(backstay.VaultTier, 1<<30), nil, 0},
		"the other tier tells none":  {plan(backstay.VaultTier, 1<<30), []Past{instant(3)}, 0},
		"another kind tells none":    {plan(backstay.SnapshotTier, 0), []Past{{Kind: backstay.ReplaceDisks, Tier: backstay.SnapshotTier, Seconds: 9}}, 0},
		"live tells none of copying": {plan(backstay.VaultTier, 1<<30), []Past{{Kind: backstay.CreateVM, Tier: backstay.VaultTier, Live: true, Bytes: 1 << 30, Seconds: 2}}, 0},
		"instant: the middle one":    {plan(backstay.SnapshotTier, 0), []Past{instant(2), instant(90), instant(3)}, 3},
		"twice the bytes":            {plan(backstay.VaultTier, 2<<30), []Past{vault(1<<30, 10, 15)}, 25},
		"an empty disk says nothing": {plan(backstay.VaultTier, 2<<30), []Past{vault(4096, 1, 5)}, 0},
		"big ones count for more":    {plan(backstay.VaultTier, 1<<30), []Past{vault(1<<20, 5, 5), vault(100<<30, 100, 100)}, 2},
	} {
		got := Estimate(c.plan, c.past)
		if got == nil && c.want != 0 || got != nil && *got != c.want {
			t.Errorf("%s: want %d, got %v", name, c.want, deref(got))
		}
	}
}

func deref(n *int64) any {
	if n == nil {
		return nil
	}
	return *n
}

func TestAPlanSaysWhatRestoresOnItsHostTookLately(t *testing.T) {
	w := newWorld(t)
	p, err := w.runner().Plan(t.Context(), request())
	must(t, err)
	if p.Seconds != nil {
		t.Errorf("%d s, with no restore to tell", *p.Seconds)
	}
	w.restored("A", "east", 7*time.Second)
	w.restored("B", "west", 700*time.Second)
	p, err = w.runner().Plan(t.Context(), request())
	must(t, err)
	if p.Seconds == nil || *p.Seconds != 7 {
		t.Errorf("%v s, want those of the restore on this host", deref(p.Seconds))
	}
}

func TestThePreviewOfTheHostIsInThePlan(t *testing.T) {
	w := newWorld(t)
	w.preview = mover.Preview{
		Differences: []backstay.Difference{{Path: "/domain/name", From: "web01", To: "copy"}},
		Warnings:    []string{"a pci device of the host is left out"},
		Checks:      []backstay.Check{refuse("cpu", backstay.CodeCPUFeature, "the host's CPU lacks avx512f")},
	}
	p, err := w.runner().Plan(t.Context(), request())
	must(t, err)
	if len(p.Differences) != 1 || !backstay.IsCode(p.Refusal(), backstay.CodeCPUFeature) || !says(p, "a pci device of the host is left out") {
		t.Errorf("plan %+v", p)
	}
}

func TestAPreviewThatCannotBeHadStopsNoRestore(t *testing.T) {
	w := newWorld(t)
	w.fail["preview"] = errors.New("the vault does not answer")
	p, err := w.runner().Plan(t.Context(), request())
	must(t, err)
	if p.Refusal() != nil || !says(p, "the vault does not answer") || p.Differences == nil {
		t.Errorf("refusal %v, checks %+v", p.Refusal(), p.Preflight)
	}
}

func TestWhatTheHostOfAStreamedPointHasIsNoMatter(t *testing.T) {
	w := newWorld(t)
	w.preview = mover.Preview{
		Differences: []backstay.Difference{{Path: "/domain/name", From: "web01", To: "copy"}},
		Checks:      []backstay.Check{refuse("cpu", backstay.CodeCPUFeature, "the host's CPU lacks avx512f")},
	}
	plan := backstay.RestorePlan{Kind: backstay.CreateVM, Tier: backstay.SnapshotTier, Host: "west", Source: backstay.VMRef{Host: "east"}, StreamedFrom: "east"}
	p, err := w.runner().preview(t.Context(), plan)
	must(t, err)
	if len(p.Differences) != 1 || len(p.Checks) != 0 {
		t.Errorf("preview %+v", p)
	}
}

func says(p backstay.RestorePlan, text string) bool {
	for _, c := range p.Preflight {
		if strings.Contains(c.Detail, text) {
			return true
		}
	}
	return false
}

func TestTheNearestNewerMachineTypeOfTheFamilyIsProposed(t *testing.T) {
	there := []string{"q35", "pc", "pc-q35-8.2", "pc-q35-9.0", "pc-q35-7.10", "pc-i440fx-9.1", "microvm"}
	for wanted, want := range map[string]string{
		"pc-q35-7.2":    "pc-q35-7.10", // versions, not text
		"pc-q35-8.1":    "pc-q35-8.2",
		"pc-q35-9.2":    "pc-q35-9.0", // nothing newer: the newest
		"virt-7.2":      "",
		"pc-i440fx-4.0": "pc-i440fx-9.1",
		"something":     "",
	} {
		if got := substitute(wanted, there); got != want {
			t.Errorf("%s: want %q, got %q", wanted, want, got)
		}
	}
}

func TestAnotherMachineTypeIsTakenOnRequest(t *testing.T) {
	f := facts()
	f.Point.Shape.Machine = "pc-q35-5.0"
	p := plan(t, request(), f)
	e := backstay.AsError(p.Refusal())
	if e.Code != backstay.CodeMachineMissing || !strings.Contains(e.Action, "--machine pc-q35-7.2") {
		t.Fatalf("%+v", e)
	}
	r := request()
	r.Machine = "pc-q35-7.2"
	if p := plan(t, r, f); p.Refusal() != nil || p.Machine != "pc-q35-7.2" {
		t.Errorf("refused: %+v", p.Refused())
	}
}

func TestAVMThatWouldNotFitIntoTheHostsMemoryIsRefusedUnlessItStaysOff(t *testing.T) {
	f := facts()
	f.Point.Shape.MemoryMiB, f.Host.Facts.MemoryFree = 4096, 2<<30
	p := plan(t, request(), f)
	if !backstay.IsCode(p.Refusal(), backstay.CodeNoMemory) {
		t.Errorf("refused: %+v", p.Refused())
	}
	r := request()
	r.NoStart = true
	if p := plan(t, r, f); p.Refusal() != nil {
		t.Errorf("one that is not started is refused: %+v", p.Refused())
	}
}

func TestWhatAKindDoesNotKnowIsNotPassedOver(t *testing.T) {
	for name, change := range map[string]func(*backstay.RestoreRequest){
		"a folder for a new VM's disks": func(r *backstay.RestoreRequest) { r.To = "/srv/out" },
		"a stop of a new VM":            func(r *backstay.RestoreRequest) { r.Stop = true },
		"chosen disks of a new VM":      func(r *backstay.RestoreRequest) { r.Disks = []backstay.DiskTarget{"vda"} },
	} {
		r := request()
		change(&r)
		if _, err := NewPlan(r, facts()); !backstay.IsCode(err, backstay.CodeUsage) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Another kind with a name would be another VM than the one that is meant.
	if err := checkFields(backstay.RestoreRequest{Kind: backstay.ReplaceDisks, Name: "copy"}); !backstay.IsCode(err, backstay.CodeUsage) {
		t.Errorf("%v", err)
	}
}

func TestEachDiskSaysWhereItComesFromAndWhatIsWritten(t *testing.T) {
	p := plan(t, request(), facts())
	if p.Disks[0].From != "the point's layer on east" || p.Disks[0].Bytes != 0 {
		t.Errorf("from the snapshot tier: %+v", p.Disks[0])
	}
	r := request()
	r.Tier = backstay.VaultTier
	p = plan(t, r, facts())
	if p.Disks[0].From != "vault default" || p.Disks[0].Bytes != 1<<30 || p.Disks[1].Bytes != 2<<30 {
		t.Errorf("from the vault: %+v", p.Disks)
	}
}
