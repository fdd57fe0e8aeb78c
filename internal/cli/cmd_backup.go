package cli

import (
	"context"
	"fmt"
	"io"
	"strings"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/api"
	"github.com/backstay/backstay/client"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

func (a *app) backupCommand() *cobra.Command {
	var r api.BackupRequest
	var retain duration
	var image imageFlags
	var c *cobra.Command
	c = &cobra.Command{
		Use: "backup VM|GROUP", Short: "Take a recovery point of a protected VM, of a group, or of image files, now",
		Long: "Take a recovery point of a protected VM now, or of all VMs of a group at one\ninstant. While an earlier point of the VM is still on its way to the vault, only\nthe snapshot is taken: the next transfer carries what changed. Where a VM and a\ngroup have one name, say HOST/NAME or group:NAME.\n\nWith --image the disk image files of a machine that no host has are backed up\ninstead: qcow2, raw, VMDK or VHDX, each in one file that stands on no other. From\nthe point a VM can be made like from any other.",
		Example: "  backstay backup web01\n" +
			"  backstay backup group:shop\n" +
			"  backstay backup web01 --tier snapshot --no-wait\n" +
			"  backstay backup web01 --consistency crash --retain 30d -o json\n" +
			"  backstay backup --image /srv/old/web.vmdk --as web-old --disk vdb=/srv/old/data.vhdx",
		Args: cobra.ArbitraryArgs, ValidArgsFunction: a.completeVMs(),
		RunE: a.call(func(ctx context.Context, to *client.Client, args []string) error {
			var err error
			if r.Image, err = image.request(c, args); err != nil {
				return err
			}
			if r.Image == nil {
				r.VM = args[0]
			}
			r.Retain = backstay.Duration(retain)
			out, err := to.StartBackup(ctx, r)
			if err != nil {
				return err
			}
			for _, warning := range out.Warnings {
				a.note("warning: %s", oneLine(warning))
			}
			if out.Job == nil {
				return a.backupPlans(out.Plans)
			}
			return a.started(ctx, to, *out.Job)
		}),
	}
	f := c.Flags()
	f.Var(tierFlag(&r.Tier), "tier", "how far the point goes; to the vault unless told otherwise")
	f.Var(consistencyFlag(&r.Consistency), "consistency", "what to wish for instead of what the policy says")
	f.Var(&retain, "retain", "keep the point at least this long, whatever the policy says")
	image.add(f)
	f.BoolVar(&r.DryRun, "dry-run", false, "print the plan and do nothing")
	return a.noWaitFlag(c)
}

// backupPlans prints the plan of a VM, or those of a group.
func (a *app) backupPlans(plans []api.BackupPlan) error {
	if len(plans) == 1 {
		return a.emit(plans[0], func(w io.Writer) { backupPlanTable(w, plans[0]) })
	}
	return a.emit(plans, func(w io.Writer) {
		for i, p := range plans {
			if i > 0 {
				row(w, "")
			}
			backupPlanTable(w, p)
		}
	})
}

func backupPlanTable(w io.Writer, p api.BackupPlan) {
	row(w, "VM", vmLabel(p.VM))
	row(w, "consistency", because(string(p.Consistency), p.ConsistencyReason))
	for _, n := range p.Notes {
		row(w, "note", n)
	}
	row(w, "")
	row(w, "DISK", "BACKED UP", "HOW")
	for _, d := range p.Disks {
		if d.Included {
			row(w, d.Target, "yes", d.Mode)
		} else {
			row(w, d.Target, because("no", d.Reason), "")
		}
	}
}

// imageFlags are the flags of a backup of image files.
type imageFlags struct {
	image, as, format, bus string
	disks                  []string
	rest                   backstay.ImageBackup
}

func (i *imageFlags) add(f *pflag.FlagSet) {
	f.StringVar(&i.image, "image", "", "back up this image `file` of a host as a VM that the host does not have")
	f.StringVar(&i.as, "as", "", "the `name` of that VM; the same name again continues its points")
	f.StringArrayVar(&i.disks, "disk", nil, "a further image file, as `TARGET=FILE`: vdb=/srv/data.vhdx")
	f.StringVar(&i.format, "format", "", "the format of the image files: qcow2, raw, vmdk or vhdx; their first bytes tell unless it is said")
	f.StringVar(&i.bus, "bus", "virtio", "what the first disk is connected to: virtio or sata")
	f.StringVar((*string)(&i.rest.Host), "host", "", "the `host` that has the image files")
	f.StringVar((*string)(&i.rest.Vault), "vault", "", "the `vault` that gets the image files")
	f.StringVar((*string)(&i.rest.Policy), "policy", "", "the `policy` that says how long points of image files are kept; all are kept without one")
	f.StringVar((*string)(&i.rest.Firmware), "firmware", "", "what the image boots with: bios or uefi")
	f.StringVar(&i.rest.Network, "network", "", "the libvirt `network` of the VM that a restore makes; none without it")
}

// request is the backup of image files that the flags ask for; nil for none.
func (i *imageFlags) request(c *cobra.Command, args []string) (*backstay.ImageBackup, error) {
	usage := func(format string, a ...any) error { return usageError(c, fmt.Errorf(format, a...)) }
	if i.image == "" {
		for _, name := range []string{"as", "disk", "format", "bus", "host", "vault", "policy", "firmware", "network"} {
			if c.Flags().Changed(name) {
				return nil, usage("--%s is for image files, and --image is missing", name)
			}
		}
		if len(args) != 1 {
			return nil, usage("it takes one VM or group, or --image, and got %d arguments", len(args))
		}
		return nil, nil
	}
	first := backstay.DiskTarget("vda")
	switch {
	case len(args) > 0:
		return nil, usage("both a VM and an image file are named")
	case i.as == "":
		return nil, usage("image files need a name: --as is missing")
	case i.bus == "sata":
		first = "sda"
	case i.bus != "virtio":
		return nil, usage("%q is no bus of a disk; there are virtio and sata", i.bus)
	}
	image := i.rest
	image.Name = i.as
	image.Disks = []backstay.ImageDisk{{Target: first, Path: i.image, Format: i.format}}
	for _, d := range i.disks {
		target, path, ok := strings.Cut(d, "=")
		if !ok {
			return nil, usage("%q is not TARGET=FILE", d)
		}
		image.Disks = append(image.Disks, backstay.ImageDisk{Target: backstay.DiskTarget(target), Path: path, Format: i.format})
	}
	return &image, nil
}
