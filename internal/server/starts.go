package server

import (
	"context"
	"fmt"
	"net/http"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/api"
)

// started is the answer of a request that starts a job, or only plans it.
type started[T any] struct {
	Status int
	Body   T
}

func (s *server) registerStarts() {
	add(s, "startBackup", s.startBackup)
	add(s, "startRestore", s.startRestore)
}

// submit queues a job in the name of the request's user.
func (s *server) submit(ctx context.Context, r JobRequest) (backstay.Job, error) {
	c := callOf(ctx)
	r.User = c.who.Name
	job, err := s.Jobs.Submit(ctx, r)
	if err == nil {
		c.job = job.ID
	}
	return job, err
}

type backupInput struct{ Body api.BackupRequest }

func (s *server) startBackup(ctx context.Context, in *backupInput) (*started[api.BackupResponse], error) {
	callOf(ctx).audited = callOf(ctx).audited || in.Body.DryRun // a dry run changes nothing
	if in.Body.Image != nil {
		return s.startImageBackup(ctx, in.Body)
	}
	of, err := s.backupSubject(ctx, in.Body.VM)
	if err != nil {
		return nil, err
	}
	out := &started[api.BackupResponse]{Status: http.StatusOK}
	r := JobRequest{Kind: backstay.JobBackup, Target: callOf(ctx).target, Alone: true}
	for _, vm := range of.vms {
		if err := s.mayBackUp(ctx, vm, in.Body.Tier, of.group); err != nil {
			return nil, err
		}
		if err := s.planBackup(ctx, vm, out, &r); err != nil {
			return nil, err
		}
	}
	out.Body.Plan = out.Body.Plans[0]
	if in.Body.DryRun {
		return out, nil
	}
	params := backstay.BackupParams{Tier: in.Body.Tier, Consistency: in.Body.Consistency, Retain: in.Body.Retain}
	if of.group == "" {
		params.VM = of.vms[0].UUID
	} else {
		params.Group, params.VMs = of.group, r.VMs
	}
	r.Params = params
	if in.Body.Tier == backstay.SnapshotTier {
		r.Vault = "" // it takes no slot in a vault that it does not write to
	}
	job, err := s.submit(ctx, r)
	if err != nil {
		return nil, err
	}
	out.Status, out.Body.Job = http.StatusAccepted, &job
	return out, nil
}

// mayBackUp refuses what a VM's method cannot do.
func (s *server) mayBackUp(ctx context.Context, of backstay.VMRef, tier backstay.Tier, group backstay.GroupName) error {
	item, err := s.item(ctx, of.UUID)
	if err != nil || item == nil || item.Method != backstay.MethodPull {
		return err
	}
	if tier == backstay.SnapshotTier {
		return backstay.Errorf(backstay.CodeUsage, "the VM %s cannot have a point in the snapshot tier", label(of)).
			Becausef("it is protected by pull, which makes no layers: its points live in the vault only").
			Do("leave out --tier, or protect the VM with --method layers")
	}
	if group != "" {
		return backstay.Errorf(backstay.CodeUsage, "the VM %s cannot be backed up with the group %s", label(of), group).
			Becausef("it is protected by pull, whose instant cannot be shared with other VMs").
			Do("protect the VM with --method layers, or take it out of the group")
	}
	return nil
}

// planBackup adds one VM to a backup that is asked for. The slots that the job
// takes are those of the first.
func (s *server) planBackup(ctx context.Context, of backstay.VMRef, out *started[api.BackupResponse], r *JobRequest) error {
	item, err := s.item(ctx, of.UUID)
	if err != nil {
		return err
	}
	if item == nil {
		return backstay.Errorf(backstay.CodeNotProtected, "the VM %s is not protected", label(of)).Becausef("it is under no policy and in no vault")
	}
	plan, err := s.Planner.PlanBackup(ctx, of.UUID)
	if err != nil {
		return err
	}
	warnings := leftOut(plan)
	if !plan.Included() {
		return noDisks(label(of), warnings)
	}
	out.Body.Plans, out.Body.Warnings = append(out.Body.Plans, plan), append(out.Body.Warnings, warnings...)
	if len(r.VMs) == 0 {
		r.Host, r.Vault = plan.VM.Host, item.Vault
	}
	r.VMs = append(r.VMs, of.UUID)
	return nil
}

// leftOut names the disks that a backup should have and cannot: not those that
// the user left out.
func leftOut(plan api.BackupPlan) []string {
	var warnings []string
	for _, d := range plan.Disks {
		if !d.Included && !d.Excluded {
			warnings = append(warnings, fmt.Sprintf("disk %s is not backed up: %s", d.Target, d.Reason))
		}
	}
	return warnings
}

type restoreInput struct{ Body api.RestoreRequest }

// startRestore plans first, and starts nothing that the pre-flight list refuses.
func (s *server) startRestore(ctx context.Context, in *restoreInput) (*started[api.RestoreResponse], error) {
	request := in.Body.RestoreRequest
	callOf(ctx).audited = callOf(ctx).audited || request.DryRun // a dry run changes nothing
	over, err := s.over(ctx, &request)
	if err != nil {
		return nil, err
	}
	p, err := s.point(ctx, string(request.Point))
	if err != nil {
		return nil, err
	}
	callOf(ctx).target += restoreTarget(request, over)
	request.Point = p.ID
	if err := mayRestore(ctx, request.Kind); err != nil {
		return nil, err
	}
	// Disks that the user left out are the pre-flight list's business.
	if allowed := readable(p); !allowed.Allowed {
		return nil, backstay.Errorf(backstay.CodeNotRestorable, "the point %s cannot be restored", p.ID).Becausef("%s", allowed.Reason)
	}
	plan, err := s.Planner.PlanRestore(ctx, request)
	if err != nil {
		return nil, err
	}
	out := &started[api.RestoreResponse]{Status: http.StatusOK, Body: api.RestoreResponse{Plan: plan}}
	if request.DryRun {
		return out, nil
	}
	if err := plan.Refusal(); err != nil {
		return nil, err
	}
	if err := mayWrite(ctx, plan); err != nil {
		return nil, err
	}
	request.Host = plan.Host // what was planned is what is carried out
	job, err := s.submit(ctx, restoreJob(request, plan))
	if err != nil {
		return nil, err
	}
	out.Status, out.Body.Job = http.StatusAccepted, &job
	return out, nil
}

// over finds the VM that was named to get the disks of another one's point.
func (s *server) over(ctx context.Context, r *backstay.RestoreRequest) (string, error) {
	if r.VM == "" || callOf(ctx).who.Point != "" { // such a token may not replace disks, and learns of no VM
		return "its VM", nil
	}
	vm, err := s.vm(ctx, string(r.VM))
	if err != nil {
		return "", err
	}
	r.VM = vm.ID
	if r.Host == "" {
		r.Host = vm.Host
	}
	return label(vm.Ref()), nil
}

// restoreTarget says for the audit log what a restore is to make of its point.
func restoreTarget(r backstay.RestoreRequest, over string) string {
	switch r.Kind {
	case backstay.CreateVM:
		return " as " + r.Name
	case backstay.ReplaceDisks:
		return " over the disks of " + over
	case backstay.RestoreDisks:
		return " to " + r.To
	}
	return ""
}

// restoreJob is the job that carries a plan out. It has the VM whose disks it
// replaces, or the new VM's identity, to itself; a restore of disks changes no VM.
func restoreJob(request backstay.RestoreRequest, plan backstay.RestorePlan) JobRequest {
	r := JobRequest{
		Kind: backstay.JobRestore, Target: string(plan.Host) + "/" + plan.Name, Point: plan.Point, Host: plan.Host, Tasks: plan.Tasks,
		Params: backstay.RestoreParams{Request: request, Plan: plan},
	}
	if plan.Kind != backstay.RestoreDisks {
		r.VMs = []backstay.VMID{plan.UUID}
	}
	if plan.Tier == backstay.VaultTier {
		r.Vault = plan.Vault
	}
	return r
}
