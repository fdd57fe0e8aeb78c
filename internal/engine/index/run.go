// Package index keeps the lists of the files of VMs up to date, a point at a time, and
// asks them: which points hold a file, and what changed between two points. What files
// there are only a host finds out, in a small machine; this package says of which points
// and in which order.
package index

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/catalog"
	"github.com/backstay/backstay/internal/mover"
)

// Tasks are the steps of an index job.
var Tasks = []string{"list"}

// HashUpTo is the size in bytes up to which the content of files is hashed: reading
// more for it would take longer than a backup.
const HashUpTo = 64 << 20

// recentJobs is in how many of the newest jobs an index job that failed is looked for.
const recentJobs = 1000

// Runner runs index jobs, searches and comparisons.
type Runner struct {
	Catalog  *catalog.Catalog
	Mover    func(backstay.HostName) (mover.Indexes, error)
	Vault    func(context.Context, backstay.VaultName) (mover.VaultAccess, error)
	Services func() []mover.KeyService
}

// Run lists the files of a point, and before it those of the points that earlier jobs
// failed at.
func (r *Runner) Run(ctx context.Context, run backstay.Run, params backstay.IndexParams) error {
	point, err := r.point(ctx, params.Point)
	if err != nil {
		return err
	}
	points, err := r.Catalog.Points.ListPoints(ctx, point.VM.UUID)
	if err != nil {
		return fmt.Errorf("list points: %w", err)
	}
	jobs, err := r.Catalog.Jobs.ListJobs(ctx, recentJobs)
	if err != nil {
		return fmt.Errorf("list jobs: %w", err)
	}
	var done []backstay.Job
	for _, rec := range jobs {
		done = append(done, rec.Job)
	}
	return run.Step(ctx, "list", func(ctx context.Context) error {
		for _, p := range Missed(points, done, point) {
			if _, err := r.index(ctx, run, p, points); ctx.Err() != nil {
				return context.Cause(ctx)
			} else if err != nil && !backstay.IsCode(err, backstay.CodeConflict) {
				if err := run.Warn(fmt.Sprintf("point %s is not in the list of files: %v", p.ID, err)); err != nil {
					return err
				}
			}
		}
		listed, err := r.index(ctx, run, point, points)
		if err != nil {
			return err
		}
		return run.Update(func(j *backstay.Job) {
			j.Result.Point = point.ID
			j.Result.Changes = append([]string{fmt.Sprintf("%d files and folders, of which %d changed", listed.Files, listed.Changed)}, listed.Notes...)
			j.Stats.BytesRead = listed.Hashed
		})
	})
}

func (r *Runner) point(ctx context.Context, id backstay.PointID) (backstay.RecoveryPoint, error) {
	p, err := r.Catalog.Points.Point(ctx, id)
	if errors.Is(err, catalog.ErrNotFound) {
		return p, backstay.Errorf(backstay.CodeUnknownPoint, "there is no recovery point %s", id)
	}
	if err != nil {
		return p, fmt.Errorf("read point %s: %w", id, err)
	}
	return p, nil
}

// Missed are the points before one that an index job failed at, and that are there and
// in the same vault still, oldest first. Those before the newest that succeeded cannot
// be put into the list any more.
func Missed(points []backstay.RecoveryPoint, jobs []backstay.Job, point backstay.RecoveryPoint) []backstay.RecoveryPoint {
	var newest backstay.PointID
	for _, j := range jobs {
		if j.Kind == backstay.JobIndex && (j.State == backstay.JobSucceeded || j.State == backstay.JobWarning) && inPoints(points, j.Point) {
			newest = max(newest, j.Point)
		}
	}
	var missed []backstay.RecoveryPoint
	for _, p := range points {
		failed := slices.ContainsFunc(jobs, func(j backstay.Job) bool {
			return j.Kind == backstay.JobIndex && j.Point == p.ID && j.State == backstay.JobFailed
		})
		if failed && p.ID > newest && p.ID < point.ID && p.Vault == point.Vault && p.Has(backstay.VaultTier) {
			missed = append(missed, p)
		}
	}
	slices.SortFunc(missed, func(a, b backstay.RecoveryPoint) int { return cmp.Compare(a.ID, b.ID) })
	return missed
}

func inPoints(points []backstay.RecoveryPoint, id backstay.PointID) bool {
	return slices.ContainsFunc(points, func(p backstay.RecoveryPoint) bool { return p.ID == id })
}

// index lists one point, from its host's snapshot tier if it is there.
func (r *Runner) index(ctx context.Context, run backstay.Run, p backstay.RecoveryPoint, points []backstay.RecoveryPoint) (mover.Indexed, error) {
	m, err := r.Mover(p.VM.Host)
	if err != nil {
		return mover.Indexed{}, err
	}
	access, err := r.Vault(ctx, p.Vault)
	if err != nil {
		return mover.Indexed{}, err
	}
	request := mover.IndexRequest{Job: run.Job().ID, Point: p.ID, VM: p.VM.UUID, Tier: backstay.VaultTier, Vault: access,
		HashUpTo: HashUpTo, Services: r.Services(), Exists: inVault(points, p.Vault)}
	if p.Has(backstay.SnapshotTier) {
		request.Tier = backstay.SnapshotTier
	}
	return m.IndexPoint(ctx, request, func(p mover.Report) { run.Progress(p.Done, p.Total) })
}

// inVault are the points in a vault, in order.
func inVault(points []backstay.RecoveryPoint, vault backstay.VaultName) []backstay.PointID {
	var ids []backstay.PointID
	for _, p := range points {
		if p.Vault == vault && p.Has(backstay.VaultTier) {
			ids = append(ids, p.ID)
		}
	}
	slices.Sort(ids)
	return ids
}
