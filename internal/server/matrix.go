package server

import (
	"context"
	"fmt"
	"slices"
	"strings"

	backstay "github.com/backstay/backstay"
)

// matrix says which restores are possible, from what the catalogue knows at the
// moment. A dry run asks the host itself, and the vault, and knows more.
type matrix struct {
	vms map[backstay.VMID]backstay.VM
	// hosts are all of the region.
	hosts []backstay.Host
	// on is the host that shall get what is restored; nil for each point's own.
	on *backstay.Host
}

func (s *server) matrix(ctx context.Context, on backstay.HostName) (matrix, error) {
	m := matrix{vms: map[backstay.VMID]backstay.VM{}}
	all, err := s.Catalog.VMs.ListVMs(ctx)
	if err != nil {
		return m, fmt.Errorf("list VMs: %w", err)
	}
	for _, vm := range all {
		m.vms[vm.ID] = vm
	}
	if m.hosts, err = s.Catalog.Hosts.ListHosts(ctx); err != nil {
		return m, fmt.Errorf("list hosts: %w", err)
	}
	if on == "" {
		return m, nil
	}
	host, err := s.Catalog.Hosts.Host(ctx, on)
	m.on = &host
	return m, missing(err, backstay.CodeUnknownHost, "host", string(on))
}

// of says of each kind whether the point allows it, and if not, why. A VM or its
// disks are not made of a point from which the user left disks out, since what
// comes up would lack them: its disks alone can be had, and create-vm makes one
// for whoever says so.
func (m matrix) of(p backstay.RecoveryPoint) backstay.PossibleRestores {
	r := backstay.PossibleRestores{Files: m.files(p)}
	r.Disks = first(readable(p), m.reaches(p))
	r.CreateVM = first(r.Disks, whole(p, "; --partial makes one all the same"), m.fits(p))
	r.Live = first(live(p), r.CreateVM)
	r.ReplaceDisks = first(r.Disks, ofThisRegion(p), whole(p, "; --disk names those that are to be replaced"), m.replaceable(p))
	return r
}

func yes() backstay.Allowed { return backstay.Allowed{Allowed: true} }

func no(format string, args ...any) backstay.Allowed {
	return backstay.Allowed{Reason: fmt.Sprintf(format, args...)}
}

// first returns the first of the answers that refuses, else the last.
func first(answers ...backstay.Allowed) backstay.Allowed {
	for _, a := range answers {
		if !a.Allowed {
			return a
		}
	}
	return answers[len(answers)-1]
}

// files says whether a point can be opened for its files: beside its disks on its own
// host, or out of its vault on any.
func (m matrix) files(p backstay.RecoveryPoint) backstay.Allowed {
	reachable := func(h backstay.Host) bool { return h.State == "connected" }
	switch own := slices.IndexFunc(m.hosts, func(h backstay.Host) bool { return h.Name == p.VM.Host }); {
	case p.Has(backstay.SnapshotTier) && own >= 0 && reachable(m.hosts[own]):
		return yes()
	case !readable(p).Allowed:
		return readable(p)
	case p.Has(backstay.VaultTier) && p.Damage == "" && slices.ContainsFunc(m.hosts, reachable):
		return yes()
	case p.Has(backstay.VaultTier) && p.Damage != "":
		return no("%s", p.Damage)
	case p.Has(backstay.VaultTier):
		return no("no host can be reached, and a point is opened on one")
	case own >= 0:
		return no("the point is in the snapshot tier of host %s alone, which cannot be reached: %s", p.VM.Host, m.hosts[own].Reason)
	}
	return no("the point is in the snapshot tier of host %s alone, which this region does not have", p.VM.Host)
}

// whole refuses a point from which the user left disks out.
func whole(p backstay.RecoveryPoint, but string) backstay.Allowed {
	var names []string
	for _, target := range p.LeftOut() {
		names = append(names, string(target))
	}
	if len(names) == 0 {
		return yes()
	}
	return no("the user left out %s: the VM would lack them%s", strings.Join(names, ", "), but)
}

// readable says whether a point can be read at all. Only a tier that is available
// counts (I2).
func readable(p backstay.RecoveryPoint) backstay.Allowed {
	if p.Has(backstay.SnapshotTier) {
		return yes()
	}
	if p.Has(backstay.VaultTier) {
		if p.Damage != "" {
			return no("%s", p.Damage)
		}
		return yes()
	}
	reason := "the point is in no tier"
	for _, t := range p.Tiers {
		reason = "the point's copy in the " + string(t.Tier) + " tier is " + string(t.State)
	}
	return no("%s", reason)
}

// live refuses what cannot be started from a vault.
func live(p backstay.RecoveryPoint) backstay.Allowed {
	switch {
	case p.Has(backstay.VaultTier) && p.Damage != "":
		return no("%s", p.Damage)
	case p.Encrypted.Host:
		return no("a disk is encrypted on the host, and what the guest writes before it was copied would lie in the clear")
	case p.Has(backstay.VaultTier):
		return yes()
	case p.Has(backstay.SnapshotTier):
		return no("the point is not in its vault; from the snapshot tier create-vm takes no longer")
	}
	return readable(p)
}

// reaches says whether the point can be brought to the host that is asked about.
func (m matrix) reaches(p backstay.RecoveryPoint) backstay.Allowed {
	_, away := p.Vault.Origin()
	switch {
	case m.on == nil && away && !slices.ContainsFunc(m.hosts, func(h backstay.Host) bool { return h.State == "connected" }):
		return no("the point's host is in another region, and none of this one can be reached")
	case m.on == nil:
	case m.on.State != "connected":
		return no("host %s cannot be reached: %s", m.on.Name, m.on.Reason)
	case m.on.Name != p.VM.Host && !p.Has(backstay.VaultTier) && p.Encrypted.Host:
		return no("the point is in the snapshot tier of host %s alone, and one with disks that are encrypted on the host is not streamed to another", p.VM.Host)
	}
	return yes()
}

// fits says whether the host that is asked about has what the point's VM needs.
func (m matrix) fits(p backstay.RecoveryPoint) backstay.Allowed {
	if m.on == nil {
		return yes()
	}
	facts, shape := m.on.Facts, p.Shape
	at := slices.IndexFunc(facts.Emulators, func(e backstay.Emulator) bool { return e.Arch == shape.Arch })
	switch {
	case at < 0 && shape.Arch != "":
		return no("host %s has no emulator for %s", m.on.Name, shape.Arch)
	case shape.Machine != "" && !slices.Contains(facts.Emulators[at].Machines, shape.Machine):
		return no("host %s has no machine type %s; --machine names another", m.on.Name, shape.Machine)
	case shape.Virt == "kvm" && !facts.Accelerated:
		return no("the VM wants KVM, and host %s does not offer it", m.on.Name)
	case p.Firmware == backstay.UEFI && !facts.UEFI:
		return no("host %s has no UEFI firmware", m.on.Name)
	case p.TPM && !facts.TPM:
		return no("host %s cannot emulate a TPM", m.on.Name)
	}
	return yes()
}

// ofThisRegion refuses to replace the disks of a VM that is in another region.
func ofThisRegion(p backstay.RecoveryPoint) backstay.Allowed {
	of, away := p.Vault.Origin()
	if !away {
		return yes()
	}
	return no("the point is of region %s, and its VM is over there; --vm names one of this region that gets its disks", of.Region)
}

// replaceable says whether there is a VM whose disks can be replaced.
func (m matrix) replaceable(p backstay.RecoveryPoint) backstay.Allowed {
	vm, there := m.vms[p.VM.UUID]
	switch {
	case !there:
		return no("the VM %s is on no host any more; make a new one: backstay restore create-vm %s --name %s", label(p.VM), p.ID, p.VM.Name)
	case m.on != nil && m.on.Name != vm.Host:
		return no("the VM is on host %s, and its disks are replaced there", vm.Host)
	case m.on == nil && vm.Host != p.VM.Host:
		return backstay.Allowed{Allowed: true, Reason: "the VM is on host " + string(vm.Host) + " now: say --host " + string(vm.Host)}
	case vm.State != backstay.VMShutOff:
		return backstay.Allowed{Allowed: true, Reason: "it is not shut off: shut it down first, or say --stop"}
	}
	return yes()
}
