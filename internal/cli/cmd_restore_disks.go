package cli

import (
	"context"
	"strings"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/client"
	"github.com/spf13/cobra"
)

func (a *app) restoreDisksCommand() *cobra.Command {
	r := backstay.RestoreRequest{Kind: backstay.RestoreDisks}
	var host string
	var disks []string
	c := &cobra.Command{
		Use: "disks POINT --to DIR|POOL|DEVICE", Short: "Restore disks and a template, without a VM",
		Long: "Write disks of a point into a folder of their own on a host, and beside them all\nthat a VM can be made of: its definition for virsh, a template with typed\n" +
			"parameters for `backstay deploy`, and files for OpenTofu or Terraform. The whole\nis one folder. It is DIR itself if that is new or empty, else a folder in it that\n" +
			"is named for the VM and the time of the point. With a block device one disk is\nwritten over what is on it; the template goes to the host's first pool.",
		Example: "  backstay restore disks web01@latest --to /srv/restored\n" +
			"  backstay restore disks web01@latest --to default --os-disk-only --format raw\n" +
			"  backstay restore disks 01K9ZQ --to /srv/lab --disk vdb --tier vault --host west\n" +
			"  backstay restore disks db01@latest --to /dev/vg0/db01 --disk vda --yes\n" +
			"  backstay restore disks web01@latest --to /srv/restored --dry-run -o json",
		Args: exactly("POINT"), ValidArgsFunction: a.completePoints(),
		RunE: a.call(func(ctx context.Context, c *client.Client, args []string) error {
			r.Point, r.Host = backstay.PointID(args[0]), backstay.HostName(host)
			for _, d := range disks {
				r.Disks = append(r.Disks, backstay.DiskTarget(d))
			}
			if err := a.mayOverwrite(ctx, c, r); err != nil {
				return err
			}
			return a.restore(ctx, c, r)
		}),
	}
	f := c.Flags()
	f.StringVar(&r.To, "to", "", "a folder, a pool or a block device of the host")
	f.StringVar(&host, "host", "", "host that gets them; the point's own unless told otherwise")
	f.StringSliceVar(&disks, "disk", nil, "only this disk, such as vda; repeat for more")
	f.BoolVar(&r.OSDisk, "os-disk-only", false, "only the disk that the VM boots from")
	f.StringVar(&r.Format, "format", "", "qcow2, raw, vmdk or vhdx; the disk's own unless told otherwise")
	mustHave(c, "to")
	return a.yesFlag(a.restoreFlags(c, &r))
}

// mayOverwrite asks before a device loses what is on it.
func (a *app) mayOverwrite(ctx context.Context, c *client.Client, r backstay.RestoreRequest) error {
	if r.DryRun || !strings.HasPrefix(r.To, "/dev/") {
		return nil
	}
	dry := r
	dry.DryRun = true
	out, err := c.StartRestore(ctx, dry)
	if err != nil {
		return err
	}
	if err := out.Plan.Refusal(); err != nil {
		return err
	}
	for _, d := range out.Plan.Disks {
		if d.Device {
			return a.confirm("write over all that is on %s of host %s", d.Path, out.Plan.Host)
		}
	}
	return nil
}
