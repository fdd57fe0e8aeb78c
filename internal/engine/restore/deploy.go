package restore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/catalog"
	"github.com/backstay/backstay/internal/mover"
)

// DeployTasks are the steps of a deploy.
var DeployTasks = []string{"plan", "switch", "start"}

// PlanDeploy decides how to make a VM of restored disks; it changes nothing. The
// plan's parameters come beside it.
func (r *Runner) PlanDeploy(ctx context.Context, request backstay.DeployRequest) (backstay.RestorePlan, []backstay.Parameter, error) {
	if err := checkProbe(request.Probe); err != nil {
		return backstay.RestorePlan{}, nil, err
	}
	host, described, err := r.find(ctx, request)
	if err != nil {
		return backstay.RestorePlan{}, nil, err
	}
	facts := Facts{Host: host, Point: backstay.RecoveryPoint{Shape: described.Shape}}
	var disks []string
	for _, d := range described.Shape.Disks {
		if d.Source != "" {
			disks = append(disks, d.Source)
		}
	}
	if err := r.askDeployHost(ctx, &facts, disks); err != nil {
		return backstay.RestorePlan{}, nil, err
	}
	return NewDeployPlan(request, described, facts), described.Parameters, nil
}

// find asks the host that is named, or all of them, for the folder.
func (r *Runner) find(ctx context.Context, request backstay.DeployRequest) (backstay.Host, backstay.Deployment, error) {
	hosts, err := r.Catalog.Hosts.ListHosts(ctx)
	if err != nil {
		return backstay.Host{}, backstay.Deployment{}, fmt.Errorf("list hosts: %w", err)
	}
	if request.Host != "" {
		hosts = slices.DeleteFunc(hosts, func(h backstay.Host) bool { return h.Name != request.Host })
		if len(hosts) == 0 {
			return backstay.Host{}, backstay.Deployment{}, backstay.Errorf(backstay.CodeUnknownHost, "there is no host %q", request.Host).
				Becausef("the catalogue of this region does not have it")
		}
	}
	var found []backstay.Host
	var described backstay.Deployment
	var last error
	for _, host := range hosts {
		d, err := r.describe(ctx, host.Name, request)
		if err == nil {
			found, described = append(found, host), d
			continue
		}
		if last == nil || !backstay.IsCode(err, backstay.CodeNoTemplate) {
			last = err // a folder that is there with a value that is not valid, rather than none
		}
	}
	switch {
	case len(found) == 1:
		return found[0], described, nil
	case len(found) > 1:
		return backstay.Host{}, described, backstay.Errorf(backstay.CodeUsage, "more than one host has the folder %s", request.Folder).
			Becausef("%s and %s have", found[0].Name, found[1].Name).Do("say which: --host %s", found[0].Name)
	case last == nil:
		last = backstay.Errorf(backstay.CodeUnknownHost, "the region has no host")
	}
	return backstay.Host{}, described, last
}

func (r *Runner) describe(ctx context.Context, host backstay.HostName, request backstay.DeployRequest) (backstay.Deployment, error) {
	m, err := r.Mover(host)
	if err != nil {
		return backstay.Deployment{}, err
	}
	return m.Describe(ctx, mover.DeployRequest{Folder: request.Folder, Set: request.Set})
}

// askDeployHost is askHost without a point.
func (r *Runner) askDeployHost(ctx context.Context, facts *Facts, disks []string) error {
	all, err := r.Catalog.VMs.ListVMs(ctx)
	if err != nil && !errors.Is(err, catalog.ErrNotFound) {
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
		return err
	}
	for _, vm := range vms {
		vm.Host = facts.Host.Name
		facts.VMs = append(facts.VMs, vm)
	}
	if facts.Host.Facts, err = m.Facts(ctx); err != nil {
		return err
	}
	facts.Host.State = "connected"
	infos, err := m.Paths(ctx, disks)
	if err != nil {
		return err
	}
	facts.Paths = map[string]mover.PathInfo{}
	for _, info := range infos {
		facts.Paths[info.Path] = info
	}
	return nil
}

// NewDeployPlan decides how to make the VM that was described. It is pure; the
// plan is returned also when checks refuse it.
func NewDeployPlan(r backstay.DeployRequest, d backstay.Deployment, f Facts) backstay.RestorePlan {
	plan := backstay.RestorePlan{
		Kind: backstay.DeployPlan, Point: d.Point, TierReason: "the disks are restored already", Host: f.Host.Name, Source: d.Source,
		Name: d.Shape.Name, UUID: d.Shape.ID, Firmware: d.Shape.Firmware, TPM: d.Shape.TPM, Folder: d.Folder,
		Start: d.Start && !r.NoStart, Probe: r.Probe, Tasks: DeployTasks, Differences: d.Differences,
	}
	if plan.Differences == nil {
		plan.Differences = []backstay.Difference{}
	}
	if plan.Probe.Kind == "" {
		plan.Probe.Kind = backstay.ProbeAgent
		if d.Shape.Agent == backstay.AgentNone {
			plan.Probe.Kind = backstay.ProbeNone
		}
	}
	for _, disk := range d.Shape.Disks {
		if disk.Source != "" {
			plan.Disks = append(plan.Disks, backstay.PlannedDisk{Target: disk.Target, Path: disk.Source, Format: disk.Format, Action: backstay.DiskKept})
		}
	}
	for _, nic := range d.Shape.NICs {
		plan.NICs = append(plan.NICs, backstay.PlannedNIC{MAC: nic.MAC, Kind: nic.Kind, Network: nic.Network})
	}
	plan.Preflight = deployChecks(r, d, f, plan)
	return plan
}

func deployChecks(r backstay.DeployRequest, d backstay.Deployment, f Facts, plan backstay.RestorePlan) []backstay.Check {
	checks := []backstay.Check{checkHost(f), instruct(checkName(f, plan), "name=NEW"), instruct(checkUUID(f, plan), "uuid="+"NEW"), checkDeployMACs(f, plan)}
	for _, c := range checkNetworks(backstay.RestoreRequest{}, f, plan) {
		checks = append(checks, instruct(c, "nic.0.network=NEW"))
	}
	checks = append(checks, checkRestored(d, f, plan)...)
	checks = append(checks, instruct(checkMachine(f, plan), "machine=NEW"), checkFirmware(f, plan))
	if plan.TPM {
		checks = append(checks, checkTPM(f))
	}
	checks = append(checks, checkGroup(r, d, f, plan), checkHosts(d, f))
	if memory, known := checkMemory(f, plan); known {
		checks = append(checks, instruct(memory, "memory=SIZE"))
	}
	return checks
}

// instruct gives a check of a restore the way out that a deploy has.
func instruct(c backstay.Check, set string) backstay.Check {
	if !c.OK {
		c.Action = "choose another value: --set " + set
	}
	return c
}

// checkDeployMACs finds addresses that another VM has.
func checkDeployMACs(f Facts, plan backstay.RestorePlan) backstay.Check {
	c := checkMACs(backstay.RestoreRequest{}, f, plan)
	if c.OK {
		c.Detail = fmt.Sprintf("%d addresses that nobody uses", len(plan.NICs))
	}
	return instruct(c, "nic.0.mac=NEW")
}

func checkRestored(d backstay.Deployment, f Facts, plan backstay.RestorePlan) []backstay.Check {
	var checks []backstay.Check
	for _, p := range d.Problems {
		checks = append(checks, refuse("disk", backstay.CodeDiskChanged, "%s", p))
	}
	for _, disk := range plan.Disks {
		if users := f.Paths[disk.Path].UsedBy; len(users) > 0 {
			checks = append(checks, refuseDo("disk", backstay.CodeDiskInUse, "take back what was made of them before: `backstay restore undo JOB`, or remove that VM",
				"%s is a disk of %s", disk.Path, strings.Join(users, ", ")))
		}
	}
	if len(checks) == 0 {
		checks = append(checks, ok("disk", "%d restored disks, which nobody uses", len(plan.Disks)))
	}
	return checks
}

// checkGroup keeps VMs that must not fall together from one host, over all hosts
// of the region: it says where there is none of the group yet.
func checkGroup(r backstay.DeployRequest, d backstay.Deployment, f Facts, plan backstay.RestorePlan) backstay.Check {
	if d.AntiAffinityGroup == "" {
		return ok("anti-affinity", "the VM is in no group")
	}
	var here, elsewhere []string
	for _, vm := range f.VMs {
		switch {
		case vm.AntiAffinityGroup != d.AntiAffinityGroup || vm.ID == plan.UUID:
		case vm.Host == plan.Host:
			here = append(here, vm.Name)
		default:
			elsewhere = append(elsewhere, string(vm.Host)+"/"+vm.Name)
		}
	}
	switch {
	case len(here) > 0 && r.Force:
		return ok("anti-affinity", "host %s has %s of the group %s; forced", plan.Host, strings.Join(here, ", "), d.AntiAffinityGroup)
	case len(here) > 0:
		return refuseDo("anti-affinity", backstay.CodeAntiAffinity, "deploy on another host, take the VM out of the group (--set antiAffinityGroup=), or insist: --force",
			"host %s has %s of the group %s already (elsewhere: %s)", plan.Host, strings.Join(here, ", "), d.AntiAffinityGroup, listOrNone(elsewhere))
	}
	return ok("anti-affinity", "no other VM of the group %s is on host %s (elsewhere: %s)", d.AntiAffinityGroup, plan.Host, listOrNone(elsewhere))
}

func checkHosts(d backstay.Deployment, f Facts) backstay.Check {
	if len(d.HostGroup) == 0 || slices.Contains(d.HostGroup, f.Host.Name) {
		return ok("hosts", "the VM may be on host %s", f.Host.Name)
	}
	return refuse("hosts", backstay.CodeHostGroup, "the VM may be on %v only, and host %s is none of them", d.HostGroup, f.Host.Name)
}

// RunDeploy carries out a plan of a deploy, or goes on with it after a crash.
func (r *Runner) RunDeploy(ctx context.Context, run backstay.Run, params backstay.DeployParams) error {
	plan := params.Plan
	m, err := r.Mover(plan.Host)
	if err != nil {
		return err
	}
	err = r.deploy(ctx, run, m, params)
	if err == nil || errors.Is(context.Cause(ctx), backstay.ErrStopping) {
		return err
	}
	cancelled := errors.Is(context.Cause(ctx), backstay.ErrCancelled)
	if !cancelled && (backstay.IsCode(err, backstay.CodeStartFailed) || backstay.IsCode(err, backstay.CodeNotUp)) {
		return err // the VM stays, for a look
	}
	if undo := m.Abandon(context.WithoutCancel(ctx), mover.StageRequest{Job: run.Job().ID, Plan: plan}); undo != nil {
		return fmt.Errorf("%w (and what it left could not be removed yet: %v)", err, undo)
	}
	if update := run.Update(func(j *backstay.Job) { j.Result = backstay.JobResult{} }); update != nil {
		return update
	}
	return err
}

func (r *Runner) deploy(ctx context.Context, run backstay.Run, m mover.Mover, params backstay.DeployParams) error {
	plan, wish := params.Plan, params.Request
	wish.Host = plan.Host
	err := run.Step(ctx, "plan", func(ctx context.Context) error {
		now, _, err := r.PlanDeploy(ctx, wish)
		if err != nil {
			return err
		}
		return now.Refusal()
	})
	if err != nil {
		return err
	}
	err = run.Step(ctx, "switch", func(ctx context.Context) error {
		request := mover.DeployRequest{Job: run.Job().ID, Folder: plan.Folder, Set: wish.Set, Plan: plan}
		if err := m.Deploy(ctx, request); err != nil {
			return err
		}
		return run.Update(func(j *backstay.Job) {
			j.Result.VM = &backstay.VMRef{Name: plan.Name, UUID: plan.UUID, Host: plan.Host}
			j.Result.Disks, j.Result.Folder, j.Result.UndoUntil = paths(plan), plan.Folder, r.undoUntil()
		})
	})
	if err != nil {
		return err
	}
	return run.Step(ctx, "start", func(ctx context.Context) error {
		return start(ctx, run, m, mover.StageRequest{Job: run.Job().ID, Plan: plan})
	})
}
