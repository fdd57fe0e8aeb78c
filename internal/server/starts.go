package server

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"

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
	vm, err := s.vm(ctx, in.Body.VM)
	if err != nil {
		return nil, err
	}
	item, err := s.item(ctx, vm.ID)
	if err != nil {
		return nil, err
	}
	if item == nil {
		return nil, backstay.Errorf(backstay.CodeNotProtected, "the VM %s is not protected", label(vm.Ref())).Becausef("it is under no policy and in no vault")
	}
	plan, err := s.Planner.PlanBackup(ctx, vm.ID)
	if err != nil {
		return nil, err
	}
	warnings := leftOut(plan, item.Excluded)
	if !plan.Included() {
		return nil, noDisks(label(vm.Ref()), warnings)
	}
	out := &started[api.BackupResponse]{Status: http.StatusOK, Body: api.BackupResponse{Plan: plan, Warnings: warnings}}
	if in.Body.DryRun {
		return out, nil
	}
	r := JobRequest{
		Kind: backstay.JobBackup, Target: label(vm.Ref()), VMs: []backstay.VMID{vm.ID}, Host: vm.Host, Vault: item.Vault, Alone: true,
		Params: backstay.BackupParams{VM: vm.ID, Tier: in.Body.Tier, Consistency: in.Body.Consistency, Retain: in.Body.Retain},
	}
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

// leftOut names the disks that a backup should have and cannot: not those that
// the user left out.
func leftOut(plan api.BackupPlan, excluded []backstay.DiskTarget) []string {
	var warnings []string
	for _, d := range plan.Disks {
		if !d.Included && !slices.Contains(excluded, d.Target) {
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
	p, err := s.point(ctx, string(request.Point))
	if err != nil {
		return nil, err
	}
	callOf(ctx).target += " as " + request.Name
	request.Point = p.ID
	if allowed := possible(p).CreateVM; !allowed.Allowed {
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
	if refused := plan.Refused(); len(refused) > 0 {
		return nil, refusal(plan, refused)
	}
	r := JobRequest{
		Kind: backstay.JobRestore, Target: string(plan.Host) + "/" + plan.Name, Point: p.ID, VMs: []backstay.VMID{plan.UUID}, Host: plan.Host,
		Params: backstay.RestoreParams{Request: request, Plan: plan},
	}
	if plan.Tier == backstay.VaultTier {
		r.Vault = p.Vault
	}
	job, err := s.submit(ctx, r)
	if err != nil {
		return nil, err
	}
	out.Status, out.Body.Job = http.StatusAccepted, &job
	return out, nil
}

// refusal is the error that names every check that stands in the way.
func refusal(plan backstay.RestorePlan, refused []backstay.Check) error {
	var reasons []string
	for _, c := range refused {
		reasons = append(reasons, c.Name+": "+c.Detail)
	}
	return backstay.Errorf(backstay.CodePreflight, "the restore as %s was refused before anything was touched", plan.Name).
		Becausef("%s", strings.Join(reasons, "; "))
}
