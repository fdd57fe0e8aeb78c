package server

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/api"
	"github.com/backstay/backstay/internal/catalog"
	"github.com/backstay/backstay/internal/job"
)

func (s *server) registerProtection() {
	add(s, "protectVM", s.protect)
	add(s, "unprotectVM", s.unprotect)
}

// item returns a VM's protected item, or nil if it has none.
func (s *server) item(ctx context.Context, vm backstay.VMID) (*backstay.ProtectedItem, error) {
	item, err := s.Catalog.Items.Item(ctx, vm)
	if errors.Is(err, catalog.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &item, nil
}

// lastPoint is when the newest point was taken that a VM has from an earlier
// protection; nil if it has none.
func (s *server) lastPoint(ctx context.Context, vm backstay.VMID) (*time.Time, error) {
	points, err := s.Catalog.Points.ListPoints(ctx, vm)
	if err != nil {
		return nil, err
	}
	for _, p := range slices.Backward(backstay.OwnPoints(points)) {
		if p.Has(backstay.SnapshotTier) || p.Has(backstay.VaultTier) {
			return &p.Time, nil
		}
	}
	return nil, nil
}

// fillDue says when the next backup of each item is due. It is never stored:
// it follows from the policy and the newest point. An item that has no point
// since it was protected, but one from an earlier protection, gets that one.
func (s *server) fillDue(ctx context.Context, items ...*backstay.ProtectedItem) error {
	policies, err := s.Catalog.Policies.ListPolicies(ctx)
	if err != nil {
		return err
	}
	for _, item := range items {
		item.NextDue = nil
		newest := item.LastPoint
		if newest == nil {
			if item.LastPoint, err = s.lastPoint(ctx, item.VM.UUID); err != nil {
				return err
			}
		}
		i := slices.IndexFunc(policies, func(p backstay.Policy) bool { return p.Name == item.Policy })
		if i < 0 {
			continue
		}
		if _, next := job.Due(policies[i], *item, newest, s.Now()); !next.IsZero() {
			next = next.UTC()
			item.NextDue = &next
		}
	}
	return nil
}

type protectInput struct {
	VM   string `path:"vm" doc:"UUID, NAME or HOST/NAME"`
	Body api.ProtectRequest
}

func (s *server) protect(ctx context.Context, in *protectInput) (*answer[api.ProtectResponse], error) {
	vm, err := s.vm(ctx, in.VM)
	if err != nil {
		return nil, err
	}
	if reason := vm.Obstacle(in.Body.Method); reason != "" {
		return nil, backstay.Errorf(backstay.CodeVMNotPossible, "the VM %s cannot be protected", label(vm.Ref())).Becausef("%s", reason)
	}
	old, err := s.item(ctx, vm.ID)
	if err != nil {
		return nil, err
	}
	if err := s.mayPull(ctx, vm.Ref(), in.Body.Method, old); err != nil {
		return nil, err
	}
	if _, err := s.Catalog.Policies.Policy(ctx, in.Body.Policy); err != nil {
		return nil, missing(err, backstay.CodeUnknownPolicy, "policy", in.Body.Policy)
	}
	if _, err := s.Catalog.Vaults.Vault(ctx, in.Body.Vault); err != nil {
		return nil, missing(err, backstay.CodeUnknownVault, "vault", in.Body.Vault)
	}
	if err := ownVault(in.Body.Vault); err != nil {
		return nil, err
	}
	item := backstay.ProtectedItem{
		VM: vm.Ref(), Policy: in.Body.Policy, Vault: in.Body.Vault, Since: s.Now().UTC(),
		Included: in.Body.IncludeDisks, Excluded: in.Body.ExcludeDisks, Method: in.Body.Method,
		KeyService: in.Body.KeyService,
	}
	if err := s.knownService(item.KeyService); err != nil {
		return nil, err
	}
	verdicts, warnings, err := chooseDisks(vm, item)
	if err != nil {
		return nil, err
	}
	if old != nil {
		item.Since, item.LastPoint = old.Since, old.LastPoint
	}
	gone, err := s.adopting(ctx, in.Body.Adopt, &item, old)
	if err != nil {
		return nil, err
	}
	if err := s.Catalog.Items.PutItem(ctx, item); err != nil {
		return nil, err
	}
	if gone != nil {
		if err := s.takeOver(ctx, *gone, vm.Ref()); err != nil {
			return nil, err
		}
	}
	if err := s.fillDue(ctx, &item); err != nil {
		return nil, err
	}
	return &answer[api.ProtectResponse]{api.ProtectResponse{Item: item, Disks: verdicts, Warnings: warnings}}, nil
}

// mayPull refuses to pull from a VM that runs on layers of ours: they would stay
// below it for ever. Where the snapshot tier keeps only the change map it does so
// with no point there. A VM of a group cannot be pulled from either.
func (s *server) mayPull(ctx context.Context, vm backstay.VMRef, m backstay.Method, old *backstay.ProtectedItem) error {
	if m != backstay.MethodPull {
		return nil
	}
	if err := s.noGroup(ctx, vm); err != nil {
		return err
	}
	points, err := s.Catalog.Points.ListPoints(ctx, vm.UUID)
	if err != nil {
		return err
	}
	n := 0
	for _, p := range points {
		if p.Has(backstay.SnapshotTier) {
			n++
		}
	}
	if onLayers := old != nil && old.Method != backstay.MethodPull && old.LastPoint != nil; n == 0 && !onLayers {
		return nil
	}
	return backstay.Errorf(backstay.CodeConflict, "the VM %s cannot be protected by pull yet", label(vm)).
		Becausef("it runs on layers, and %d of its points are in the snapshot tier", n).
		Do("end its protection with `backstay unprotect %s`, which merges them, and protect it again then", label(vm))
}

// chooseDisks says of each disk of a VM what its item means for it, and names
// those that would be backed up but cannot be.
func chooseDisks(vm backstay.VM, item backstay.ProtectedItem) (verdicts []backstay.DiskVerdict, warnings []string, err error) {
	if len(item.Included) > 0 && len(item.Excluded) > 0 {
		return nil, nil, backstay.Errorf(backstay.CodeUsage, "disks are both included and excluded").
			Becausef("including some already leaves out the others").Do("give one of --include-disk and --exclude-disk")
	}
	for _, target := range slices.Concat(item.Included, item.Excluded) {
		if !slices.ContainsFunc(vm.Disks, func(d backstay.Disk) bool { return d.Target == target }) {
			return nil, nil, backstay.Errorf(backstay.CodeUsage, "the VM has no disk %q", target).
				Becausef("its disks are %s", targets(vm.Disks)).Do("name disks as `backstay vm show %s` does", label(vm.Ref()))
		}
	}
	left := 0
	for _, d := range vm.Disks {
		v := item.Judge(d)
		verdicts = append(verdicts, v)
		switch {
		case v.Included:
			left++
		case !v.Excluded && (d.Device == "disk" || slices.Contains(item.Included, d.Target)):
			warnings = append(warnings, fmt.Sprintf("disk %s is not backed up: %s", d.Target, v.Reason))
		}
	}
	if left == 0 {
		return nil, nil, noDisks(label(vm.Ref()), warnings)
	}
	return verdicts, warnings, nil
}

func noDisks(vm string, reasons []string) error {
	cause := "every disk is left out"
	if len(reasons) > 0 {
		cause = strings.Join(reasons, "; ")
	}
	return backstay.Errorf(backstay.CodeNoDisks, "the VM %s has no disk that can be backed up", vm).Becausef("%s", cause)
}

func targets(disks []backstay.Disk) string {
	var names []string
	for _, d := range disks {
		names = append(names, string(d.Target))
	}
	return strings.Join(names, ", ")
}

type unprotectInput struct {
	VM                 string `path:"vm" doc:"UUID, NAME or HOST/NAME"`
	DeleteData         bool   `query:"deleteData" doc:"delete the VM's recovery points too"`
	DropSnapshotPoints bool   `query:"dropSnapshotPoints" doc:"also those recovery points go that are in no vault"`
}

// unprotect ends a VM's protection: its layers are merged and it is on its own
// files again, so that nothing of backstay is left beside its disks. What is in
// vaults stays, unless told otherwise.
func (s *server) unprotect(ctx context.Context, in *unprotectInput) (*answer[api.UnprotectResponse], error) {
	ref, err := s.vmRef(ctx, in.VM)
	if err != nil {
		return nil, err
	}
	item, err := s.item(ctx, ref.UUID)
	if err != nil {
		return nil, err
	}
	if item == nil {
		return nil, backstay.Errorf(backstay.CodeNotProtected, "the VM %s is not protected", label(ref)).Becausef("it is under no policy").
			Do("nothing is to be done")
	}
	if err := s.noGroup(ctx, ref); err != nil {
		return nil, err
	}
	if err := s.noBackup(ctx, ref); err != nil {
		return nil, err
	}
	points, err := s.Catalog.Points.ListPoints(ctx, ref.UUID)
	if err != nil {
		return nil, err
	}
	points = backstay.OwnPoints(points)
	if err := mayGo(in, ref, points); err != nil {
		return nil, err
	}
	out := api.UnprotectResponse{Item: *item}
	for _, p := range points {
		switch {
		case in.DeleteData:
			job, err := s.submitExpire(ctx, p)
			if err != nil {
				return nil, err
			}
			out.Jobs = append(out.Jobs, job)
		case p.Has(backstay.VaultTier):
			out.PointsKept++
		}
	}
	release, err := s.submit(ctx, JobRequest{
		Kind: backstay.JobExpire, Target: label(ref), VMs: []backstay.VMID{ref.UUID}, Host: ref.Host,
		Params: backstay.ExpireParams{VM: ref.UUID, Host: ref.Host, Release: true},
	})
	if err != nil {
		return nil, err
	}
	out.Jobs = append(out.Jobs, release)
	// The release does so too, in case this never comes to pass.
	err = s.Catalog.Items.DeleteItem(ctx, ref.UUID)
	return &answer[api.UnprotectResponse]{out}, err
}

// mayGo refuses to end a protection by which a point would be lost that somebody
// may still want.
func mayGo(in *unprotectInput, ref backstay.VMRef, points []backstay.RecoveryPoint) error {
	only := 0
	for _, p := range points {
		here := slices.ContainsFunc(p.Tiers, func(t backstay.PointTier) bool { return t.Tier == backstay.SnapshotTier })
		if p.Pinned && (in.DeleteData || here) {
			return pinned(p)
		}
		if p.Has(backstay.SnapshotTier) && !p.Has(backstay.VaultTier) {
			only++
		}
	}
	if only == 0 || in.DeleteData || in.DropSnapshotPoints {
		return nil
	}
	return backstay.Errorf(backstay.CodeConflict, "%d recovery points of %s are in the snapshot tier only", only, label(ref)).
		Becausef("they are layers of its disks, which are merged when the protection ends").
		Do("take a backup to have the VM's present state in the vault, and give --drop-snapshot-points if these may go")
}

// noBackup refuses while a backup of the VM has not ended: it would make a point
// that nobody deletes, and that no policy lets expire.
func (s *server) noBackup(ctx context.Context, vm backstay.VMRef) error {
	// A VM of a group cannot be unprotected, nor a group be deleted during its backup.
	return s.idle(ctx, label(vm))
}

// idle refuses while a backup of a target has not ended: of a VM's label, or of a
// group's.
func (s *server) idle(ctx context.Context, target string) error {
	jobs, err := s.Jobs.List(ctx, 0, backstay.JobQueued, backstay.JobRunning, backstay.JobCancelling)
	if err != nil {
		return err
	}
	for _, j := range jobs {
		if j.Kind == backstay.JobBackup && j.Target == target {
			return backstay.Errorf(backstay.CodeConflict, "a backup of %s is %s", target, j.State).
				Becausef("it would make a point after nobody expects one any more").
				Do("wait for the job %s, or cancel it: `backstay job cancel %s`", j.ID, j.ID)
		}
	}
	return nil
}

// ownVault refuses a replica as the place of new points.
func ownVault(name backstay.VaultName) error {
	of, replica := name.Origin()
	if !replica {
		return nil
	}
	return backstay.Errorf(backstay.CodeConflict, "no point can be put into %s", name).
		Becausef("it is the replica of a vault of region %s, and holds what that one pushes", of.Region).
		Do("name a vault of this region: `backstay vault list`")
}
