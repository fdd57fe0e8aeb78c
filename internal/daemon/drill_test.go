package daemon

import (
	"context"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/catalog"
	"github.com/backstay/backstay/internal/catalog/sqlite"
	"github.com/backstay/backstay/internal/engine/drill"
	"github.com/backstay/backstay/internal/job"
)

// TestAPlanOfDrillsIsRunBySchedule: once for each interval; one that was cut off is
// tried again after a while, and one that cannot even be planned is a drill that failed.
func TestAPlanOfDrillsIsRunBySchedule(t *testing.T) {
	ctx := t.Context()
	c, err := sqlite.Open(ctx, filepath.Join(t.TempDir(), "catalog.db"))
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(err)
	t.Cleanup(func() { _ = c.Close() })
	now := time.Date(2026, 11, 23, 9, 0, 0, 0, time.UTC)
	queue, err := job.New(job.Options{Catalog: c, Region: "home", Owner: "me", Now: func() time.Time { return now },
		Runners: map[backstay.JobKind]job.Runner{backstay.JobDrill: func(context.Context, backstay.Run) error { return nil }}})
	must(err)
	r := &region{catalog: c, queue: queue, log: slog.New(slog.DiscardHandler), metrics: prometheus.NewRegistry()}
	r.drills, err = newDrillBoard(ctx, r)
	must(err)
	r.engines = &engines{drill: &drill.Runner{
		Catalog: c, Now: func() time.Time { return now }, NewName: func() string { return "x" }, Recorded: r.drills.recorded,
		Restore: func(_ context.Context, w backstay.RestoreRequest) (backstay.RestorePlan, error) {
			return backstay.RestorePlan{Host: "h1", Name: w.Name, UUID: "new", Tier: w.Tier}, nil
		},
	}}
	p := backstay.RecoveryPoint{ID: firstPoint, Vault: "main", VM: backstay.VMRef{UUID: "u", Name: "web01"}, Time: now}
	p.SetTier(backstay.SnapshotTier, backstay.TierAvailable, now)
	must(c.Points.PutPoint(ctx, p))
	plan := backstay.DrillPlan{Name: "shop", VMs: []backstay.DrillVM{{VM: "web01", UUID: "u"}}, From: backstay.FromSnapshot, Every: backstay.Duration(4 * time.Hour), Since: now}
	must(c.DrillPlans.CreateDrillPlan(ctx, plan))
	must(c.DrillPlans.CreateDrillPlan(ctx, backstay.DrillPlan{Name: "by-hand", VMs: plan.VMs}))
	tried := map[backstay.DrillName]time.Time{}
	after := func(d time.Duration) []catalog.JobRecord {
		t.Helper()
		now = now.Add(d)
		for range 3 {
			must(r.queueDrills(ctx, tried, now))
		}
		jobs, err := c.Jobs.ListJobs(ctx, 0)
		must(err)
		return jobs
	}
	ends := func(id backstay.JobID, verdict backstay.DrillVerdict) {
		t.Helper()
		_, err := c.Jobs.UpdateJob(ctx, id, 0, func(j *catalog.JobRecord) error { j.Job.State = backstay.JobFailed; return nil })
		must(err)
		record, err := c.Drills.AppendDrill(ctx, backstay.DrillRecord{ID: backstay.DrillID(id), Plan: plan, Verdict: verdict, Started: now})
		must(err)
		r.drills.recorded(record)
	}
	if jobs := after(time.Hour); len(jobs) != 0 {
		t.Fatalf("before it is due: %d jobs", len(jobs))
	}
	jobs := after(3 * time.Hour)
	if len(jobs) != 1 || jobs[0].Target != "plan:shop" || jobs[0].User != "schedule" {
		t.Fatalf("when it is due: %+v", jobs)
	}
	ends(jobs[0].ID, backstay.DrillAborted)
	if jobs = after(30 * time.Minute); len(jobs) != 1 {
		t.Errorf("soon after it was cut off: %d jobs", len(jobs))
	}
	if jobs = after(30 * time.Minute); len(jobs) != 2 {
		t.Fatalf("some time after it was cut off: %d jobs", len(jobs))
	}
	ends(jobs[0].ID, backstay.DrillFailed)
	if jobs = after(2 * time.Hour); len(jobs) != 2 {
		t.Errorf("before the next is due: %d jobs", len(jobs))
	}
	must(c.Points.DeletePoint(ctx, firstPoint))
	if jobs = after(time.Hour); len(jobs) != 2 {
		t.Errorf("without a point: %d jobs", len(jobs))
	}
	records, err := c.Drills.ListDrills(ctx, 0)
	must(err)
	if len(records) != 3 || records[0].Verdict != backstay.DrillFailed || records[0].User != "schedule" || records[0].Cause == nil || records[0].Cause.Code != backstay.CodeUnknownPoint {
		t.Errorf("%d records, the newest %+v", len(records), records[0])
	}
	families, err := r.metrics.Gather()
	must(err)
	values := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			values[f.GetName()+" "+m.GetLabel()[0].GetValue()] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	for name, want := range map[string]float64{"backstay_drills_total failed": 2, "backstay_drills_total aborted": 1, "backstay_drill_passed plan:shop": 0, "backstay_drill_timestamp_seconds plan:shop": float64(now.Unix())} {
		if got, there := values[name]; !there || got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
}
