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
		Use: "backup VM", Short: "Take a recovery point of a protected VM now",
		Example: "  backstay backup web01\n" +
			"  backstay backup web01 --tier snapshot --no-wait\n" +
			"  backstay backup web01 --consistency crash --retain 30d -o json",
		Args: exactly("VM"), ValidArgsFunction: a.completeVMs(),
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
				return a.emit(out.Plan, func(w io.Writer) { backupPlanTable(w, out.Plan) })
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
