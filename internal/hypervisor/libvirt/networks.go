package libvirt

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"

	"github.com/digitalocean/go-libvirt"

	"github.com/backstay/backstay/internal/hypervisor"
)

// MakeNetwork makes a network that libvirt forgets when it is removed or the host
// starts anew. The host's guard stands before the network does.
func (h *Host) MakeNetwork(ctx context.Context, n hypervisor.Network) error {
	text, err := networkXML(n)
	if err != nil {
		return fmt.Errorf("make network %s: %w", n.Name, err)
	}
	// One that is there was made behind its guard, which VMs may be held by now.
	there, err := call(ctx, h, callPatience, func(l *libvirt.Libvirt) (bool, error) {
		_, err := l.NetworkLookupByName(n.Name)
		if isCode(err, libvirt.ErrNoNetwork) {
			return false, nil
		}
		return err == nil, err
	})
	if err != nil || there {
		return err
	}
	if n.Address != "" {
		if err := guard(ctx, n.Bridge); err != nil {
			return fmt.Errorf("make network %s: keep its VMs from the host: %w", n.Name, errors.Join(err, unguard(context.WithoutCancel(ctx), n.Bridge)))
		}
	}
	err = h.do(context.WithoutCancel(ctx), callPatience, func(l *libvirt.Libvirt) error {
		_, err := l.NetworkCreateXML(text)
		return err
	})
	if err != nil {
		return fmt.Errorf("make network %s: %w", n.Name, errors.Join(err, unguard(context.WithoutCancel(ctx), n.Bridge)))
	}
	return nil
}

// RemoveNetwork removes the network, then the guard.
func (h *Host) RemoveNetwork(ctx context.Context, n hypervisor.Network) error {
	err := h.do(ctx, callPatience, func(l *libvirt.Libvirt) error {
		there, err := l.NetworkLookupByName(n.Name)
		if isCode(err, libvirt.ErrNoNetwork) {
			return nil
		}
		if err != nil {
			return err
		}
		err = l.NetworkDestroy(there)
		if isCode(err, libvirt.ErrNoNetwork) {
			return nil
		}
		return err
	})
	if err == nil {
		err = unguard(ctx, n.Bridge)
	}
	if err != nil {
		return fmt.Errorf("remove network %s: %w", n.Name, err)
	}
	return nil
}

// Leases lists what the network's DHCP server gave out.
func (h *Host) Leases(ctx context.Context, name string) ([]hypervisor.Lease, error) {
	leases, err := call(ctx, h, callPatience, func(l *libvirt.Libvirt) ([]hypervisor.Lease, error) {
		n, err := l.NetworkLookupByName(name)
		if err != nil {
			return nil, err
		}
		given, _, err := l.NetworkGetDhcpLeases(n, nil, 1, 0)
		var all []hypervisor.Lease
		for _, lease := range given {
			if len(lease.Mac) > 0 {
				all = append(all, hypervisor.Lease{MAC: lease.Mac[0], Address: lease.Ipaddr})
			}
		}
		return all, err
	})
	if err != nil {
		return nil, fmt.Errorf("list addresses of network %s: %w", name, err)
	}
	return leases, nil
}

// networkXML has no forward element: that is what makes it isolated.
func networkXML(n hypervisor.Network) (string, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "<network><name>%s</name><bridge name='%s' stp='off' delay='0'/>", escaped(n.Name), escaped(n.Bridge))
	if n.Address != "" {
		own, err := netip.ParsePrefix(n.Address)
		if err != nil || !own.Addr().Is4() || own.Bits() < 8 || own.Bits() > 29 {
			return "", fmt.Errorf("%q is not an address in an IPv4 network of /8 to /29", n.Address)
		}
		first, last := span(own)
		// No name server: what VMs ask for by name must not leave the network.
		fmt.Fprintf(&b, "<dns enable='no'/><ip address='%s' prefix='%d'><dhcp><range start='%s' end='%s'/></dhcp></ip>", own.Addr(), own.Bits(), first, last)
	}
	b.WriteString("</network>")
	return b.String(), nil
}

// span is the range that is given out: the longer one of what lies before and
// behind the host's own address, at most 200.
func span(own netip.Prefix) (first, last netip.Addr) {
	const most = 200
	all := own.Masked()
	size := uint32(1) << (32 - own.Bits())
	at := ordinal(own.Addr()) - ordinal(all.Addr())
	from, to := at+1, size-2
	if at > size/2 {
		from, to = 1, at-1
	}
	return address4(ordinal(all.Addr()) + from), address4(ordinal(all.Addr()) + min(to, from+most-1))
}

func ordinal(a netip.Addr) uint32 {
	b := a.As4()
	return uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
}

func address4(n uint32) netip.Addr {
	return netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
}

func escaped(s string) string {
	var b bytes.Buffer
	_ = xml.EscapeText(&b, []byte(s)) // a buffer takes all
	return b.String()
}

// guard lets through to the host what answers its own connections, and wishes for
// an address; nothing else that comes in by the bridge. The rules keep no state, so
// that they need no module of the kernel that may not be there.
func guard(ctx context.Context, bridge string) error {
	if err := unguard(ctx, bridge); err != nil {
		return err
	}
	for _, rule := range [][]string{
		{"-N", bridge},
		{"-A", bridge, "-p", "tcp", "--syn", "-j", "DROP"},
		{"-A", bridge, "-p", "tcp", "-j", "RETURN"},
		{"-A", bridge, "-p", "udp", "--dport", "67", "-j", "RETURN"},
		{"-A", bridge, "-p", "icmp", "--icmp-type", "echo-reply", "-j", "RETURN"},
		{"-A", bridge, "-j", "DROP"},
		{"-I", "INPUT", "1", "-i", bridge, "-j", bridge},
	} {
		if err := iptables(ctx, rule...); err != nil {
			return err
		}
	}
	return nil
}

// unguard takes the guard away, whole or in part.
func unguard(ctx context.Context, bridge string) error {
	out, err := exec.CommandContext(ctx, "iptables", "-w", "-S").Output()
	if errors.Is(err, exec.ErrNotFound) {
		return nil // then there is none
	}
	if err != nil {
		return fmt.Errorf("list the rules of the host: %w", err)
	}
	rules := string(out)
	for strings.Contains(rules, "-A INPUT -i "+bridge+" -j "+bridge+"\n") {
		if err := iptables(ctx, "-D", "INPUT", "-i", bridge, "-j", bridge); err != nil {
			return err
		}
		rules = strings.Replace(rules, "-A INPUT -i "+bridge+" -j "+bridge+"\n", "", 1)
	}
	if !strings.Contains(rules, "-N "+bridge+"\n") {
		return nil
	}
	if err := iptables(ctx, "-F", bridge); err != nil {
		return err
	}
	return iptables(ctx, "-X", bridge)
}

func iptables(ctx context.Context, args ...string) error {
	out, err := exec.CommandContext(ctx, "iptables", append([]string{"-w"}, args...)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("iptables %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}
