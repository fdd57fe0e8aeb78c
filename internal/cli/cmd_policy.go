package cli

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/client"
	"github.com/spf13/cobra"
)

func (a *app) policyCommands() *cobra.Command {
	list := &cobra.Command{
		Use: "list", Short: "List the policies", Example: "  backstay policy list", Args: exactly(),
		RunE: a.call(func(ctx context.Context, c *client.Client, _ []string) error {
			policies, err := c.Policies(ctx)
			if err != nil {
				return err
			}
			return a.emit(policies, func(w io.Writer) {
				row(w, "POLICY", "EVERY", "CONSISTENCY", "SNAPSHOT TIER", "VAULT TIER")
				for _, p := range policies {
					row(w, p.Name, every(p), p.Consistency, snapshotKeep(p.Snapshot), vaultKeep(p.Vault))
				}
			})
		}),
	}
	show := &cobra.Command{
		Use: "show POLICY", Short: "Show one policy", Example: "  backstay policy show daily", Args: exactly("POLICY"),
		RunE: a.call(func(ctx context.Context, c *client.Client, args []string) error {
			p, err := c.Policy(ctx, backstay.PolicyName(args[0]))
			if err != nil {
				return err
			}
			return a.emit(p, func(w io.Writer) { policyTable(w, p) })
		}),
	}
	remove := &cobra.Command{
		Use: "delete POLICY", Short: "Delete a policy that protects nothing", Example: "  backstay policy delete old --yes", Args: exactly("POLICY"),
		RunE: a.call(func(ctx context.Context, c *client.Client, args []string) error {
			if err := a.confirm("delete the policy %s", args[0]); err != nil {
				return err
			}
			if err := c.DeletePolicy(ctx, backstay.PolicyName(args[0])); err != nil {
				return err
			}
			a.note("policy %s is deleted", args[0])
			return nil
		}),
	}
	return a.group("policy", "Schedules and retention", "  backstay policy list\n  backstay policy create hourly --every 1h --keep-last 24 --daily 7",
		a.policyCreateCommand(), list, show, a.yesFlag(remove))
}

func (a *app) policyCreateCommand() *cobra.Command {
	interval := duration(24 * time.Hour)
	p := backstay.Policy{Consistency: backstay.FileSystemConsistent, Snapshot: backstay.SnapshotKeep{Days: 2, Count: 5}}
	c := &cobra.Command{
		Use: "create NAME", Short: "Make a policy",
		Long: "Make a policy: how often points are taken, and how long each tier keeps them.\nWithout any rule for the vault it keeps the last 7 points there.",
		Example: "  backstay policy create daily\n" +
			"  backstay policy create prod --every 4h --snapshot-days 3 --snapshot-count 5 --keep-last 7 --daily 7 --weekly 4 --monthly 12 --yearly 1",
		Args: exactly("NAME"),
	}
	f := c.Flags()
	f.Var(&interval, "every", "time between two backups; 0 for backups by hand only")
	f.Var(consistencyFlag(&p.Consistency), "consistency", "what to wish for; a weaker one is taken, and said, when the guest allows no better")
	f.IntVar(&p.Snapshot.Days, "snapshot-days", p.Snapshot.Days, "days in the snapshot tier, 1 to 30")
	f.IntVar(&p.Snapshot.Count, "snapshot-count", p.Snapshot.Count, "points in the snapshot tier; 0 for no limit")
	f.IntVar(&p.Vault.Last, "keep-last", 0, "newest points that the vault keeps")
	f.IntVar(&p.Vault.Daily, "daily", 0, "days of which the vault keeps the newest point")
	f.IntVar(&p.Vault.Weekly, "weekly", 0, "weeks of which the vault keeps the newest point")
	f.IntVar(&p.Vault.Monthly, "monthly", 0, "months of which the vault keeps the newest point")
	f.IntVar(&p.Vault.Yearly, "yearly", 0, "years of which the vault keeps the newest point")
	c.RunE = a.call(func(ctx context.Context, cl *client.Client, args []string) error {
		p.Name, p.Every = backstay.PolicyName(args[0]), backstay.Duration(interval)
		ruled := false
		for _, name := range []string{"keep-last", "daily", "weekly", "monthly", "yearly"} {
			ruled = ruled || f.Changed(name)
		}
		if !ruled {
			p.Vault.Last = 7
		}
		made, err := cl.CreatePolicy(ctx, p)
		if err != nil {
			return err
		}
		return a.emit(made, func(w io.Writer) { policyTable(w, made) })
	})
	return c
}

func policyTable(w io.Writer, p backstay.Policy) {
	row(w, "policy", p.Name)
	row(w, "every", every(p))
	row(w, "consistency", p.Consistency)
	row(w, "snapshot tier", snapshotKeep(p.Snapshot))
	row(w, "vault tier", vaultKeep(p.Vault))
}

func every(p backstay.Policy) string {
	if p.Every == 0 {
		return "by hand"
	}
	return span(time.Duration(p.Every))
}

func snapshotKeep(k backstay.SnapshotKeep) string {
	if k.Count == 0 {
		return fmt.Sprintf("%d days", k.Days)
	}
	return fmt.Sprintf("%d days, %d points at most", k.Days, k.Count)
}

func vaultKeep(k backstay.VaultKeep) string {
	var parts []string
	for _, rule := range []struct {
		n    int
		what string
	}{{k.Last, "last"}, {k.Daily, "daily"}, {k.Weekly, "weekly"}, {k.Monthly, "monthly"}, {k.Yearly, "yearly"}} {
		if rule.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", rule.n, rule.what))
		}
	}
	return strings.Join(parts, ", ")
}
