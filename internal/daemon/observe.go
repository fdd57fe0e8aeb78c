package daemon

import (
	"context"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/catalog"
)

// observer sees each change of a job's state: it counts for /metrics, and
// enters into the audit log what no request was there for: a job that the
// schedule queued, and how every job ended. It implements prometheus.Collector
// for what stands in the catalogue.
type observer struct {
	catalog *catalog.Catalog
	log     *slog.Logger
	now     func() time.Time

	ended   *prometheus.CounterVec   // by kind, state
	seconds *prometheus.HistogramVec // by kind
	read    *prometheus.CounterVec   // by kind
	stored  *prometheus.CounterVec   // by kind
	freeze  prometheus.Histogram
}

var (
	jobsNow     = prometheus.NewDesc("backstay_jobs", "Jobs that have not ended, by kind and state.", []string{"kind", "state"}, nil)
	pointsIn    = prometheus.NewDesc("backstay_points", "Recovery points by tier and state.", []string{"tier", "state"}, nil)
	itemsNow    = prometheus.NewDesc("backstay_protected_items", "VMs under a policy.", nil, nil)
	newestPoint = prometheus.NewDesc("backstay_newest_point_timestamp_seconds", "When the newest point of a protected VM was taken.", []string{"host", "vm"}, nil)
	vaultCopies = prometheus.NewDesc("backstay_vault_copies", "Copies of a vault that have everything and answered when it was last looked at them.", []string{"vault"}, nil)
	vaultShort  = prometheus.NewDesc("backstay_vault_short_copies", "Of how many copies a vault is short: storage units that are recorded as lost or are being filled.", []string{"vault"}, nil)
	vaultBad    = prometheus.NewDesc("backstay_vault_damaged_objects", "Copies of objects of a vault that are known to be damaged or missing.", []string{"vault"}, nil)
	unitLost    = prometheus.NewDesc("backstay_unit_lost", "1 if a storage unit of a vault is recorded as lost.", []string{"vault", "unit"}, nil)
	hostUp      = prometheus.NewDesc("backstay_host_connected", "1 if the host is connected.", []string{"host"}, nil)
)

// newObserver registers its metrics.
func newObserver(c *catalog.Catalog, log *slog.Logger, metrics *prometheus.Registry) *observer {
	o := &observer{
		catalog: c, log: log, now: time.Now,
		ended: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "backstay_jobs_ended_total", Help: "Jobs that ended since the server started, by kind and state.",
		}, []string{"kind", "state"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "backstay_job_seconds", Help: "How long jobs ran, from their start to their end.",
			Buckets: []float64{1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 12 * 3600, 24 * 3600},
		}, []string{"kind"}),
		read: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "backstay_job_read_bytes_total", Help: "Bytes that jobs read.",
		}, []string{"kind"}),
		stored: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "backstay_job_stored_bytes_total", Help: "New bytes that jobs stored in vaults.",
		}, []string{"kind"}),
		freeze: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "backstay_freeze_seconds", Help: "How long guests were frozen at most, for each backup that froze one.",
			Buckets: []float64{.05, .1, .25, .5, 1, 2, 5},
		}),
	}
	metrics.MustRegister(o.ended, o.seconds, o.read, o.stored, o.freeze, o)
	return o
}

// jobChanged is called after each change of a job's state.
func (o *observer) jobChanged(job backstay.Job) {
	kind := string(job.Kind)
	switch {
	case job.State == backstay.JobQueued && job.User == scheduler:
		o.enter(job, "queue "+kind, "ok")
	case job.State.Ended():
		o.ended.WithLabelValues(kind, string(job.State)).Inc()
		if job.Started != nil && job.Ended != nil {
			o.seconds.WithLabelValues(kind).Observe(job.Ended.Sub(*job.Started).Seconds())
		}
		o.read.WithLabelValues(kind).Add(float64(max(0, job.Stats.BytesRead)))
		o.stored.WithLabelValues(kind).Add(float64(max(0, job.Stats.BytesNew)))
		if job.Stats.FreezeMs > 0 {
			o.freeze.Observe(float64(job.Stats.FreezeMs) / 1000)
		}
		outcome := string(job.State)
		if job.State == backstay.JobFailed && job.Error != nil {
			outcome = string(job.Error.Code)
		}
		o.enter(job, "end "+kind, outcome)
	}
}

// enter appends to the audit log. What happened has happened: an entry that
// cannot be written is told in the log.
func (o *observer) enter(job backstay.Job, action, outcome string) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	entry := backstay.AuditEntry{Time: o.now().UTC(), User: job.User, Action: action, Target: job.Target, Outcome: outcome, Job: job.ID}
	if err := o.catalog.Audit.Append(ctx, entry); err != nil {
		o.log.Error("audit entry lost", "error", err, "action", action, "job", job.ID, "outcome", outcome)
	}
}

// Describe implements prometheus.Collector.
func (o *observer) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{jobsNow, pointsIn, itemsNow, newestPoint, vaultCopies, vaultShort, vaultBad, unitLost, hostUp} {
		to <- d
	}
}

// Collect implements prometheus.Collector: it asks the catalogue.
func (o *observer) Collect(to chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for _, collect := range []func(context.Context, chan<- prometheus.Metric) error{
		o.collectJobs, o.collectPoints, o.collectItems, o.collectVaults, o.collectHosts,
	} {
		if err := collect(ctx, to); err != nil {
			o.log.Error("metrics cannot be read from the catalogue", "error", err)
			return
		}
	}
}

func gauge(to chan<- prometheus.Metric, d *prometheus.Desc, value float64, labels ...string) {
	to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
}

func (o *observer) collectJobs(ctx context.Context, to chan<- prometheus.Metric) error {
	states := []backstay.JobState{backstay.JobQueued, backstay.JobRunning, backstay.JobCancelling}
	recs, err := o.catalog.Jobs.ListJobs(ctx, 0, states...)
	if err != nil {
		return err
	}
	for _, kind := range []backstay.JobKind{backstay.JobBackup, backstay.JobRestore, backstay.JobDeploy, backstay.JobExpire, backstay.JobVerify, backstay.JobRepair, backstay.JobRebuild, backstay.JobReclaim, backstay.JobRedundancy, backstay.JobPut, backstay.JobIndex, backstay.JobReplicate, backstay.JobDrill} {
		for _, state := range states {
			n := 0
			for _, rec := range recs {
				if rec.Kind == kind && rec.Job.State == state {
					n++
				}
			}
			gauge(to, jobsNow, float64(n), string(kind), string(state))
		}
	}
	return nil
}

func (o *observer) collectPoints(ctx context.Context, to chan<- prometheus.Metric) error {
	points, err := o.catalog.Points.ListPoints(ctx, "")
	if err != nil {
		return err
	}
	type where struct {
		tier  backstay.Tier
		state backstay.TierState
	}
	counts := map[where]int{{backstay.SnapshotTier, backstay.TierAvailable}: 0, {backstay.VaultTier, backstay.TierAvailable}: 0}
	for _, p := range points {
		for _, t := range p.Tiers {
			counts[where{t.Tier, t.State}]++
		}
	}
	for at, n := range counts {
		gauge(to, pointsIn, float64(n), string(at.tier), string(at.state))
	}
	return nil
}

func (o *observer) collectItems(ctx context.Context, to chan<- prometheus.Metric) error {
	items, err := o.catalog.Items.ListItems(ctx)
	if err != nil {
		return err
	}
	gauge(to, itemsNow, float64(len(items)))
	seen := map[string]bool{}
	for _, item := range items {
		// Two items may have one name: Prometheus wants each label once.
		if key := target(item.VM); item.LastPoint != nil && !seen[key] {
			seen[key] = true
			gauge(to, newestPoint, float64(item.LastPoint.Unix()), string(item.VM.Host), item.VM.Name)
		}
	}
	return nil
}

func (o *observer) collectVaults(ctx context.Context, to chan<- prometheus.Metric) error {
	all, err := o.catalog.Vaults.ListVaults(ctx)
	if err != nil {
		return err
	}
	for _, v := range all {
		h, err := o.catalog.Health.VaultHealth(ctx, v.Name)
		if err != nil {
			return err
		}
		var bad int64
		for _, c := range h.Copies {
			bad += c.Damaged + c.Missing
		}
		gauge(to, vaultCopies, float64(v.Copies), string(v.Name))
		gauge(to, vaultShort, float64(v.Short()), string(v.Name))
		gauge(to, vaultBad, float64(bad), string(v.Name))
		for _, u := range v.Units {
			lost := 0.0
			if u.Standing == backstay.Behind {
				lost = 1
			}
			gauge(to, unitLost, lost, string(v.Name), u.URL)
		}
	}
	return nil
}

func (o *observer) collectHosts(ctx context.Context, to chan<- prometheus.Metric) error {
	hosts, err := o.catalog.Hosts.ListHosts(ctx)
	if err != nil {
		return err
	}
	for _, h := range hosts {
		up := 0.0
		if h.State == "connected" {
			up = 1
		}
		gauge(to, hostUp, up, string(h.Name))
	}
	return nil
}
