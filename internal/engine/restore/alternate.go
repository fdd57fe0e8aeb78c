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
)

// alternate restores a point as a new VM beside everything that is there.
type alternate struct{}

func (alternate) check(r backstay.RestoreRequest, f Facts) error {
	switch {
	case r.Name == "":
		return backstay.Errorf(backstay.CodeUsage, "the new VM needs a name").Becausef("none was given").Do("give --name")
	case strings.Contains(r.Name, "/") || strings.ContainsFunc(r.Name, unicode.IsControl) || strings.HasPrefix(r.Name, ".") || len(r.Name) > longestName:
		return backstay.Errorf(backstay.CodeUsage, "%q cannot be the name of a VM", r.Name).
			Becausef("a name has no slash or control character, does not start with a dot, and has at most %d bytes", longestName).Do("choose another --name")
	case strings.ContainsFunc(r.Pool, unicode.IsControl):
		return backstay.Errorf(backstay.CodeUsage, "%q cannot be a pool", r.Pool).
			Becausef("it has a control character").Do("name a pool as `backstay host show %s` does", f.Host.Name)
	}
	return errors.Join(checkLive(r), checkProbe(r.Probe))
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

func (alternate) candidates(r backstay.RestoreRequest, p backstay.RecoveryPoint, host backstay.Host) []string {
	var paths []string
	for _, d := range plannedDisks(r, p, host) {
		paths = append(paths, d.Path)
	}
	return paths
}

func (alternate) plan(r backstay.RestoreRequest, f Facts, plan *backstay.RestorePlan) {
	plan.Name, plan.UUID = r.Name, f.UUID
	plan.Disks, plan.NICs = plannedDisks(r, f.Point, f.Host), plannedNICs(r, f)
	plan.Start, plan.Probe, plan.Machine = !r.NoStart, r.Probe, r.Machine
	plan.Tasks = []string{"plan", "stage", "verify", "switch", "start"}
	if plan.Live = r.Live; r.Live {
		plan.Tasks = liveTasks
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
	if plan.Tier == backstay.VaultTier || plan.StreamedFrom != "" {
		plan.Bytes = dataBytes(f.Point)
	}
}

func plannedDisks(r backstay.RestoreRequest, p backstay.RecoveryPoint, host backstay.Host) []backstay.PlannedDisk {
	tier, _ := ChooseTier(r, p, host.Name)
	fromSnapshot := tier == backstay.SnapshotTier && host.Name == p.VM.Host
	var disks []backstay.PlannedDisk
	for _, d := range p.Disks {
		if !d.Included {
			continue
		}
		format := d.Format
		if fromSnapshot || r.Live || format == "" {
			format = "qcow2" // the new disk is an overlay on the frozen layer, or on an export
		}
		disks = append(disks, backstay.PlannedDisk{
			Target: d.Target, Format: format, Size: d.Size, Secret: p.Shape.SecretOf(d.Target),
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

// preflight lists everything that would fail, before anything is touched.
func (alternate) preflight(r backstay.RestoreRequest, f Facts, plan backstay.RestorePlan) []backstay.Check {
	checks := []backstay.Check{
		checkTier(f, plan), checkWhole(r, f), checkHost(f), checkName(f, plan), checkUUID(f, plan), checkMACs(r, f, plan),
	}
	checks = append(checks, checkNetworks(r, f, plan)...)
	pool := checkPool(r, f)
	checks = append(checks, pool)
	if pool.OK { // else there is no folder to say anything about
		checks = append(checks, checkDisks(f, plan)...)
		checks = append(checks, checkRoom(f, plan))
	}
	checks = append(checks, checkMachine(f, plan), checkFirmware(f, plan))
	if plan.Live {
		checks = append(checks, checkServed(f, plan))
	}
	if plan.TPM {
		checks = append(checks, checkTPM(f))
	}
	checks = append(checks, checkKeys(f, plan)...)
	if memory, known := checkMemory(f, plan); known {
		checks = append(checks, memory)
	}
	return checks
}
