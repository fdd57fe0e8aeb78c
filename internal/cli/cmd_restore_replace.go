package cli

import (
	"context"
	"io"
	"strings"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/client"
	"github.com/spf13/cobra"
)

func (a *app) replaceDisksCommand() *cobra.Command {
	r := backstay.RestoreRequest{Kind: backstay.ReplaceDisks}
	var host, vm, waitFor string
	var disks []string
	timeout, keep := duration(0), duration(0)
	var c *cobra.Command
	set := func(flag string) bool { return c.Flags().Changed(flag) }
	c = &cobra.Command{
		Use: "replace-disks POINT", Short: "Put the disks of a point into the VM that it is of",
		Long: "Put the disks of a point into the VM that it is of. The VM keeps its name, UUID,\naddresses, devices, policy and points; disks that were added since are detached\nand kept, and those that it lost return. A safety point of the present state is\ntaken first, and the old disks are kept: `backstay restore undo JOB` puts\neverything back. The VM must be shut off, or --stop shuts it off.\n\nWith --vm the disks go into another VM than the one that the point is of: so a VM\ncomes home from the paired region, and only what differs is written.",
		Example: "  backstay restore replace-disks web01@latest --stop --start\n" +
			"  backstay restore replace-disks 01K9ZQ --disk vdb --stop --start\n" +
			"  backstay restore replace-disks web01@2025-04-01T02:00:00Z --tier vault --full\n" +
			"  backstay restore replace-disks web01-east@latest --vm web01 --stop --start\n" +
			"  backstay restore replace-disks web01@latest --dry-run",
		Args: exactly("POINT"), ValidArgsFunction: a.completePoints(),
		RunE: a.call(func(ctx context.Context, api *client.Client, args []string) (err error) {
			r.Point, r.Host, r.VM, r.KeepOld = backstay.PointID(args[0]), backstay.HostName(host), backstay.VMID(vm), backstay.Duration(keep)
			for _, d := range disks {
				r.Disks = append(r.Disks, backstay.DiskTarget(d))
			}
			if !r.Start && (set("wait-for") || set("timeout")) {
				return backstay.Errorf(backstay.CodeUsage, "nothing is waited for: the VM is not started").Becausef("--wait-for and --timeout are about its start").Do("say --start too, or leave them out")
			}
			if r.Start {
				if r.Probe, err = probe(waitFor, timeout); err != nil {
					return err
				}
			}
			return a.restore(ctx, api, r)
		}),
	}
	f := c.Flags()
	f.StringSliceVar(&disks, "disk", nil, "replace only this disk; repeat for more. The others stay as they are")
	f.BoolVar(&r.Stop, "stop", false, "shut the VM down first: its guest has a minute, then its power goes")
	f.BoolVar(&r.Start, "start", false, "start the VM afterwards")
	f.BoolVar(&r.NoSafetyPoint, "no-safety-point", false, "take no point of the present state first")
	f.BoolVar(&r.Full, "full", false, "from the vault: write whole disks instead of what differs")
	f.BoolVar(&r.DiscardSaved, "discard-saved", false, "throw the VM's saved memory away")
	f.Var(&keep, "keep-old", "how long the old disks are kept for an undo; 0 for 14 days")
	f.StringVar(&host, "host", "", "host that has the VM; the point's own unless told otherwise")
	f.StringVar(&vm, "vm", "", "the VM that gets the disks, if it is another than the point's; what it has is kept for an undo")
	f.StringVar(&waitFor, "wait-for", "agent", "with --start, when it is up: agent, console:TEXT, port:HOST:PORT, none")
	f.Var(&timeout, "timeout", "with --start, how long it may take to come up; 0 for five minutes")
	return a.restoreFlags(c, &r)
}

func (a *app) undoCommand() *cobra.Command {
	var r backstay.UndoRequest
	c := &cobra.Command{
		Use: "undo JOB", Short: "Take a restore back",
		Long: "Take a restore back, as long as what it replaced is kept. After replace-disks\nthe VM is put back on the disks that it had, in about a second at any size, and\nwhat its guest wrote since is kept as a recovery point. After create-vm the new\nVM goes with its disks, after disks the folder.",
		Example: "  backstay restore undo 01K9ZR --dry-run\n" +
			"  backstay restore undo 01K9ZR --stop --start --yes",
		Args: exactly("JOB"), ValidArgsFunction: a.completeJobs(),
		RunE: a.call(func(ctx context.Context, c *client.Client, args []string) error {
			look := r
			look.DryRun = true
			out, err := c.UndoRestore(ctx, backstay.JobID(args[0]), look)
			if err != nil {
				return err
			}
			if r.DryRun {
				return a.emit(out.Plan, func(w io.Writer) { undoTable(w, out.Plan) })
			}
			if err := a.confirm("%s", strings.Join(out.Plan.Effects, ", ")); err != nil {
				return err
			}
			out, err = c.UndoRestore(ctx, out.Plan.Job, r)
			if err != nil {
				return err
			}
			return a.started(ctx, c, *out.Job)
		}),
	}
	f := c.Flags()
	f.BoolVar(&r.Stop, "stop", false, "shut the VM down first: its guest has a minute, then its power goes")
	f.BoolVar(&r.Start, "start", false, "start the VM afterwards whose disks came back")
	f.BoolVar(&r.NoSafetyPoint, "no-safety-point", false, "keep no point of what the guest wrote since the restore")
	f.BoolVar(&r.DryRun, "dry-run", false, "print what would be done, and do nothing")
	return a.noWaitFlag(a.yesFlag(c))
}

func undoTable(w io.Writer, p backstay.UndoPlan) {
	row(w, "undo of", p.Job)
	row(w, "VM", vmLabel(p.VM))
	if p.Until != nil {
		row(w, "possible until", p.Until.Local().Format("2006-01-02 15:04 MST"))
	}
	for _, effect := range p.Effects {
		row(w, "will", effect)
	}
	row(w, "steps", strings.Join(p.Tasks, " → "))
}
