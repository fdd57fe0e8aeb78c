package drill

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
)

func TestADrillStartsItsVMsInOrderProbesThemAndTakesThemDown(t *testing.T) {
	w, run := newWorld(t), newRun()
	w.must(w.runner().Run(t.Context(), run, w.params(shop())))
	w.nothingLeft()
	if !slices.Equal(w.host.order, []string{"db01", "app01", "web01"}) {
		t.Errorf("they were started in the order %v", w.host.order)
	}
	records := w.records()
	if len(records) != 1 {
		t.Fatalf("%d records", len(records))
	}
	r := records[0]
	if r.ID != "01J" || r.User != "ann" || r.Region != "east" || r.Host != "h1" || r.Verdict != backstay.DrillPassed || r.Cause != nil || !r.Cleaned {
		t.Errorf("%+v", r)
	}
	if r.RPOSeconds == nil || *r.RPOSeconds != (3*time.Hour).Seconds() || r.RTOSeconds == nil || *r.RTOSeconds < 30 {
		t.Errorf("RPO %v, RTO %v", *r.RPOSeconds, *r.RTOSeconds)
	}
	for i, vm := range r.VMs {
		if vm.HealthySeconds == nil || vm.BootSeconds == nil || *vm.BootSeconds > *vm.HealthySeconds || len(vm.Probes) != 2 || !vm.Probes[1].OK ||
			vm.Screenshot == nil || vm.Screenshot.SHA256 == "" || vm.Address != "10.0.0.9" || vm.Error != nil {
			t.Errorf("%+v", vm)
		}
		if want := shop().VMs[i].VM; vm.Source.Name != want || vm.Point != backstay.PointID("B"+want) || vm.VaultID != "id-main" || vm.Head.Seq != 7 ||
			*vm.Disks[0].SHA256 != "5a"+want || vm.CPUs != 2 || vm.Memory != 1<<30 {
			t.Errorf("of %s: %+v", want, vm)
		}
	}
	if run.job.Result.Drill != "01J" || run.job.Result.Verdict != backstay.DrillPassed || len(w.told) != 1 {
		t.Errorf("%+v, told %d times", run.job.Result, len(w.told))
	}
}

func TestAVMThatIsNotWellFailsTheDrillAndThoseBehindItAreNotStarted(t *testing.T) {
	for name, sicken := range map[string]func(*fakeHost){
		"a probe":  func(h *fakeHost) { h.sick["app01"] = "connection refused" },
		"it stops": func(h *fakeHost) { h.dies = "app01" },
		"no start": func(h *fakeHost) {
			h.before = func(call string) error {
				if call == "start" && len(h.order) == 1 {
					return backstay.Errorf(backstay.CodeStartFailed, "VM app01 did not start").Becausef("connection refused; stopped by itself")
				}
				return nil
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			w, run := newWorld(t), newRun()
			sicken(w.host)
			err := w.runner().Run(t.Context(), run, w.params(shop()))
			if !backstay.IsCode(err, backstay.CodeDrillFailed) || !strings.Contains(err.Error(), "app01") {
				t.Errorf("the job ends with %v", err)
			}
			w.nothingLeft()
			if slices.Contains(w.host.order, "web01") {
				t.Error("the VM behind it was started")
			}
			r := w.records()[0]
			if r.Verdict != backstay.DrillFailed || r.RTOSeconds != nil || !r.Cleaned {
				t.Errorf("%+v", r)
			}
			if r.VMs[0].HealthySeconds == nil || r.VMs[1].HealthySeconds != nil || r.VMs[1].Error == nil || r.VMs[2].Error == nil {
				t.Errorf("%+v", r.VMs)
			}
			if name == "a probe" {
				if p := r.VMs[1].Probes[1]; p.OK || p.Detail != "connection refused" || p.Seconds < time.Duration(backstay.DefaultDrillTimeout).Seconds() {
					t.Errorf("%+v", p)
				}
				if r.VMs[1].Screenshot == nil {
					t.Error("there is no picture of the VM that is not well")
				}
			}
		})
	}
}

func TestVMsThatNobodyWaitsForAreProbedBesideTheOthers(t *testing.T) {
	w, run := newWorld(t), newRun()
	plan := shop()
	plan.VMs[0].NoWait = true
	w.must(w.runner().Run(t.Context(), run, w.params(plan)))
	w.nothingLeft()
	if r := w.records()[0]; r.Verdict != backstay.DrillPassed || r.VMs[0].HealthySeconds == nil {
		t.Errorf("%+v", r)
	}
}

// died is the end of a process.
type died struct{}

// TestADrillThatIsKilledAnywhereIsTakenDownAndRecordedOnce kills the process before
// and after every call to the host and before everything that it keeps.
func TestADrillThatIsKilledAnywhereIsTakenDownAndRecordedOnce(t *testing.T) {
	for at := 1; ; at++ {
		w, run := newWorld(t), newRun()
		params := w.params(shop())
		n := 0
		count := func(string) error {
			if n++; n == at {
				panic(died{})
			}
			return nil
		}
		w.host.before, w.host.after, run.saved = count, count, func() { _ = count("") }
		killed := live(t, w, run, params)
		if !killed {
			if at < 30 {
				t.Errorf("it has only %d steps", at)
			}
			break
		}
		started := len(w.host.order)
		if live(t, w, run, params) {
			t.Fatal("killed twice")
		}
		t.Run(fmt.Sprint(at), func(t *testing.T) {
			w.t = t
			w.nothingLeft()
			records := w.records()
			if len(records) != 1 {
				t.Fatalf("%d records", len(records))
			}
			r := records[0]
			begun := r.Verdict == backstay.DrillAborted
			whole := r.Verdict == backstay.DrillPassed && (started == 3 || len(run.done) > 0 && started == 0)
			if !r.Cleaned || !begun && !whole || begun && len(w.host.order) != started {
				t.Errorf("killed at %d after %d starts, then %d: %s, %v", at, started, len(w.host.order), r.Verdict, r.Cause)
			}
		})
	}
}

// live runs one life, and tells whether it was killed.
func live(t *testing.T, w *world, run *fakeRun, params backstay.DrillParams) (killed bool) {
	defer func() {
		if p := recover(); p != nil {
			if _, ok := p.(died); !ok {
				panic(p)
			}
			killed = true
		}
	}()
	if err := w.runner().Run(t.Context(), run, params); err != nil && !backstay.IsCode(err, backstay.CodeCancelled) {
		t.Error(err)
	}
	return false
}

func TestADrillThatIsCancelledIsTakenDownAndRecorded(t *testing.T) {
	w, run := newWorld(t), newRun()
	ctx, cancel := context.WithCancelCause(t.Context())
	w.host.after = func(call string) error {
		if call == "probe" && len(w.host.order) == 2 {
			cancel(backstay.ErrCancelled)
		}
		return nil
	}
	if err := w.runner().Run(ctx, run, w.params(shop())); !errors.Is(err, backstay.ErrCancelled) {
		t.Errorf("%v", err)
	}
	w.nothingLeft()
	if r := w.records()[0]; r.Verdict != backstay.DrillAborted || !r.Cleaned || r.Cause == nil {
		t.Errorf("%+v", r)
	}
}

func TestADrillIsTakenDownBeforeItsServerStops(t *testing.T) {
	w, run := newWorld(t), newRun()
	ctx, cancel := context.WithCancelCause(t.Context())
	w.host.after = func(call string) error {
		if call == "probe" {
			cancel(backstay.ErrStopping)
		}
		return nil
	}
	params := w.params(shop())
	if err := w.runner().Run(ctx, run, params); !errors.Is(err, backstay.ErrStopping) {
		t.Errorf("%v", err)
	}
	w.nothingLeft()
	if len(w.records()) != 0 {
		t.Error("it was recorded before its job could end")
	}
	if err := w.runner().Run(t.Context(), run, params); !backstay.IsCode(err, backstay.CodeCancelled) {
		t.Errorf("%v", err)
	}
	if r := w.records()[0]; r.Verdict != backstay.DrillAborted {
		t.Errorf("%+v", r)
	}
}

func TestWhatCannotBeTakenDownIsTriedAgainAndThenSaid(t *testing.T) {
	for tries, want := range map[int]backstay.DrillVerdict{3: backstay.DrillPassed, 1 << 20: backstay.DrillFailed} {
		w, run := newWorld(t), newRun()
		w.host.before = func(call string) error {
			if call == "close" && tries > 0 {
				tries--
				return backstay.Errorf(backstay.CodeHostAway, "host h1 does not answer")
			}
			return nil
		}
		runner, plain := w.runner(), w.runner().Wait
		deadline := began.Add(24 * time.Hour)
		runner.Wait = func(ctx context.Context, d time.Duration) error {
			if runner.Now().After(deadline) { // as ctx would
				return context.DeadlineExceeded
			}
			return plain(ctx, d)
		}
		err := runner.Run(t.Context(), run, w.params(shop()))
		r := w.records()[0]
		if r.Verdict != want || (err == nil) != (want == backstay.DrillPassed) || r.Cleaned != (err == nil) || r.Cleaned != (r.Left == "") {
			t.Errorf("%v; %s, cleaned %v, left %q", err, r.Verdict, r.Cleaned, r.Left)
		}
	}
}

func TestWhichPointIsDrilledIsChosenByThePlan(t *testing.T) {
	w := newWorld(t)
	one := func(p backstay.DrillPlan, vm string) backstay.DrillPlan {
		p.VMs = []backstay.DrillVM{{VM: vm, UUID: uuidOf(vm)}}
		return p
	}
	w.point("D", "web01", began.Add(-150*time.Minute), backstay.VaultTier, "main@west")
	w.point("E", "web01", began.Add(-4*time.Hour), backstay.VaultTier, "main")
	for want, plan := range map[backstay.PointID]backstay.DrillPlan{
		"Bweb01": one(backstay.DrillPlan{}, "web01"),
		"Aweb01": one(backstay.DrillPlan{Point: backstay.DrillOldest, From: backstay.FromVault}, "web01"),
		"Cweb01": one(backstay.DrillPlan{From: backstay.FromSnapshot}, "web01"),
		"D":      one(backstay.DrillPlan{From: backstay.FromReplica, Host: "h9"}, "web01"),
		"E":      {VMs: []backstay.DrillVM{{VM: "web01", UUID: uuidOf("web01"), PointID: "E"}}},
		"Rfar":   one(backstay.DrillPlan{}, "far"),
	} {
		params := w.params(plan)
		got := params.VMs[0]
		if got.Point != want || params.Host != "h1" && plan.Host == "" {
			t.Errorf("%+v: %s on %s, want %s", plan, got.Point, params.Host, want)
		}
		nic := params.Restores[0].NICs[0]
		if nic.LinkDown || nic.MAC == "" || params.Restores[0].Drill.Network != params.Network {
			t.Errorf("%+v, %+v", nic, params.Restores[0].Drill)
		}
	}
	if p := w.params(one(backstay.DrillPlan{Point: backstay.DrillRandom}, "web01")); p.VMs[0].Point != "E" {
		t.Errorf("a random point is %s", p.VMs[0].Point)
	}
	for _, plan := range []backstay.DrillPlan{one(backstay.DrillPlan{}, "nobody"), one(backstay.DrillPlan{From: backstay.FromSnapshot}, "far")} {
		if _, err := w.runner().Plan(t.Context(), plan); !backstay.IsCode(err, backstay.CodeUnknownPoint) {
			t.Errorf("%+v: %v", plan, err)
		}
	}
}

func TestADrillThatTheHostHasNoMemoryForIsRefused(t *testing.T) {
	w := newWorld(t)
	w.must(w.catalog.Hosts.PutHost(t.Context(), backstay.Host{Name: "h1", Facts: backstay.HostFacts{MemoryFree: 4 << 30}}))
	w.params(shop()) // 3 GiB with their caps
	plan := shop()
	plan.MaxMemory = 0
	if _, err := w.runner().Plan(t.Context(), plan); !backstay.IsCode(err, backstay.CodeNoMemory) {
		t.Errorf("%v", err)
	}
}
