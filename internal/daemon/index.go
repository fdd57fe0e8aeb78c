package daemon

import (
	"context"
	"fmt"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/catalog"
	"github.com/backstay/backstay/internal/engine/index"
	"github.com/backstay/backstay/internal/job"
	"github.com/backstay/backstay/internal/mover"
	"github.com/backstay/backstay/internal/server"
)

// indexTick is how often it is looked whether a point is to be listed.
const indexTick = 5 * time.Second

// recentJobs are the jobs that are looked at for that, the newest ones.
const recentJobs = 1000

func (r *region) indexer() *index.Runner {
	return &index.Runner{
		Catalog: r.catalog, Vault: r.vaults.access, Services: r.keyServices,
		Mover: func(name backstay.HostName) (mover.Indexes, error) { return r.hosts.mover(name) },
	}
}

// runIndex keeps sweeps off the host meanwhile, though the job has no slot there: it
// must not take one from a backup.
func (e *engines) runIndex(ctx context.Context, run backstay.Run, params backstay.IndexParams) error {
	if p, err := e.region.catalog.Points.Point(context.WithoutCancel(ctx), params.Point); err == nil {
		defer e.region.hosts.enter(p.VM.Host)()
	}
	return e.index.Run(ctx, run, params)
}

// scheduleIndexes queues the listing of new points until ctx ends.
func (r *region) scheduleIndexes(ctx context.Context) {
	if r.config.Files.Index == "off" {
		return
	}
	r.every(ctx, indexTick, func() error { return r.queueIndexes(ctx) })
}

func (r *region) queueIndexes(ctx context.Context) error {
	s, err := r.indexState(ctx)
	if err != nil {
		return err
	}
	for _, p := range index.Due(s) {
		_, err := r.queue.Submit(ctx, job.Request{
			Kind: backstay.JobIndex, Target: target(p.VM), Point: p.ID, User: scheduler,
			Params: backstay.IndexParams{Point: p.ID, VM: p.VM.UUID},
		})
		if err != nil {
			return fmt.Errorf("queue the list of files of point %s: %w", p.ID, err)
		}
	}
	return nil
}

func (r *region) indexState(ctx context.Context) (s index.State, err error) {
	if s.Items, err = r.catalog.Items.ListItems(ctx); err != nil {
		return s, fmt.Errorf("list protected items: %w", err)
	}
	if s.Policies, err = r.catalog.Policies.ListPolicies(ctx); err != nil {
		return s, fmt.Errorf("list policies: %w", err)
	}
	if s.Points, err = r.catalog.Points.ListPoints(ctx, ""); err != nil {
		return s, fmt.Errorf("list points: %w", err)
	}
	s.Points = backstay.OwnPoints(s.Points)
	recs, err := r.catalog.Jobs.ListJobs(ctx, recentJobs)
	if err != nil {
		return s, fmt.Errorf("list jobs: %w", err)
	}
	hosts := map[backstay.JobID]backstay.HostName{}
	for _, rec := range recs {
		s.Jobs = append(s.Jobs, rec.Job)
		if hosts[rec.ID] = rec.Host; rec.Kind == backstay.JobIndex {
			hosts[rec.ID] = hostOf(rec, s.Points)
		}
	}
	s.HostOf = func(j backstay.Job) backstay.HostName { return hosts[j.ID] }
	return s, nil
}

// hostOf is the host on which an index job works.
func hostOf(rec catalog.JobRecord, points []backstay.RecoveryPoint) backstay.HostName {
	for _, p := range points {
		if p.ID == rec.Point {
			return p.VM.Host
		}
	}
	return ""
}

// fileLists shows the engine as the server wants to see it.
type fileLists struct{ *index.Runner }

// Find implements server.FileLists.
func (l fileLists) Find(ctx context.Context, f server.FileFind) (mover.FoundFiles, error) {
	return l.Runner.Find(ctx, index.Find(f))
}
