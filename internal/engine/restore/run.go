package restore

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/catalog"
	"github.com/backstay/backstay/internal/mover"
)

// Tasks are the steps that a restore as a new VM goes through.
var Tasks = []string{"plan", "stage", "verify", "switch", "start"}

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
	Now          func() time.Time
	// NewUUID and NewMAC make fresh identities.
	NewUUID func() backstay.VMID
	NewMAC  func() string
}

// Plan gathers the facts and decides; it changes nothing.
func (r *Runner) Plan(ctx context.Context, request backstay.RestoreRequest) (backstay.RestorePlan, error) {
	facts, err := r.gather(ctx, request)
	if err != nil {
		return backstay.RestorePlan{}, err
	}
	return NewPlan(request, facts)
}

func (r *Runner) gather(ctx context.Context, request backstay.RestoreRequest) (Facts, error) {
	point, err := r.Catalog.Points.Point(ctx, request.Point)
	if errors.Is(err, catalog.ErrNotFound) {
		return Facts{}, backstay.Errorf(backstay.CodeUnknownPoint, "there is no recovery point %s", request.Point)
	} else if err != nil {
		return Facts{}, fmt.Errorf("read point %s: %w", request.Point, err)
	}
	name := request.Host
	if name == "" {
		name = point.VM.Host
	}
	host, err := r.Catalog.Hosts.Host(ctx, name)
	if errors.Is(err, catalog.ErrNotFound) {
		return Facts{}, backstay.Errorf(backstay.CodeUnknownHost, "there is no host %q", name).
			Becausef("the catalogue of this region does not have it")
	} else if err != nil {
		return Facts{}, fmt.Errorf("read host %s: %w", name, err)
	}
	facts := Facts{Point: point, Host: host, UUID: r.NewUUID()}
	for range point.Shape.NICs {
		facts.MACs = append(facts.MACs, r.NewMAC())
	}
	if ChooseTier(request, point, name) == backstay.VaultTier {
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
	if err := seeSnapshot(ctx, m, facts); err != nil {
		return err
	}
	if request.Tier == "" && ChooseTier(request, facts.Point, facts.Host.Name) == backstay.VaultTier {
		facts.VaultProblem, facts.VaultWarning = r.VaultProblem(ctx, facts.Point.Vault, facts.Point.ID)
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
func seeSnapshot(ctx context.Context, m mover.Mover, facts *Facts) error {
	if !facts.Point.Has(backstay.SnapshotTier) || facts.Host.Name != facts.Point.VM.Host {
		return nil
	}
	points, err := m.Points(ctx)
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

// RefusedError turns the refused checks of a plan into one error that names
// them all; nil if none refuses.
func RefusedError(plan backstay.RestorePlan) error {
	refused := plan.Refused()
	if len(refused) == 0 {
		return nil
	}
	var causes []string
	for _, c := range refused {
		causes = append(causes, c.Name+": "+c.Detail)
	}
	return backstay.Errorf(backstay.CodePreflight, "the restore as %s would fail, so nothing was started", plan.Name).
		Becausef("%s", strings.Join(causes, "; "))
}

// Run carries out a plan, or goes on with it after a crash.
func (r *Runner) Run(ctx context.Context, run backstay.Run, params backstay.RestoreParams) error {
	m, err := r.Mover(params.Plan.Host)
	if err != nil {
		return err
	}
	request := mover.StageRequest{Job: run.Job().ID, Plan: params.Plan}
	if params.Plan.Tier == backstay.VaultTier {
		access, err := r.Vault(ctx, params.Plan.Vault)
		if err != nil {
			return r.end(ctx, run, m, request, err) // an earlier life may have left something
		}
		request.Vault = &access
	}
	if err := r.steps(ctx, run, m, request); err != nil {
		return r.end(ctx, run, m, request, err)
	}
	return nil
}

func (r *Runner) steps(ctx context.Context, run backstay.Run, m mover.Mover, request mover.StageRequest) error {
	plan := request.Plan
	if err := run.Step(ctx, "plan", func(ctx context.Context) error { return r.recheck(ctx, run, request) }); err != nil {
		return err
	}
	staged, err := mover.Phases(ctx, run, []string{"stage", "verify"},
		func(ctx context.Context, progress mover.Progress) (mover.Staged, error) {
			if stagedBefore(run) {
				return mover.Staged{Paths: paths(plan)}, nil
			}
			return m.Stage(ctx, request, progress)
		}, nil)
	if err != nil {
		return err
	}
	err = run.Update(func(j *backstay.Job) {
		j.Result.Disks = paths(plan)
		if staged.BytesRead > 0 {
			j.Stats.BytesRead = staged.BytesRead
		}
		if staged.BytesWritten > 0 {
			j.Stats.BytesNew = staged.BytesWritten
		}
	})
	if err != nil {
		return err
	}
	if err := run.Step(ctx, "switch", func(ctx context.Context) error { return define(ctx, run, m, request) }); err != nil {
		return err
	}
	if err := run.Update(func(j *backstay.Job) {
		j.Result.VM = &backstay.VMRef{Name: plan.Name, UUID: plan.UUID, Host: plan.Host}
	}); err != nil {
		return err
	}
	return run.Step(ctx, "start", func(ctx context.Context) error { return start(ctx, run, m, request) })
}

// stagedBefore tells whether an earlier life of the job wrote and verified all
// disks: they are not written twice.
func stagedBefore(run backstay.Run) bool {
	for _, task := range run.Job().Tasks {
		if task.Name == "verify" {
			return task.State == backstay.TaskSucceeded
		}
	}
	return false
}

// recheck repeats the pre-flight checks: the job may have waited since.
func (r *Runner) recheck(ctx context.Context, run backstay.Run, request mover.StageRequest) error {
	plan := request.Plan
	facts, err := r.gather(ctx, backstay.RestoreRequest{Point: plan.Point, Tier: plan.Tier, Host: plan.Host, Name: plan.Name})
	if err != nil {
		return err
	}
	if facts.VaultWarning != "" {
		if err := run.Warn(facts.VaultWarning); err != nil {
			return err
		}
	}
	var planned []string
	for _, d := range plan.Disks {
		planned = append(planned, d.Path)
	}
	m, err := r.Mover(plan.Host)
	if err != nil {
		return err
	}
	infos, err := m.Paths(ctx, planned)
	if err != nil {
		return err
	}
	for _, info := range infos {
		facts.Paths[info.Path] = info
	}
	now := plan
	now.Preflight = append([]backstay.Check{checkTier(facts, plan), checkHost(facts), checkName(facts, plan), checkUUID(facts, plan),
		checkMACs(backstay.RestoreRequest{}, facts, plan), checkRoom(facts, plan)}, checkDisks(facts, plan)...)
	return RefusedError(now)
}

// define creates the VM, and warns of what it does not have of its source.
func define(ctx context.Context, run backstay.Run, m mover.Mover, request mover.StageRequest) error {
	defined, err := m.Define(ctx, request)
	if err != nil {
		return err
	}
	for _, warning := range defined.Warnings {
		if err := run.Warn(warning); err != nil {
			return err
		}
	}
	return nil
}

func start(ctx context.Context, run backstay.Run, m mover.Mover, request mover.StageRequest) error {
	if !request.Plan.Start {
		return nil
	}
	up, err := m.Start(ctx, request)
	if err != nil {
		return err
	}
	return run.Update(func(j *backstay.Job) { j.Result.UpSeconds = up.Seconds })
}

func paths(plan backstay.RestorePlan) []string {
	var all []string
	for _, d := range plan.Disks {
		all = append(all, d.Path)
	}
	return all
}

// end decides what of a failed restore stays. Creating the VM failed: the disks
// are complete and verified, so they stay and the job says where (row B1g). The
// VM did not start or come up: it stays, for a look. Anything earlier, or a
// cancel: nothing stays.
func (r *Runner) end(ctx context.Context, run backstay.Run, m mover.Mover, request mover.StageRequest, failure error) error {
	if errors.Is(context.Cause(ctx), backstay.ErrStopping) {
		return failure
	}
	cancelled := errors.Is(context.Cause(ctx), backstay.ErrCancelled)
	keeps := backstay.IsCode(failure, backstay.CodeCreateVMFailed) ||
		backstay.IsCode(failure, backstay.CodeStartFailed) || backstay.IsCode(failure, backstay.CodeNotUp)
	if keeps && !cancelled {
		return failure
	}
	if err := m.Abandon(context.WithoutCancel(ctx), request); err != nil {
		return fmt.Errorf("%w (and what it left could not be removed yet: %v)", failure, err)
	}
	if err := run.Update(func(j *backstay.Job) { j.Result = backstay.JobResult{} }); err != nil {
		return err
	}
	return failure
}
