package cli

import (
	"context"
	"io"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/api"
	"github.com/backstay/backstay/client"
	"github.com/spf13/cobra"
)

func (a *app) backupCommand() *cobra.Command {
	var r api.BackupRequest
	var retain duration
	c := &cobra.Command{
		Use: "backup VM|GROUP", Short: "Take a recovery point of a protected VM, or of all VMs of a group, now",
		Long: "Take a recovery point of a protected VM now, or of all VMs of a group at one\ninstant. While an earlier point of the VM is still on its way to the vault, only\nthe snapshot is taken: the next transfer carries what changed. Where a VM and a\ngroup have one name, say HOST/NAME or group:NAME.",
		Example: "  backstay backup web01\n" +
			"  backstay backup group:shop\n" +
			"  backstay backup web01 --tier snapshot --no-wait\n" +
			"  backstay backup web01 --consistency crash --retain 30d -o json",
		Args: exactly("VM|GROUP"), ValidArgsFunction: a.completeVMs(),
		RunE: a.call(func(ctx context.Context, c *client.Client, args []string) error {
			r.VM, r.Retain = args[0], backstay.Duration(retain)
			out, err := c.StartBackup(ctx, r)
			if err != nil {
				return err
			}
			for _, warning := range out.Warnings {
				a.note("warning: %s", oneLine(warning))
			}
			if out.Job == nil {
				return a.backupPlans(out.Plans)
			}
			return a.started(ctx, c, *out.Job)
		}),
	}
	f := c.Flags()
	f.Var(tierFlag(&r.Tier), "tier", "how far the point goes; to the vault unless told otherwise")
	f.Var(consistencyFlag(&r.Consistency), "consistency", "what to wish for instead of what the policy says")
	f.Var(&retain, "retain", "keep the point at least this long, whatever the policy says")
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
