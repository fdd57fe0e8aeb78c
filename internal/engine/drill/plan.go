// Package drill proves that recovery points restore: it makes VMs of them in an
// isolated network, tells by probes that they are well, keeps a record of what it
// found, and takes everything down again, always.
//
// How a VM is restored is engine/restore's, which plans each of them; what is done on
// the host is the mover's. Nothing of a point and nothing of a source VM is ever
// changed (I8).
package drill

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/catalog"
	"github.com/backstay/backstay/internal/mover"
)

// Tasks are the steps of a drill's job.
var Tasks = []string{"network", "restore", "clean", "record"}

// Runner plans and runs drills.
type Runner struct {
	Catalog *catalog.Catalog
	// Mover returns the mover of a host.
	Mover func(backstay.HostName) (mover.Mover, error)
	// Vault returns what a mover needs to read a vault.
	Vault func(context.Context, backstay.VaultName) (mover.VaultAccess, error)
	// Restore plans a restore.
	Restore func(context.Context, backstay.RestoreRequest) (backstay.RestorePlan, error)
	// Services are the key services that the region knows; nil for none.
	Services func() []mover.KeyService
	Region   backstay.RegionName
	Now      func() time.Time
	// Wait waits for so long, or until ctx ends.
	Wait func(context.Context, time.Duration) error
	// Pick chooses one of n things, at random.
	Pick func(n int) int
	// NewName makes a few letters that no other drill has, for names on the host.
	NewName func() string
	// Recorded is told of each record once it is kept; nil for nobody.
	Recorded func(backstay.DrillRecord)
}

// Plan decides what a drill of the plan will restore now; it changes nothing. What
// stands in the way of any of its restores is the error.
func (r *Runner) Plan(ctx context.Context, plan backstay.DrillPlan) (backstay.DrillParams, error) {
	if err := plan.Check(); err != nil {
		return backstay.DrillParams{}, err
	}
	name := r.NewName()
	params := backstay.DrillParams{Plan: plan, Host: plan.Host, Network: "backstay-drill-" + name}
	for _, vm := range plan.VMs {
		point, err := r.point(ctx, plan, vm)
		if err != nil {
			return params, err
		}
		planned, err := r.planVM(ctx, plan, point, backstay.RestoreRequest{Host: params.Host, Name: restoredName(point.VM.Name, name)})
		if err != nil {
			return params, err
		}
		if planned.Host != params.Host && params.Host != "" {
			return params, backstay.Errorf(backstay.CodeInternal, "VM %s was planned for host %s rather than %s", vm.VM, planned.Host, params.Host)
		}
		params.Host = planned.Host // the network is there
		params.Notes = append(params.Notes, notes(point, planned)...)
		planned.Drill = &backstay.DrillSetting{Network: params.Network, MaxCPUs: plan.MaxCPUs, MaxMemory: plan.MaxMemory}
		params.Restores = append(params.Restores, planned)
		drilled, err := r.drilled(ctx, point, planned)
		if err != nil {
			return params, err
		}
		params.VMs = append(params.VMs, drilled)
	}
	return params, r.fits(ctx, params)
}

// restoredName is that of the VM that a drill makes of another one.
func restoredName(source, unique string) string {
	const longest = 150
	return source[:min(len(source), longest)] + "-drill-" + unique
}

// point chooses the point of one VM.
func (r *Runner) point(ctx context.Context, plan backstay.DrillPlan, vm backstay.DrillVM) (backstay.RecoveryPoint, error) {
	if vm.PointID != "" {
		p, err := r.Catalog.Points.Point(ctx, vm.PointID)
		if errors.Is(err, catalog.ErrNotFound) {
			return p, backstay.Errorf(backstay.CodeUnknownPoint, "there is no recovery point %s", vm.PointID).Becausef("the plan of the drill names it, and it has gone since")
		}
		if err == nil && !usable(p, plan.From) {
			return p, backstay.Errorf(backstay.CodeTierMissing, "point %s cannot be drilled from the %s", p.ID, fromWord(plan.From)).
				Becausef("it is not there").Do("leave out --from")
		}
		return p, err
	}
	all, err := r.Catalog.Points.ListPoints(ctx, vm.UUID)
	if err != nil {
		return backstay.RecoveryPoint{}, fmt.Errorf("list points: %w", err)
	}
	points := Candidates(all, plan.From)
	if len(points) == 0 {
		return backstay.RecoveryPoint{}, backstay.Errorf(backstay.CodeUnknownPoint, "VM %s has no recovery point for a drill from the %s", vm.VM, fromWord(plan.From)).
			Becausef("it has %d points in all, and none that is whole there", len(all)).Do("back it up: `backstay backup %s`, or choose another --from", vm.VM)
	}
	switch plan.Point {
	case backstay.DrillOldest:
		return points[0], nil
	case backstay.DrillRandom:
		return points[r.Pick(len(points))], nil
	}
	return points[len(points)-1], nil
}

func fromWord(from backstay.DrillFrom) string {
	if from == "" {
		return string(backstay.FromVault)
	}
	return string(from)
}

// Candidates are the points that can be drilled from there, oldest first. Without a
// wish they are those in vaults of this region or, if there is none, in replicas.
func Candidates(points []backstay.RecoveryPoint, from backstay.DrillFrom) []backstay.RecoveryPoint {
	choose := func(from backstay.DrillFrom) []backstay.RecoveryPoint {
		chosen := slices.DeleteFunc(slices.Clone(points), func(p backstay.RecoveryPoint) bool { return !usable(p, from) })
		slices.SortStableFunc(chosen, func(a, b backstay.RecoveryPoint) int { return a.Time.Compare(b.Time) })
		return chosen
	}
	if from != "" {
		return choose(from)
	}
	if own := choose(backstay.FromVault); len(own) > 0 {
		return own
	}
	return choose(backstay.FromReplica)
}

// usable tells whether a point is whole in what is to be restored from. A point that
// is known to be damaged is drilled all the same: that it fails is what is to be seen.
func usable(p backstay.RecoveryPoint, from backstay.DrillFrom) bool {
	_, replica := p.Vault.Origin()
	switch from {
	case backstay.FromSnapshot:
		return p.Has(backstay.SnapshotTier) && !replica
	case backstay.FromReplica:
		return p.Has(backstay.VaultTier) && replica
	case backstay.FromVault:
		return p.Has(backstay.VaultTier) && !replica
	}
	return p.Has(backstay.VaultTier)
}

// planVM plans one restore, as one that a person would ask for, without what the drill
// has its own of: the network, and so the addresses in it, and the memory.
func (r *Runner) planVM(ctx context.Context, plan backstay.DrillPlan, p backstay.RecoveryPoint, request backstay.RestoreRequest) (backstay.RestorePlan, error) {
	request.Kind, request.Point, request.Pool = backstay.CreateVM, p.ID, plan.Pool
	request.KeepMAC, request.Isolated, request.Partial = true, true, true
	request.Probe = backstay.Probe{Kind: backstay.ProbeNone}
	request.Tier = backstay.VaultTier
	if plan.From == backstay.FromSnapshot {
		request.Tier = backstay.SnapshotTier
	}
	// What the guest writes on a disk that its host encrypted must not lie in the clear:
	// such disks are written first.
	request.Live = request.Tier == backstay.VaultTier && !p.Encrypted.Host
	planned, err := r.Restore(ctx, request)
	if err != nil {
		return planned, err
	}
	planned.Preflight = slices.DeleteFunc(planned.Preflight, func(c backstay.Check) bool {
		return slices.Contains([]string{"network", "mac", "memory"}, c.Name)
	})
	for i := range planned.NICs {
		planned.NICs[i].Kind, planned.NICs[i].LinkDown = "network", false
	}
	return planned, planned.Refusal()
}

// fits tells whether the host has the memory for all VMs at once.
func (r *Runner) fits(ctx context.Context, params backstay.DrillParams) error {
	host, err := r.Catalog.Hosts.Host(ctx, params.Host)
	if err != nil || host.Facts.MemoryFree == 0 {
		return nil //nolint:nilerr // the host said nothing of it; the start will tell
	}
	var need int64
	for _, vm := range params.VMs {
		need += vm.Memory
	}
	if need <= host.Facts.MemoryFree {
		return nil
	}
	return backstay.Errorf(backstay.CodeNoMemory, "the drill's VMs take %d MiB, and host %s has %d MiB left", need>>20, params.Host, host.Facts.MemoryFree>>20).
		Becausef("they all run at once").Do("cap what each of them gets with --max-memory, or choose another --host")
}

// drilled is what is known of a VM before it is restored.
func (r *Runner) drilled(ctx context.Context, p backstay.RecoveryPoint, planned backstay.RestorePlan) (backstay.DrilledVM, error) {
	d := backstay.DrilledVM{
		Source: p.VM, Name: planned.Name, Point: p.ID, PointTime: p.Time, Consistency: p.Consistency, Tier: planned.Tier,
		CPUs: p.Shape.VCPUs, Memory: p.Shape.MemoryMiB << 20, Probes: []backstay.DrillProbeResult{}, Disks: []backstay.DrilledDisk{},
	}
	if s := planned.Drill; s != nil && s.MaxCPUs > 0 {
		d.CPUs = min(d.CPUs, s.MaxCPUs)
	}
	if s := planned.Drill; s != nil && s.MaxMemory > 0 {
		d.Memory = min(d.Memory, s.MaxMemory)
	}
	for _, disk := range p.Disks {
		if disk.Included {
			d.Disks = append(d.Disks, backstay.DrilledDisk{Target: disk.Target, Size: disk.Size, SHA256: disk.SHA256})
		}
	}
	if planned.Tier != backstay.VaultTier {
		return d, nil
	}
	v, err := r.Catalog.Vaults.Vault(ctx, p.Vault)
	if err != nil {
		return d, fmt.Errorf("read vault %s: %w", p.Vault, err)
	}
	d.Vault, d.VaultID, d.Head = v.Name, v.ID, v.Head
	return d, nil
}

// notes say what the drill will not show of a VM.
func notes(p backstay.RecoveryPoint, planned backstay.RestorePlan) []string {
	var all []string
	if out := p.LeftOut(); len(out) > 0 {
		var names []string
		for _, target := range out {
			names = append(names, string(target))
		}
		all = append(all, fmt.Sprintf("VM %s lacks %s, which the user left out of its points", p.VM.Name, strings.Join(names, ", ")))
	}
	if planned.Tier == backstay.VaultTier && !planned.Live {
		all = append(all, fmt.Sprintf("the disks of VM %s are encrypted on the host, so that they are written before it starts", p.VM.Name))
	}
	return all
}
