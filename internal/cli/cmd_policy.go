package cli

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/client"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
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
	return a.group("policy", "Schedules and retention", "  backstay policy list\n  backstay policy create hourly --every 1h --snapshot-count 8 --keep-last 24 --daily 7\n  backstay policy simulate hourly",
		a.policyCreateCommand(), a.policyEditCommand(), a.policySimulateCommand(), list, show, a.yesFlag(remove))
}

// policyFlags are the flags that say what a policy is.
type policyFlags struct {
	set      *pflag.FlagSet
	given    backstay.Policy
	interval duration
	budget   duration
	latency  duration
	fallback []string
	hooks    string
	index    bool
}

// newPolicyFlags puts the flags onto a command; start has their defaults.
func newPolicyFlags(c *cobra.Command, start backstay.Policy) *policyFlags {
	p := &policyFlags{set: c.Flags(), given: start, interval: duration(start.Every)}
	f, g := p.set, &p.given
	f.Var(&p.interval, "every", "time between two backups; 0 for backups by hand only")
	f.Var(consistencyFlag(&g.Consistency), "consistency", "what to wish for: application, file-system, crash")
	f.StringSliceVar(&p.fallback, "fallback", nil, "weaker consistencies that may be taken instead, strongest first, or none (default: all weaker ones)")
	f.StringVar(&p.hooks, "hooks", "", "who runs the application's hooks in the guest: exec (backstay) or agent (the guest agent's fsfreeze-hook)")
	f.StringArrayVar(&g.Guest.SkipMounts, "skip-mount", nil, "a mount point in the guest that is not frozen; may be repeated")
	f.Var(&p.budget, "freeze-budget", "longest time for which the guest stays frozen, 100ms to 30s; 0 for 2s")
	f.Var(&p.latency, "latency-limit", "how slow the guest's own disk requests may get before backups make way, 1ms to 30s; 0 for 100ms")
	f.IntVar(&g.Snapshot.Days, "snapshot-days", start.Snapshot.Days, "days in the snapshot tier, up to 30; 0 for no limit by age")
	f.IntVar(&g.Snapshot.Count, "snapshot-count", start.Snapshot.Count, "points in the snapshot tier; 0 for no limit; with --snapshot-days 0 none stay there, only the change map")
	f.IntVar(&g.Snapshot.Depth, "snapshot-depth", start.Snapshot.Depth, fmt.Sprintf("most points, each a layer, that a disk's chain may hold, up to %d; 0 for %d", backstay.MaxDepth, backstay.DefaultDepth))
	f.BoolVar(&p.index, "index", true, "list the files of each point in the vault, for `files find`")
	f.IntVar(&g.Vault.Last, "keep-last", 0, "newest points that the vault keeps")
	f.IntVar(&g.Vault.Daily, "daily", 0, "days of which the vault keeps the newest point")
	f.IntVar(&g.Vault.Weekly, "weekly", 0, "weeks of which the vault keeps the newest point")
	f.IntVar(&g.Vault.Monthly, "monthly", 0, "months of which the vault keeps the newest point")
	f.IntVar(&g.Vault.Yearly, "yearly", 0, "years of which the vault keeps the newest point")
	return p
}

// apply puts what was given onto a policy, and leaves the rest of it alone.
func (p *policyFlags) apply(to *backstay.Policy) {
	given := p.given
	for name, copy := range map[string]func(){
		"every":       func() { to.Every = backstay.Duration(p.interval) },
		"consistency": func() { to.Consistency = given.Consistency },
		"fallback":    func() { to.Fallback = fallbackOf(p.fallback) },
		"hooks":       func() { to.Guest.Hooks = backstay.HookMode(p.hooks) },
		"skip-mount": func() {
			to.Guest.SkipMounts = slices.DeleteFunc(given.Guest.SkipMounts, func(m string) bool { return m == "" })
		},
		"freeze-budget":  func() { to.Guest.FreezeBudget = backstay.Duration(p.budget) },
		"latency-limit":  func() { to.Guest.LatencyLimit = backstay.Duration(p.latency) },
		"snapshot-days":  func() { to.Snapshot.Days = given.Snapshot.Days },
		"snapshot-count": func() { to.Snapshot.Count = given.Snapshot.Count },
		"snapshot-depth": func() { to.Snapshot.Depth = given.Snapshot.Depth },
		"index":          func() { to.NoIndex = !p.index },
		"keep-last":      func() { to.Vault.Last = given.Vault.Last },
		"daily":          func() { to.Vault.Daily = given.Vault.Daily },
		"weekly":         func() { to.Vault.Weekly = given.Vault.Weekly },
		"monthly":        func() { to.Vault.Monthly = given.Vault.Monthly },
		"yearly":         func() { to.Vault.Yearly = given.Vault.Yearly },
	} {
		if p.set.Changed(name) {
			copy()
		}
	}
}

// fallbackOf reads --fallback: "none" is a list without a weaker one, "any" all of
// them.
func fallbackOf(words []string) []backstay.Consistency {
	if len(words) == 1 && words[0] == "any" {
		return nil
	}
	list := []backstay.Consistency{}
	for _, w := range words {
		if w != "none" || len(words) > 1 {
			list = append(list, backstay.Consistency(w))
		}
	}
	return list
}

func (a *app) policyCreateCommand() *cobra.Command {
	start := backstay.Policy{
		Every: backstay.Duration(24 * time.Hour), Consistency: backstay.FileSystemConsistent,
		Snapshot: backstay.SnapshotKeep{Days: 2, Count: 5},
	}
	c := &cobra.Command{
		Use: "create NAME", Short: "Make a policy",
		Long: "Make a policy: how often points are taken, and how long each tier keeps them.\nWithout any rule for the vault it keeps the last 7 points there.\n" +
			"Each point in the snapshot tier is a layer of the VM's disks: a schedule and a retention that\nmake more of them than --snapshot-depth are refused.",
		Example: "  backstay policy create daily\n" +
			"  backstay policy create prod --every 4h --snapshot-days 3 --snapshot-count 5 --keep-last 7 --daily 7 --weekly 4 --monthly 12 --yearly 1\n" +
			"  backstay policy create strict --consistency application --fallback none --skip-mount /mnt/scratch\n" +
			"  backstay policy create lean --every 1h --snapshot-days 0 --snapshot-count 0 --keep-last 24 --daily 7",
		Args: exactly("NAME"),
	}
	flags := newPolicyFlags(c, start)
	c.RunE = a.call(func(ctx context.Context, cl *client.Client, args []string) error {
		p := start
		p.Name = backstay.PolicyName(args[0])
		flags.apply(&p)
		if !slices.ContainsFunc([]string{"keep-last", "daily", "weekly", "monthly", "yearly"}, flags.set.Changed) {
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

func (a *app) policyEditCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "edit NAME", Short: "Change a policy, for old and new points alike",
		Long: "Change what the flags name and leave the rest of the policy as it is. The new rules count for old\nand new points alike: a shorter retention lets old points go at the next expiry.",
		Example: "  backstay policy edit daily --keep-last 14\n" +
			"  backstay policy edit prod --every 2h --snapshot-count 8\n  backstay policy edit prod --fallback any --skip-mount ''",
		Args: exactly("NAME"),
	}
	flags := newPolicyFlags(c, backstay.Policy{})
	c.RunE = a.call(func(ctx context.Context, cl *client.Client, args []string) error {
		p, err := cl.Policy(ctx, backstay.PolicyName(args[0]))
		if err != nil {
			return err
		}
		flags.apply(&p)
		changed, err := cl.EditPolicy(ctx, p)
		if err != nil {
			return err
		}
		return a.emit(changed, func(w io.Writer) { policyTable(w, changed) })
	})
	return c
}

func policyTable(w io.Writer, p backstay.Policy) {
	row(w, "policy", p.Name)
	row(w, "every", every(p))
	row(w, "consistency", p.Consistency)
	row(w, "or else", fallback(p))
	row(w, "hooks", first(string(p.Guest.Hooks), string(backstay.HooksByUs)))
	if len(p.Guest.SkipMounts) > 0 {
		row(w, "not frozen", strings.Join(p.Guest.SkipMounts, ", "))
	}
	row(w, "freeze budget", time.Duration(orDefault(p.Guest.FreezeBudget, backstay.DefaultFreezeBudget)))
	row(w, "latency limit", time.Duration(orDefault(p.Guest.LatencyLimit, backstay.DefaultLatencyLimit)))
	row(w, "snapshot tier", snapshotKeep(p.Snapshot))
	row(w, "deepest chain", fmt.Sprintf("%d points", p.Snapshot.MaxPoints()))
	row(w, "vault tier", vaultKeep(p.Vault))
	row(w, "list of files", map[bool]string{true: "off", false: "on"}[p.NoIndex])
}

func orDefault(d, otherwise backstay.Duration) backstay.Duration {
	if d == 0 {
		return otherwise
	}
	return d
}

func fallback(p backstay.Policy) string {
	switch {
	case p.Fallback == nil:
		return "any weaker one"
	case len(p.Fallback) == 0:
		return "none: the backup fails"
	}
	var words []string
	for _, c := range p.Fallback {
		words = append(words, string(c))
	}
	return strings.Join(words, ", then ")
}

func every(p backstay.Policy) string {
	if p.Every == 0 {
		return "by hand"
	}
	return span(time.Duration(p.Every))
}

func snapshotKeep(k backstay.SnapshotKeep) string {
	switch {
	case k.MapOnly():
		return "change map only"
	case k.Count == 0:
		return fmt.Sprintf("%d days", k.Days)
	case k.Days == 0:
		return fmt.Sprintf("%d points", k.Count)
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
