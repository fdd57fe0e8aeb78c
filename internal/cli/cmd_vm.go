package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"strings"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/api"
	"github.com/backstay/backstay/client"
	"github.com/spf13/cobra"
)

func (a *app) hostCommands() *cobra.Command {
	list := &cobra.Command{
		Use: "list", Short: "List the region's hosts", Example: "  backstay host list", Args: exactly(),
		RunE: a.call(func(ctx context.Context, c *client.Client, _ []string) error {
			hosts, err := c.Hosts(ctx)
			if err != nil {
				return err
			}
			return a.emit(hosts, func(w io.Writer) {
				row(w, "HOST", "STATE", "LAST SEEN", "HYPERVISOR", "WHY")
				for _, h := range hosts {
					row(w, h.Name, h.State, a.when(h.LastSeen), h.Facts.Hypervisor, oneLine(h.Reason))
				}
			})
		}),
	}
	show := &cobra.Command{
		Use: "show HOST", Short: "Show one host", Example: "  backstay host show local", Args: exactly("HOST"),
		RunE: a.call(func(ctx context.Context, c *client.Client, args []string) error {
			h, err := c.Host(ctx, backstay.HostName(args[0]))
			if err != nil {
				return err
			}
			rooms, err := c.Rooms(ctx, h.Name)
			if err != nil {
				return err
			}
			return a.emit(h, func(w io.Writer) {
				a.hostTable(w, h)
				roomsTable(w, rooms)
			})
		}),
	}
	return a.group("host", "Machines that run libvirt", "  backstay host list\n  backstay host show local", list, show)
}

func (a *app) hostTable(w io.Writer, h backstay.Host) {
	row(w, "host", h.Name)
	row(w, "state", because(h.State, h.Reason))
	row(w, "last seen", a.when(h.LastSeen))
	row(w, "hypervisor", h.Facts.Hypervisor)
	row(w, "KVM", yesNo(h.Facts.Accelerated))
	row(w, "UEFI guests", yesNo(h.Facts.UEFI))
	row(w, "vTPM", yesNo(h.Facts.TPM))
	row(w, "networks", strings.Join(h.Facts.Networks, ", "))
	row(w, "bridges", strings.Join(h.Facts.Bridges, ", "))
	for _, p := range h.Facts.Pools {
		row(w, "pool "+p.Name, fmt.Sprintf("%s, %s free", p.Path, size(p.Available)))
	}
}

// roomsTable shows the room beside the disks, if layers take some.
func roomsTable(w io.Writer, rooms []backstay.Room) {
	if len(rooms) == 0 {
		return
	}
	row(w, "")
	row(w, "LAYERS IN", "FREE", "OF", "MUST STAY FREE", "VM", "POINTS", "TAKE", "WARNING")
	for _, r := range rooms {
		for _, vm := range r.VMs {
			row(w, r.Folder, size(r.Free), size(r.Total), size(r.Floor), first(vm.VM.Name, string(vm.VM.UUID)), vm.Depth, size(vm.Active+vm.Frozen), r.Warning)
		}
	}
}

func (a *app) vmCommands() *cobra.Command {
	list := &cobra.Command{
		Use: "list", Short: "List all VMs, protected or not, and why one cannot be", Example: "  backstay vm list\n  backstay vm list -o json",
		Args: exactly(),
		RunE: a.call(func(ctx context.Context, c *client.Client, _ []string) error {
			vms, err := c.VMs(ctx)
			if err != nil {
				return err
			}
			return a.emit(vms, func(w io.Writer) {
				row(w, "VM", "STATE", "DISKS", "AGENT", "PROTECTION", "LAST POINT")
				for _, vm := range vms {
					row(w, vmLabel(vm.Ref()), vm.State, disks(vm.VM), vm.Agent, protection(vm), lastPoint(a, vm))
				}
			})
		}),
	}
	show := &cobra.Command{
		Use: "show VM", Short: "Show one VM, its disks and its protection", Example: "  backstay vm show web01\n  backstay vm show east/web01 -o json",
		Args: exactly("VM"), ValidArgsFunction: a.completeVMs(),
		RunE: a.call(func(ctx context.Context, c *client.Client, args []string) error {
			vm, err := c.VM(ctx, args[0])
			if err != nil {
				return err
			}
			return a.emit(vm, func(w io.Writer) { a.vmTable(w, vm) })
		}),
	}
	return a.group("vm", "Virtual machines", "  backstay vm list\n  backstay vm show web01", list, show)
}

func (a *app) vmTable(w io.Writer, vm api.VMDetail) {
	row(w, "VM", vmLabel(vm.Ref()))
	row(w, "UUID", vm.ID)
	row(w, "state", vm.State)
	row(w, "machine", fmt.Sprintf("%s %s, %s, %d vCPUs, %s", vm.Arch, vm.Machine, vm.Firmware, vm.VCPUs, size(vm.MemoryMiB<<20)))
	row(w, "vTPM", yesNo(vm.TPM))
	row(w, "guest agent", vm.Agent)
	row(w, "protection", protection(vm))
	if vm.Group != "" {
		row(w, "group", vm.Group)
	}
	for _, warning := range vm.Warnings {
		row(w, "warning", warning)
	}
	if len(vm.Checkpoints) > 0 {
		row(w, "checkpoints", strings.Join(vm.Checkpoints, ", "))
	}
	if p := vm.Protection; p != nil {
		row(w, "method", cmp.Or(p.Method, backstay.MethodLayers))
		row(w, "last point", a.whenPtr(p.LastPoint))
		row(w, "next due", a.whenPtr(p.NextDue))
	}
	row(w, "")
	row(w, "DISK", "SIZE", "FORMAT", "BUS", "SOURCE", "BACKED UP")
	for _, d := range vm.Disks {
		row(w, d.Target, size(d.Size), d.Format, d.Bus, d.Source, backedUp(vm, d.Target))
	}
	row(w, "")
	row(w, "NIC", "KIND", "NETWORK", "MODEL")
	for _, n := range vm.NICs {
		row(w, n.MAC, n.Kind, n.Network, n.Model)
	}
}

func backedUp(vm api.VMDetail, target backstay.DiskTarget) string {
	for _, v := range vm.Verdicts {
		switch {
		case v.Target != target:
		case v.Included && vm.Protection == nil:
			return "possible"
		case v.Excluded:
			return because("no", v.Reason)
		case !v.Included:
			return because("not possible", v.Reason)
		}
	}
	return "yes"
}

func protection(vm api.VMDetail) string {
	switch {
	case vm.Protection != nil:
		return fmt.Sprintf("%s, vault %s", vm.Protection.Policy, vm.Protection.Vault)
	case vm.Reason != "":
		return "not possible: " + vm.Reason
	case len(vm.Possible()) == 0:
		return "not possible: no disk can be backed up"
	}
	return "none"
}

func disks(vm backstay.VM) string {
	var total int64
	n := 0
	for _, d := range vm.Disks {
		if d.Device == "disk" {
			n, total = n+1, total+d.Size
		}
	}
	return fmt.Sprintf("%d, %s", n, size(total))
}

func lastPoint(a *app, vm api.VMDetail) string {
	if vm.Protection == nil {
		return ""
	}
	return a.whenPtr(vm.Protection.LastPoint)
}

func because(state, reason string) string {
	if reason == "" {
		return state
	}
	return state + ": " + reason
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func (a *app) protectCommand() *cobra.Command {
	var r api.ProtectRequest
	var policy, vault, method string
	var include, exclude []string
	c := &cobra.Command{
		Use: "protect VM --policy P --vault V", Short: "Put a VM under a policy, in a vault",
		Example: "  backstay protect web01 --policy daily --vault default\n  backstay protect db01 --policy daily --vault default --exclude-disk vdb\n  backstay protect old01 --policy daily --vault default --method pull\n  backstay protect safe01 --policy daily --vault default --key-service corp\n  backstay protect web01 --policy daily --vault default --adopt 5f6c2f3e-…",
		Args:    exactly("VM"), ValidArgsFunction: a.completeVMs(),
		RunE: a.call(func(ctx context.Context, c *client.Client, args []string) error {
			r.Policy, r.Vault = backstay.PolicyName(policy), backstay.VaultName(vault)
			r.Method = backstay.Method(method)
			r.IncludeDisks, r.ExcludeDisks = diskTargets(include), diskTargets(exclude)
			out, err := c.Protect(ctx, args[0], r)
			if err != nil {
				return err
			}
			for _, warning := range out.Warnings {
				a.note("warning: %s", warning)
			}
			return a.emit(out.Item, func(w io.Writer) { protectedTable(w, out) })
		}),
	}
	f := c.Flags()
	f.StringVar(&policy, "policy", "", "the policy")
	f.StringVar(&vault, "vault", "", "the vault")
	f.StringVar(&method, "method", "", "how points are taken: layers (the default), or pull for disks that shall have no overlays")
	f.StringSliceVar(&include, "include-disk", nil, "back up only these disks, and none that is added later")
	f.StringSliceVar(&exclude, "exclude-disk", nil, "leave these disks out; one that is added later is backed up")
	f.StringVar(&r.KeyService, "key-service", "", "let this outside key service wrap the VM's secrets in its points")
	f.StringVar(&r.Adopt, "adopt", "", "take over the points of this VM, which was deleted, moved or made again by hand")
	mustHave(c, "policy", "vault")
	return c
}

func protectedTable(w io.Writer, out api.ProtectResponse) {
	fmt.Fprintf(w, "%s is protected: policy %s, vault %s\n", vmLabel(out.Item.VM), out.Item.Policy, out.Item.Vault)
	for _, d := range out.Disks {
		if d.Included {
			fmt.Fprintf(w, "disk %s is backed up\n", d.Target)
		} else {
			fmt.Fprintf(w, "disk %s is not backed up: %s\n", d.Target, d.Reason)
		}
	}
}

// mustHave marks flags as required; it panics on a name that is not there,
// which the test over all commands would find.
func mustHave(c *cobra.Command, flags ...string) {
	for _, name := range flags {
		if err := c.MarkFlagRequired(name); err != nil {
			panic(err)
		}
	}
}

func diskTargets(words []string) []backstay.DiskTarget {
	var out []backstay.DiskTarget
	for _, w := range words {
		out = append(out, backstay.DiskTarget(w))
	}
	return out
}

func (a *app) unprotectCommand() *cobra.Command {
	var o client.UnprotectOptions
	c := &cobra.Command{
		Use: "unprotect VM", Short: "End a VM's protection; its points in vaults stay unless told otherwise",
		Long: "End a VM's protection and put it back on its own files: the layers beside its disks are merged,\n" +
			"while the VM runs on. Its points in vaults stay and can be restored.",
		Example: "  backstay unprotect web01\n  backstay unprotect web01 --drop-snapshot-points --yes\n  backstay unprotect web01 --delete-data --yes",
		Args:    exactly("VM"), ValidArgsFunction: a.completeVMs(),
		RunE: a.call(func(ctx context.Context, c *client.Client, args []string) error {
			switch {
			case o.DeleteData:
				if err := a.confirm("end the protection of %s and delete all of its recovery points", args[0]); err != nil {
					return err
				}
			case o.DropSnapshotPoints:
				if err := a.confirm("end the protection of %s and delete its recovery points that are in no vault", args[0]); err != nil {
					return err
				}
			}
			out, err := c.Unprotect(ctx, args[0], o)
			if err != nil {
				return err
			}
			err = a.emit(out, func(w io.Writer) {
				fmt.Fprintf(w, "%s is no longer protected; %d recovery points stay\n", vmLabel(out.Item.VM), out.PointsKept)
				for _, job := range out.Jobs {
					if job.Point == "" {
						fmt.Fprintf(w, "job %s puts the VM back on its own files\n", job.ID)
					} else {
						fmt.Fprintf(w, "job %s deletes point %s\n", job.ID, job.Point)
					}
				}
			})
			if err != nil || a.noWait {
				return err
			}
			if err := a.waitAll(ctx, c, out.Jobs); err != nil {
				return err
			}
			return a.sayFiles(ctx, c, out)
		}),
	}
	c.Flags().BoolVar(&o.DeleteData, "delete-data", false, "delete the VM's recovery points too")
	c.Flags().BoolVar(&o.DropSnapshotPoints, "drop-snapshot-points", false, "also delete the recovery points that are in no vault")
	return a.noWaitFlag(a.yesFlag(c))
}

// sayFiles names the files that a VM is on when its protection has ended.
func (a *app) sayFiles(ctx context.Context, c *client.Client, out api.UnprotectResponse) error {
	for _, job := range out.Jobs {
		if job.Point != "" {
			continue
		}
		ended, err := c.Job(ctx, job.ID)
		if err != nil {
			return err
		}
		if len(ended.Result.Disks) > 0 {
			a.note("%s is on %s", vmLabel(out.Item.VM), strings.Join(ended.Result.Disks, ", "))
		}
	}
	return nil
}

// waitAll waits for several jobs and returns the first error.
func (a *app) waitAll(ctx context.Context, c *client.Client, jobs []backstay.Job) error {
	var failed error
	for _, job := range jobs {
		p := a.progress(ctx)
		ended, err := c.Follow(ctx, job.ID, p.show)
		p.end()
		if err != nil {
			return err
		}
		if err := outcome(ended); err != nil && failed == nil {
			failed = err
		}
	}
	return failed
}
