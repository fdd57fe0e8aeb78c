package cli

import (
	"context"
	"fmt"
	"io"
	"strings"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/client"
	"github.com/spf13/cobra"
)

func (a *app) pointCommands() *cobra.Command {
	list := &cobra.Command{
		Use: "list [VM]", Short: "List recovery points, newest first", Example: "  backstay point list\n  backstay point list web01 -o json",
		Args: atMostOne, ValidArgsFunction: a.completeVMs(),
		RunE: a.call(func(ctx context.Context, c *client.Client, args []string) error {
			points, err := c.Points(ctx, first(args...))
			if err != nil {
				return err
			}
			return a.emit(points, func(w io.Writer) {
				row(w, "POINT", "VM", "TIME", "CONSISTENCY", "TIERS", "VAULT", "EXPIRES", "REPLICAS")
				for _, p := range points {
					row(w, p.ID, vmLabel(p.VM), a.when(p.Time), p.Consistency, tiers(p), p.Vault, expires(a, p), replicas(p))
				}
			})
		}),
	}
	show := &cobra.Command{
		Use: "show POINT", Short: "Show one recovery point",
		Example: "  backstay point show web01@latest\n  backstay point show web01@2026-11-22T10:00:00Z -o json",
		Args:    exactly("POINT"), ValidArgsFunction: a.completePoints(),
		RunE: a.call(func(ctx context.Context, c *client.Client, args []string) error {
			p, err := c.Point(ctx, args[0])
			if err != nil {
				return err
			}
			return a.emit(p, func(w io.Writer) { a.pointTable(w, p) })
		}),
	}
	var on string
	restores := &cobra.Command{
		Use: "restores POINT", Short: "Show which restores a point allows, and if not, why",
		Long:    "Show which kinds of restore a point allows, and if not, why: from what the\nregion knows at the moment. `backstay restore … --dry-run` asks the host and the\nvault themselves.",
		Example: "  backstay point restores web01@latest\n  backstay point restores web01@latest --host west -o json",
		Args:    exactly("POINT"), ValidArgsFunction: a.completePoints(),
		RunE: a.call(func(ctx context.Context, c *client.Client, args []string) error {
			r, err := c.PointRestores(ctx, args[0], backstay.HostName(on))
			if err != nil {
				return err
			}
			return a.emit(r, func(w io.Writer) { restoresTable(w, r) })
		}),
	}
	restores.Flags().StringVar(&on, "host", "", "the host that shall get what is restored; the point's own unless told otherwise")
	return a.group("point", "Recovery points", "  backstay point list web01\n  backstay point show web01@latest",
		list, show, restores, a.pointVerifyCommand(), a.pointPinCommand(true), a.pointPinCommand(false), a.pointDiffCommand(), a.pointDeleteCommand())
}

func (a *app) pointVerifyCommand() *cobra.Command {
	var tier backstay.Tier
	c := &cobra.Command{
		Use: "verify POINT", Short: "Read a whole point and compute the SHA-256 of its disks",
		Example: "  backstay point verify web01@latest\n  backstay point verify web01@latest --tier snapshot",
		Args:    exactly("POINT"), ValidArgsFunction: a.completePoints(),
		RunE: a.call(func(ctx context.Context, c *client.Client, args []string) error {
			job, err := c.VerifyPoint(ctx, args[0], tier)
			if err != nil {
				return err
			}
			return a.started(ctx, c, job)
		}),
	}
	c.Flags().Var(tierFlag(&tier), "tier", "the tier to read; the vault if the point is there")
	return a.noWaitFlag(c)
}

func (a *app) pointPinCommand(pin bool) *cobra.Command {
	c := &cobra.Command{
		Use: "pin POINT", Short: "Keep a recovery point until it is unpinned",
		Long:    "Keep a recovery point, in all tiers that it is in, whatever its policy says, until it is unpinned.",
		Example: "  backstay point pin web01@latest",
	}
	if !pin {
		c = &cobra.Command{
			Use: "unpin POINT", Short: "Let a recovery point go by its policy again",
			Example: "  backstay point unpin 01K9ZQ",
		}
	}
	c.Args, c.ValidArgsFunction = exactly("POINT"), a.completePoints()
	c.RunE = a.call(func(ctx context.Context, cl *client.Client, args []string) error {
		change, done := cl.PinPoint, "point %s of %s is pinned"
		if !pin {
			change, done = cl.UnpinPoint, "point %s of %s goes by its policy again"
		}
		p, err := change(ctx, args[0])
		if err != nil {
			return err
		}
		a.note(done, p.ID, vmLabel(p.VM))
		return a.emit(p, func(w io.Writer) { a.pointTable(w, p) })
	})
	return c
}

func (a *app) pointDeleteCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "delete POINT", Short: "Delete a recovery point from all its tiers",
		Example: "  backstay point delete 01K9ZQ --yes",
		Args:    exactly("POINT"), ValidArgsFunction: a.completePoints(),
		RunE: a.call(func(ctx context.Context, c *client.Client, args []string) error {
			// What is asked about must be what is deleted: VM@latest may be
			// another point a moment later.
			p, err := c.Point(ctx, args[0])
			if err != nil {
				return err
			}
			if err := a.confirm("delete the recovery point %s of %s, taken at %s", p.ID, vmLabel(p.VM), a.when(p.Time)); err != nil {
				return err
			}
			job, err := c.DeletePoint(ctx, string(p.ID))
			if err != nil {
				return err
			}
			return a.started(ctx, c, job)
		}),
	}
	return a.noWaitFlag(a.yesFlag(c))
}

func tiers(p backstay.RecoveryPoint) string {
	var parts []string
	for _, t := range p.Tiers {
		if t.Tier == backstay.VaultTier && t.State == backstay.TierAvailable && p.ShortCopies > 0 {
			parts = append(parts, fmt.Sprintf("%s (short of %d copies)", t.Tier, p.ShortCopies))
		} else if t.State == backstay.TierAvailable {
			parts = append(parts, string(t.Tier))
		} else {
			parts = append(parts, fmt.Sprintf("%s (%s)", t.Tier, t.State))
		}
	}
	return strings.Join(parts, " + ")
}

func expires(a *app, p backstay.RecoveryPoint) string {
	if p.Pinned {
		return "pinned"
	}
	return a.whenPtr(p.Expires)
}

func (a *app) pointTable(w io.Writer, p backstay.RecoveryPoint) {
	row(w, "point", p.ID)
	row(w, "VM", fmt.Sprintf("%s (%s)", vmLabel(p.VM), p.VM.UUID))
	row(w, "time", a.when(p.Time))
	row(w, "consistency", because(string(p.Consistency), p.ConsistencyReason))
	row(w, "tiers", tiers(p))
	row(w, "vault", p.Vault)
	row(w, "expires", expires(a, p))
	row(w, "verified in the vault", a.whenPtr(p.Verified))
	if p.Damage != "" {
		row(w, "damage in the vault", p.Damage)
	}
	for _, r := range p.Replicas {
		row(w, "in region "+string(r.Region), because(string(r.State), fmt.Sprintf("lag %s, as of %s", seconds(r.LagSeconds), a.when(r.At))))
	}
	row(w, "parent", p.Parent)
	row(w, "firmware", p.Firmware)
	row(w, "vTPM", yesNo(p.TPM))
	row(w, "made by job", p.Job)
	if p.Group != "" {
		row(w, "group", p.Group)
	}
	row(w, "")
	row(w, "DISK", "SIZE", "FORMAT", "CHANGED", "STORED", "SHA-256")
	for _, d := range p.Disks {
		if !d.Included {
			row(w, d.Target, size(d.Size), d.Format, because("left out", d.Reason), "", "")
			continue
		}
		sum := ""
		if d.SHA256 != nil {
			sum = *d.SHA256
		}
		row(w, d.Target, size(d.Size), d.Format, size(d.ChangedBytes), size(d.StoredBytes), sum)
	}
	row(w, "")
	restoresTable(w, p.Restores)
}

func restoresTable(w io.Writer, r backstay.PossibleRestores) {
	row(w, "RESTORE", "POSSIBLE")
	for _, kind := range []struct {
		name string
		is   backstay.Allowed
	}{{"create-vm", r.CreateVM}, {"create-vm --live", r.Live}, {"replace-disks", r.ReplaceDisks}, {"disks", r.Disks}, {"files", r.Files}} {
		row(w, kind.name, because(yesNo(kind.is.Allowed), kind.is.Reason))
	}
}
