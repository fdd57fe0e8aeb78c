package restore

import (
	"context"
	"errors"
	"fmt"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/catalog"
	"github.com/backstay/backstay/internal/mover"
)

// Runner plans and runs restores.
type Runner struct {
	Catalog *catalog.Catalog
	// Mover returns the mover of a host.
	Mover func(backstay.HostName) (mover.Mover, error)
	// Vault returns what a mover needs to read a vault.
	Vault func(context.Context, backstay.VaultName) (mover.VaultAccess, error)
	// VaultProblem says why a point cannot be read from a vault, and what to be
	// warned of if it can; "" for nothing.
	VaultProblem func(context.Context, backstay.VaultName, backstay.PointID) (problem, warning string)
	// Damaged is told of copies of a vault's objects that were wrong where others were
	// right, so that they are repaired; nil tells nobody.
	Damaged func(context.Context, backstay.VaultName, []mover.DamagedCopy) error
	// Keys says how the safety points of an item hold its VM's secrets; nil holds
	// their values, as does a nil answer.
	Keys func(context.Context, backstay.ProtectedItem) (*mover.KeyPolicy, error)
	// Services are the key services that the region knows; nil for none.
	Services func() []mover.KeyService
	Now      func() time.Time
	// NewUUID and NewMAC make fresh identities.
	NewUUID func() backstay.VMID
	NewMAC  func() string
	// NewPoint makes a point's id.
	NewPoint func() backstay.PointID
}

// Plan gathers the facts and decides; it changes nothing.
func (r *Runner) Plan(ctx context.Context, request backstay.RestoreRequest) (backstay.RestorePlan, error) {
	facts, err := r.gather(ctx, request)
	if err != nil {
		return backstay.RestorePlan{}, err
	}
	plan, err := NewPlan(request, facts)
	if err != nil {
		return plan, err
	}
	return plan, r.look(ctx, &plan)
}

func (r *Runner) gather(ctx context.Context, request backstay.RestoreRequest) (Facts, error) {
	point, err := r.Catalog.Points.Point(ctx, request.Point)
	if errors.Is(err, catalog.ErrNotFound) {
		return Facts{}, backstay.Errorf(backstay.CodeUnknownPoint, "there is no recovery point %s", request.Point)
	} else if err != nil {
		return Facts{}, fmt.Errorf("read point %s: %w", request.Point, err)
	}
	name, err := r.hostFor(ctx, request, point)
	if err != nil {
		return Facts{}, err
	}
	host, err := r.Catalog.Hosts.Host(ctx, name)
	if errors.Is(err, catalog.ErrNotFound) {
		return Facts{}, backstay.Errorf(backstay.CodeUnknownHost, "there is no host %q", name).
			Becausef("the catalogue of this region does not have it")
	} else if err != nil {
		return Facts{}, fmt.Errorf("read host %s: %w", name, err)
	}
	facts := Facts{Point: point, Over: request.VM, Host: host, UUID: r.NewUUID()}
	for range point.Shape.NICs {
		facts.MACs = append(facts.MACs, r.NewMAC())
	}
	if tier, _ := ChooseTier(request, point, name); tier == backstay.VaultTier {
		facts.VaultProblem, facts.VaultWarning = r.VaultProblem(ctx, point.Vault, point.ID)
	}
	return facts, r.askHost(ctx, request, &facts)
}

// askHost asks the host itself rather than the catalogue, which may be a moment old.
func (r *Runner) askHost(ctx context.Context, request backstay.RestoreRequest, facts *Facts) error {
	all, err := r.Catalog.VMs.ListVMs(ctx)
	if err != nil {
		return fmt.Errorf("list VMs: %w", err)
	}
	for _, vm := range all {
		if vm.Host != facts.Host.Name {
			facts.VMs = append(facts.VMs, vm)
		}
	}
	m, err := r.Mover(facts.Host.Name)
	if err != nil {
		return err
	}
	vms, err := m.VMs(ctx)
	if err != nil {
		facts.Host.State, facts.Host.Reason = "unreachable", backstay.AsError(err).Error()
		return nil
	}
	for _, vm := range vms {
		vm.Host = facts.Host.Name
		facts.VMs = append(facts.VMs, vm)
	}
	if facts.Host.Facts, err = m.Facts(ctx); err != nil {
		return err
	}
	facts.Host.State = "connected"
	if err := r.seeSnapshot(ctx, m, request, facts); err != nil {
		return err
	}
	if tier, _ := ChooseTier(request, facts.Point, facts.Host.Name); request.Tier == "" && tier == backstay.VaultTier {
		facts.VaultProblem, facts.VaultWarning = r.VaultProblem(ctx, facts.Point.Vault, facts.Point.ID)
	}
	if err := r.askSecrets(ctx, m, request, facts); err != nil {
		return err
	}
	if err := r.askSource(ctx, m, request, facts); err != nil {
		return err
	}
	infos, err := m.Paths(ctx, Candidates(request, facts.Point, facts.Host))
	if err != nil {
		return err
	}
	facts.Paths = map[string]mover.PathInfo{}
	for _, info := range infos {
		facts.Paths[info.Path] = info
	}
	return nil
}

// seeSnapshot takes the point out of the snapshot tier, for this plan, if its
// host does not offer it there: somebody wrote to a layer, or it is gone. The
// catalogue cannot know; the vault tier is then what is left.
func (r *Runner) seeSnapshot(ctx context.Context, m mover.Mover, request backstay.RestoreRequest, facts *Facts) error {
	elsewhere := facts.Host.Name != facts.Point.VM.Host
	tier, _ := ChooseTier(request, facts.Point, facts.Host.Name)
	if !facts.Point.Has(backstay.SnapshotTier) || elsewhere && tier != backstay.SnapshotTier {
		return nil
	}
	if elsewhere {
		var err error
		if m, err = r.Mover(facts.Point.VM.Host); err != nil {
			facts.SourceProblem = backstay.AsError(err).Error()
			return nil
		}
	}
	points, err := m.Points(ctx)
	if err != nil && elsewhere && ctx.Err() == nil {
		facts.SourceProblem = backstay.AsError(err).Error()
		return nil
	}
	if err != nil {
		return err
	}
	for _, p := range points {
		if p.Point == facts.Point.ID {
			return nil
		}
	}
	facts.Point.DropTier(backstay.SnapshotTier)
	return nil
}

// attempt is one life of one restore job.
type attempt struct {
	*Runner
	run     backstay.Run
	mover   mover.Mover
	request mover.StageRequest
	wish    backstay.RestoreRequest // what was asked for
}

// Run carries out a plan, or goes on with it after a crash.
func (r *Runner) Run(ctx context.Context, run backstay.Run, params backstay.RestoreParams) error {
	w, err := wayOf(params.Plan.Kind)
	if err != nil {
		return err
	}
	m, err := r.Mover(params.Plan.Host)
	if err != nil {
		return err
	}
	a := &attempt{Runner: r, run: run, mover: m, request: mover.StageRequest{Job: run.Job().ID, Plan: params.Plan, Services: r.services()}, wish: params.Request}
	if params.Plan.Tier == backstay.VaultTier {
		access, err := r.Vault(ctx, params.Plan.Vault)
		switch {
		case err == nil:
			a.request.Vault = &access
		case params.Plan.Live && taskDone(run, "start"): // its export has what it needs
			if err := run.Warn("the disks are copied in with what the host knows of the vault: " + backstay.AsError(err).Error()); err != nil {
				return err
			}
		default:
			return w.end(ctx, a, err) // an earlier life may have left something
		}
	}
	if params.Plan.StreamedFrom != "" {
		stop, err := r.carry(ctx, a)
		if err != nil {
			return w.end(ctx, a, err)
		}
		defer stop()
	}
	if err := w.run(ctx, a); err != nil {
		return w.end(ctx, a, err)
	}
	return nil
}
