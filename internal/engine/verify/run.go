// Package verify reads whole recovery points through the decoder and records
// the SHA-256 of what their disks hold.
package verify

import (
	"context"
	"errors"
	"fmt"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/catalog"
	"github.com/backstay/backstay/internal/mover"
)

// Tasks are the steps of a verify job.
var Tasks = []string{"read"}

// Runner runs verify jobs.
type Runner struct {
	Catalog *catalog.Catalog
	Mover   func(backstay.HostName) (mover.Mover, error)
	Vault   func(context.Context, backstay.VaultName) (mover.VaultAccess, error)
}

// Run reads the point from the tier that the parameters name. CodeDamaged if
// what is stored is not what was written, or is not what an earlier verify of
// either tier found.
func (r *Runner) Run(ctx context.Context, run backstay.Run, params backstay.VerifyParams) error {
	point, err := r.Catalog.Points.Point(ctx, params.Point)
	if errors.Is(err, catalog.ErrNotFound) {
		return backstay.Errorf(backstay.CodeUnknownPoint, "there is no recovery point %s", params.Point)
	} else if err != nil {
		return fmt.Errorf("read point %s: %w", params.Point, err)
	}
	host, err := r.reader(ctx, point)
	if err != nil {
		return err
	}
	m, err := r.Mover(host)
	if err != nil {
		return err
	}
	request := mover.VerifyRequest{Job: run.Job().ID, Point: point.ID, Tier: params.Tier}
	if request.Tier == "" {
		request.Tier = backstay.SnapshotTier
		if point.Has(backstay.VaultTier) {
			request.Tier = backstay.VaultTier
		}
	}
	if !point.Has(request.Tier) {
		return backstay.Errorf(backstay.CodeNotRestorable, "point %s is not in the %s tier", point.ID, request.Tier)
	}
	if request.Tier == backstay.VaultTier {
		access, err := r.Vault(ctx, point.Vault)
		if err != nil {
			return err
		}
		request.Vault = &access
	}
	return run.Step(ctx, "read", func(ctx context.Context) error {
		verified, err := m.Verify(ctx, request, func(p mover.Report) { run.Progress(p.Done, p.Total) })
		if err != nil {
			return err
		}
		return r.record(ctx, run, request.Tier, verified)
	})
}

// reader is the host that reads the point: its own or, where that is in another
// region, the first of this one that can be reached.
func (r *Runner) reader(ctx context.Context, p backstay.RecoveryPoint) (backstay.HostName, error) {
	of, away := p.Vault.Origin()
	if !away {
		return p.VM.Host, nil
	}
	hosts, err := r.Catalog.Hosts.ListHosts(ctx)
	if err != nil {
		return "", fmt.Errorf("list hosts: %w", err)
	}
	for _, h := range hosts {
		if h.State == "connected" {
			return h.Name, nil
		}
	}
	return "", backstay.Errorf(backstay.CodeHostAway, "no host can be reached").Becausef("the point is of region %s, and is read by a host of this one", of.Region)
}

func (r *Runner) record(ctx context.Context, run backstay.Run, tier backstay.Tier, v mover.Verified) error {
	id := run.Job().Point
	err := r.Catalog.Points.ChangePoint(ctx, id, func(p *backstay.RecoveryPoint) error {
		for i, d := range p.Disks {
			sum, ok := v.SHA256[d.Target]
			if !ok {
				continue
			}
			if d.SHA256 != nil && *d.SHA256 != sum {
				return backstay.Errorf(backstay.CodeDamaged, "disk %s of point %s reads differently from the %s tier", d.Target, id, tier).
					Becausef("its SHA-256 is %s and was %s", sum, *d.SHA256)
			}
			p.Disks[i].SHA256 = &sum
		}
		return nil
	})
	if err != nil {
		return err
	}
	return run.Update(func(j *backstay.Job) { j.Result.Point, j.Result.SHA256, j.Stats = id, v.SHA256, v.Stats })
}
