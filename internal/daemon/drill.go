package daemon

import (
	"context"
	"crypto/rand"
	"fmt"
	"math/big"
	"strings"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/client_golang/prometheus"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/engine/drill"
	"github.com/backstay/backstay/internal/job"
	"github.com/backstay/backstay/internal/server"
)

// drillTick is how late a drill may be.
const drillTick = 15 * time.Second

func (r *region) driller(e *engines) *drill.Runner {
	return &drill.Runner{
		Catalog: r.catalog, Mover: r.hosts.mover, Vault: r.vaults.access, Services: r.keyServices, Region: backstay.RegionName(r.config.Region), Now: utcNow,
		Restore: func(ctx context.Context, request backstay.RestoreRequest) (backstay.RestorePlan, error) {
			return e.restore.Plan(ctx, request)
		},
		Wait: func(ctx context.Context, d time.Duration) error {
			select {
			case <-time.After(d):
				return nil
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		},
		Pick: func(n int) int {
			// crypto/rand never fails on the systems that Go supports.
			picked, _ := rand.Int(rand.Reader, big.NewInt(int64(n)))
			return int(picked.Int64())
		},
		NewName:  func() string { return strings.ToLower(ulid.Make().String()[18:]) },
		Recorded: r.drills.recorded,
	}
}

// runDrill runs a drill, and has the host's VMs in the catalogue as they are then.
func (e *engines) runDrill(ctx context.Context, run backstay.Run, params backstay.DrillParams) error {
	err := e.drill.Run(ctx, run, params)
	if refreshErr := e.region.hosts.refresh(context.WithoutCancel(ctx), params.Host); refreshErr != nil {
		// The host's own reports will bring them.
		e.region.log.Warn("look at the host after a drill", "host", params.Host, "error", refreshErr)
	}
	return err
}

// PlanDrill implements server.Drills.
func (e *engines) PlanDrill(ctx context.Context, plan backstay.DrillPlan) (backstay.DrillParams, error) {
	return e.drill.Plan(ctx, plan)
}

// scheduleDrills queues the drills that are due until ctx ends.
func (r *region) scheduleDrills(ctx context.Context) {
	tried := map[backstay.DrillName]time.Time{}
	r.every(ctx, drillTick, func() error { return r.queueDrills(ctx, tried, utcNow()) })
}

// queueDrills queues a drill of each plan that is due and has none waiting or running.
// One that cannot be planned is recorded as failed: that it could not be done is what
// the drill showed.
func (r *region) queueDrills(ctx context.Context, tried map[backstay.DrillName]time.Time, now time.Time) error {
	plans, err := r.catalog.DrillPlans.ListDrillPlans(ctx)
	if err != nil {
		return fmt.Errorf("list plans of drills: %w", err)
	}
	for _, plan := range plans {
		if plan.Every == 0 {
			continue
		}
		due, _ := plan.Due(r.drills.last(plan.Name), now)
		if last := tried[plan.Name]; !due || now.Sub(last) < drill.Retry(plan.Every) && !last.After(now) {
			continue
		}
		if pending, err := r.drillPending(ctx, plan.Name); err != nil || pending {
			if err != nil {
				return err
			}
			continue
		}
		tried[plan.Name] = now
		if err := r.queueDrill(ctx, plan); err != nil {
			return err
		}
	}
	return nil
}

func drillTarget(name backstay.DrillName) string { return "plan:" + string(name) }

func (r *region) drillPending(ctx context.Context, name backstay.DrillName) (bool, error) {
	jobs, err := r.queue.List(ctx, 0, backstay.JobQueued, backstay.JobRunning, backstay.JobCancelling)
	if err != nil {
		return false, fmt.Errorf("list jobs: %w", err)
	}
	for _, j := range jobs {
		if j.Kind == backstay.JobDrill && j.Target == drillTarget(name) {
			return true, nil
		}
	}
	return false, nil
}

func (r *region) queueDrill(ctx context.Context, plan backstay.DrillPlan) error {
	params, err := r.engines.drill.Plan(ctx, plan)
	if err != nil {
		if ctx.Err() != nil {
			return err
		}
		return r.engines.drill.Refused(ctx, backstay.DrillID(ulid.Make().String()), plan, err)
	}
	request := server.DrillJob(drillTarget(plan.Name), params)
	request.User = scheduler
	_, err = r.queue.Submit(ctx, job.Request(request))
	return err
}

// drillBoard knows what drills found last, for metrics, the log and the schedule.
type drillBoard struct {
	region *region

	mu sync.Mutex
	// newest are the newest records that show something, by subject, and ended counts all
	// by verdict. Guarded by mu.
	newest map[string]backstay.DrillRecord
	ended  map[backstay.DrillVerdict]int
}

var (
	drillsEnded  = prometheus.NewDesc("backstay_drills_total", "Drills that were recorded, by verdict.", []string{"verdict"}, nil)
	drillPassed  = prometheus.NewDesc("backstay_drill_passed", "1 if the newest drill of a plan, or of a VM alone, passed.", []string{"subject"}, nil)
	drillAt      = prometheus.NewDesc("backstay_drill_timestamp_seconds", "When that drill began.", []string{"subject"}, nil)
	drillRTO     = prometheus.NewDesc("backstay_drill_rto_seconds", "How long it took from the begin of that drill until all its VMs were healthy.", []string{"subject"}, nil)
	drillRPO     = prometheus.NewDesc("backstay_drill_rpo_seconds", "How old the oldest of its points was.", []string{"subject"}, nil)
	drillCleaned = prometheus.NewDesc("backstay_drill_cleaned", "1 if nothing of that drill is left.", []string{"subject"}, nil)
)

// newDrillBoard reads what there is.
func newDrillBoard(ctx context.Context, r *region) (*drillBoard, error) {
	b := &drillBoard{region: r, newest: map[string]backstay.DrillRecord{}, ended: map[backstay.DrillVerdict]int{}}
	for _, v := range []backstay.DrillVerdict{backstay.DrillPassed, backstay.DrillFailed, backstay.DrillAborted} {
		b.ended[v] = 0
	}
	records, err := r.catalog.Drills.ListDrills(ctx, 0)
	if err != nil {
		return nil, fmt.Errorf("read the records of drills: %w", err)
	}
	for i := range records {
		b.enter(records[len(records)-1-i])
	}
	r.metrics.MustRegister(b)
	return b, nil
}

// drillSubject is what a drill is of: its plan, or else its VM.
func drillSubject(r backstay.DrillRecord) string {
	switch {
	case r.Plan.Name != "":
		return drillTarget(r.Plan.Name)
	case len(r.VMs) > 0:
		return target(r.VMs[0].Source)
	}
	return "unknown"
}

func (b *drillBoard) enter(r backstay.DrillRecord) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ended[r.Verdict]++
	if r.Verdict != backstay.DrillAborted {
		b.newest[drillSubject(r)] = withoutPicture(r)
	}
}

// withoutPicture keeps what metrics need.
func withoutPicture(r backstay.DrillRecord) backstay.DrillRecord {
	r.VMs, r.Steps = nil, nil
	return r
}

// recorded is told of each record. One that did not pass is an event.
func (b *drillBoard) recorded(r backstay.DrillRecord) {
	b.enter(r)
	args := []any{"drill", r.ID, "subject", drillSubject(r), "verdict", r.Verdict, "cleaned", r.Cleaned}
	if r.Cause != nil {
		args = append(args, "error", r.Cause)
	}
	if r.Verdict == backstay.DrillPassed {
		b.region.log.Info("a drill passed", args...)
		return
	}
	b.region.log.Error("a drill did not pass", args...)
}

// last is when a plan was run last and showed something; nil for never.
func (b *drillBoard) last(name backstay.DrillName) *time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	if r, ok := b.newest[drillTarget(name)]; ok {
		return &r.Started
	}
	return nil
}

// Describe implements prometheus.Collector.
func (b *drillBoard) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{drillsEnded, drillPassed, drillAt, drillRTO, drillRPO, drillCleaned} {
		to <- d
	}
}

// Collect implements prometheus.Collector.
func (b *drillBoard) Collect(to chan<- prometheus.Metric) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for verdict, n := range b.ended {
		to <- prometheus.MustNewConstMetric(drillsEnded, prometheus.CounterValue, float64(n), string(verdict))
	}
	for subject, r := range b.newest {
		gauge(to, drillPassed, truth(r.Verdict == backstay.DrillPassed), subject)
		gauge(to, drillCleaned, truth(r.Cleaned), subject)
		gauge(to, drillAt, float64(r.Started.Unix()), subject)
		if r.RTOSeconds != nil {
			gauge(to, drillRTO, *r.RTOSeconds, subject)
		}
		if r.RPOSeconds != nil {
			gauge(to, drillRPO, *r.RPOSeconds, subject)
		}
	}
}

func truth(is bool) float64 {
	if is {
		return 1
	}
	return 0
}
