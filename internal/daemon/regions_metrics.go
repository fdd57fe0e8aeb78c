package daemon

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

var (
	regionUp   = prometheus.NewDesc("backstay_region_connected", "1 if the paired region's server answered when it was last asked.", []string{"region"}, nil)
	regionSeen = prometheus.NewDesc("backstay_region_seen_timestamp_seconds", "When the paired region's server answered or called last.", []string{"region"}, nil)
)

// Describe implements prometheus.Collector.
func (g *regions) Describe(to chan<- *prometheus.Desc) {
	to <- regionUp
	to <- regionSeen
}

// Collect implements prometheus.Collector: it tells what was last seen.
func (g *regions) Collect(to chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	all, err := g.Regions(ctx)
	if err != nil {
		g.log.Error("metrics cannot be read from the catalogue", "error", err)
		return
	}
	for _, r := range all {
		up := 0.0
		if r.State == "connected" {
			up = 1
		}
		gauge(to, regionUp, up, string(r.Name))
		if r.LastSeen != nil {
			gauge(to, regionSeen, float64(r.LastSeen.Unix()), string(r.Name))
		}
	}
}
