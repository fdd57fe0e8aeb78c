// Package restore makes VMs out of recovery points: a pure plan with the
// pre-flight list of everything that would fail, and a runner that stages,
// verifies, switches and starts through the host's mover.
//
// It opens no disk; the mover does. Nothing of a point and nothing of the
// source VM is ever changed (I8).
package restore

import (
	"errors"
	"fmt"
	"net"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/mover"
)

// Facts are what the plan is decided from, gathered beforehand.
type Facts struct {
	Point backstay.RecoveryPoint
	// Host is the host that will run the new VM.
	Host backstay.Host
	// VMs are all VMs of the region.
	VMs []backstay.VM
	// Paths has what the host says of the paths that Candidates names.
	Paths map[string]mover.PathInfo
	// VaultProblem says why the vault cannot be read; empty if it can.
	VaultProblem string
	// VaultWarning says what the vault cannot vouch for; empty if it can.
	VaultWarning string
	// Fresh identities, made beforehand so that the plan is pure.
	UUID backstay.VMID
	MACs []string
}

// margin is kept free in the file system that takes the disks, in bytes.
const margin = 256 << 20

// overlayRoom is what an instant restore's overlay needs at first, in bytes.
const overlayRoom = 16 << 20

// NewPlan decides how to restore a point as a new VM. The plan is returned also
// when checks refuse it, so that a dry run can show them; the error is only for
// a request that makes no sense.
func NewPlan(r backstay.RestoreRequest, f Facts) (backstay.RestorePlan, error) {
	if err := checkRequest(r, f); err != nil {
		return backstay.RestorePlan{}, err
	}
	plan := skeleton(r, f)
	plan.Preflight = preflight(r, f, plan)
	return plan, nil
}

func checkRequest(r backstay.RestoreRequest, f Facts) error {
	switch {
	case r.Name == "":
		return backstay.Errorf(backstay.CodeUsage, "the new VM needs a name").Becausef("none was given").Do("give --name")
	case strings.Contains(r.Name, "/") || strings.ContainsFunc(r.Name, unicode.IsControl) || strings.HasPrefix(r.Name, ".") || len(r.Name) > longestName:
		return backstay.Errorf(backstay.CodeUsage, "%q cannot be the name of a VM", r.Name).
			Becausef("a name has no slash or control character, does not start with a dot, and has at most %d bytes", longestName).Do("choose another --name")
	case r.Tier != "" && r.Tier != backstay.SnapshotTier && r.Tier != backstay.VaultTier:
		return backstay.Errorf(backstay.CodeUsage, "%q is not a tier", r.Tier).Becausef("there are snapshot and vault").Do("say --tier snapshot or --tier vault")
	case strings.ContainsFunc(r.Pool, unicode.IsControl):
		return backstay.Errorf(backstay.CodeUsage, "%q cannot be a pool", r.Pool).
			Becausef("it has a control character").Do("name a pool as `backstay host show %s` does", f.Host.Name)
	}
	return checkProbe(r.Probe)
}

// longestName leaves room in a file's name (255 bytes) for a disk's target and
// format.
const longestName = 200

// longestWait is how long a new VM may be waited for.
const longestWait = 24 * time.Hour

// checkProbe refuses what could only fail once the VM runs.
func checkProbe(p backstay.Probe) error {
	const todo = "say --wait-for console:TEXT or port:HOST:PORT"
	wait := time.Duration(p.Timeout)
	if wait < 0 || wait > longestWait {
		return backstay.Errorf(backstay.CodeUsage, "a new VM cannot be waited for that long").
			Becausef("%s is not between nothing and %s", wait, longestWait).Do("give another --timeout")
	}
	if p.Text == "" && (p.Kind == backstay.ProbeConsole || p.Kind == backstay.ProbePort) {
		return backstay.Errorf(backstay.CodeUsage, "what to wait for on the %s is not said", p.Kind).
			Becausef("it has neither a text nor an address").Do(todo)
	}
	if p.Kind != backstay.ProbePort {
		return nil
	}
	host, port, err := net.SplitHostPort(p.Text)
	if number, bad := strconv.ParseUint(port, 10, 16); err == nil && (bad != nil || number == 0 || host == "") {
		err = errors.New("want a host and a port from 1 to 65535")
	}
	if err != nil {
		return backstay.Errorf(backstay.CodeUsage, "%q is not a port to wait for", p.Text).Because(err).Do(todo)
	}
	return nil
}

// ChooseTier says which tier a request reads.
func ChooseTier(r backstay.RestoreRequest, p backstay.RecoveryPoint, host backstay.HostName) backstay.Tier {
	if r.Tier != "" {
		return r.Tier
	}
	if p.Has(backstay.SnapshotTier) && host == p.VM.Host {
		return backstay.SnapshotTier
	}
	return backstay.VaultTier
}

// Candidates returns the paths that a plan for this request would use, so that
// the host can be asked about them.
func Candidates(r backstay.RestoreRequest, p backstay.RecoveryPoint, host backstay.Host) []string {
	var paths []string
	for _, d := range plannedDisks(r, p, host) {
		paths = append(paths, d.Path)
	}
	return paths
}

func skeleton(r backstay.RestoreRequest, f Facts) backstay.RestorePlan {
	plan := backstay.RestorePlan{
		Point: f.Point.ID, Tier: ChooseTier(r, f.Point, f.Host.Name), Vault: f.Point.Vault,
		Host: f.Host.Name, Source: f.Point.VM, Name: r.Name, UUID: f.UUID,
		Firmware: f.Point.Firmware, TPM: f.Point.TPM,
		Disks: plannedDisks(r, f.Point, f.Host), NICs: plannedNICs(r, f), Start: !r.NoStart, Probe: r.Probe,
	}
	if r.KeepUUID {
		plan.UUID = f.Point.VM.UUID
	}
	if plan.Probe.Kind == "" {
		plan.Probe.Kind = backstay.ProbeAgent
		if f.Point.Shape.Agent == backstay.AgentNone {
			plan.Probe.Kind = backstay.ProbeNone
		}
	}
	if plan.Tier == backstay.VaultTier {
		plan.Bytes = dataBytes(f.Point)
	}
	return plan
}

// dataBytes is what writing all disks of the point takes, at most.
func dataBytes(p backstay.RecoveryPoint) int64 {
	var total int64
	for _, d := range p.Disks {
		switch {
		case !d.Included:
		case d.DataBytes > 0:
			total += d.DataBytes
		default:
			total += d.Size
		}
	}
	return total
}

func plannedDisks(r backstay.RestoreRequest, p backstay.RecoveryPoint, host backstay.Host) []backstay.PlannedDisk {
	fromSnapshot := ChooseTier(r, p, host.Name) == backstay.SnapshotTier
	var disks []backstay.PlannedDisk
	for _, d := range p.Disks {
		if !d.Included {
			continue
		}
		format := d.Format
		if fromSnapshot || format == "" {
			format = "qcow2" // the new disk is an overlay on the frozen layer
		}
		disks = append(disks, backstay.PlannedDisk{
			Target: d.Target, Format: format, Size: d.Size,
			Path: path.Join(folder(r, p, host, d.Target), fmt.Sprintf("%s-%s.%s", r.Name, d.Target, format)),
		})
	}
	return disks
}

// folder chooses where a disk goes: the pool that was asked for, else beside
// the source disk on its own host, else the host's first pool.
func folder(r backstay.RestoreRequest, p backstay.RecoveryPoint, host backstay.Host, target backstay.DiskTarget) string {
	if strings.HasPrefix(r.Pool, "/") {
		return path.Clean(r.Pool)
	}
	for _, pool := range host.Facts.Pools {
		if pool.Name == r.Pool {
			return pool.Path
		}
	}
	if r.Pool == "" && host.Name == p.VM.Host {
		for _, d := range p.Shape.Disks {
			if d.Target == target && d.Source != "" {
				return path.Dir(d.Source)
			}
		}
	}
	if r.Pool == "" && len(host.Facts.Pools) > 0 {
		return host.Facts.Pools[0].Path
	}
	return nowhere
}

// nowhere is the folder of a disk that has none; the pre-flight check of the
// pool refuses.
const nowhere = "/nonexistent"

func plannedNICs(r backstay.RestoreRequest, f Facts) []backstay.PlannedNIC {
	var nics []backstay.PlannedNIC
	for i, nic := range f.Point.Shape.NICs {
		planned := backstay.PlannedNIC{Kind: nic.Kind, Network: nic.Network, LinkDown: r.Isolated}
		if to, ok := r.Networks[nic.Network]; ok && nic.Network != "" {
			planned.Network = to
		}
		switch {
		case r.KeepMAC:
			planned.MAC = nic.MAC
		case i < len(f.MACs):
			planned.MAC = f.MACs[i]
		}
		nics = append(nics, planned)
	}
	return nics
}

// unmapped returns the mappings whose left side the point does not have.
func unmapped(r backstay.RestoreRequest, p backstay.RecoveryPoint) []string {
	var unknown []string
	for from := range r.Networks {
		known := slices.ContainsFunc(p.Shape.NICs, func(n backstay.NIC) bool { return n.Network == from })
		if !known {
			unknown = append(unknown, from)
		}
	}
	slices.Sort(unknown)
	return unknown
}
