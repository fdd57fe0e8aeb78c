package daemon

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	backstay "github.com/backstay/backstay"
)

var (
	replicationLabels  = []string{"vault", "region"}
	replicationLag     = prometheus.NewDesc("backstay_replication_lag_seconds", "How much older the newest point is that the paired region has than the newest point of the vault.", replicationLabels, nil)
	replicationPoints  = prometheus.NewDesc("backstay_replication_points", "Points of a replicated vault, and those of them that are whole in the paired region.", append([]string{"state"}, replicationLabels...), nil)
	replicationBacklog = prometheus.NewDesc("backstay_replication_backlog_bytes", "What is known to be missing in the paired region.", replicationLabels, nil)
	replicationObjects = prometheus.NewDesc("backstay_replication_backlog_objects", "How many objects are known to be missing in the paired region.", replicationLabels, nil)
	replicationSent    = prometheus.NewDesc("backstay_replication_sent_bytes_total", "Bytes that were sent to the paired region since the server started.", replicationLabels, nil)
)

// Describe implements prometheus.Collector.
func (p *replication) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{replicationLag, replicationPoints, replicationBacklog, replicationObjects, replicationSent} {
		to <- d
	}
}

// Collect implements prometheus.Collector.
func (p *replication) Collect(to chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	all, err := p.Replications(ctx)
	if err != nil {
		p.log.Error("metrics of replication cannot be read from the catalogue", "error", err)
		return
	}
	for _, r := range all {
		vault, region := string(r.Vault), string(r.Region)
		gauge(to, replicationLag, float64(r.LagSeconds), vault, region)
		gauge(to, replicationPoints, float64(r.Points), "all", vault, region)
		gauge(to, replicationPoints, float64(r.Available), "available", vault, region)
		gauge(to, replicationBacklog, float64(r.BacklogBytes), vault, region)
		gauge(to, replicationObjects, float64(r.BacklogObjects), vault, region)
		sent := p.runner.Sent(backstay.ReplicateParams{Vault: r.Vault, Region: r.Region})
		to <- prometheus.MustNewConstMetric(replicationSent, prometheus.CounterValue, float64(sent), vault, region)
	}
}
