package cli

import (
	"context"
	"io"
	"strings"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/client"
	"github.com/spf13/cobra"
)

// restoreCommands are the kinds of restore and what is done to one later. Each
// has a file of its own; a new one is one line here.
func (a *app) restoreCommands() *cobra.Command {
	return a.group("restore", "Restore a recovery point", "  backstay restore create-vm web01@latest --name web01-copy",
		a.createVMCommand(), a.restoreDisksCommand(), a.replaceDisksCommand(), a.undoCommand(), a.finishCommand(), a.abandonCommand(),
	)
}

// restore starts what was asked for and waits for its end, or prints the plan of
// a dry run.
func (a *app) restore(ctx context.Context, c *client.Client, r backstay.RestoreRequest) error {
	if err := a.bringSecrets(ctx, c, r); err != nil {
		return err
	}
	out, err := c.StartRestore(ctx, r)
	if err != nil {
		return err
	}
	if out.Job == nil {
		return a.emit(out.Plan, func(w io.Writer) { planTable(w, out.Plan) })
	}
	return a.started(ctx, c, *out.Job)
}

// restoreFlags are those of all kinds.
func (a *app) restoreFlags(c *cobra.Command, r *backstay.RestoreRequest) *cobra.Command {
	f := c.Flags()
	f.Var(tierFlag(&r.Tier), "tier", "the tier to read; the snapshot tier if the point has it")
	f.StringVar(&a.recoveryKey, "recovery-key", "", "`FILE` with a recovery key of the vault: brings back secrets that the host and the key service lost")
	f.BoolVar(&r.DryRun, "dry-run", false, "print the plan and the checks, and do nothing")
	return a.noWaitFlag(c)
}

func (a *app) createVMCommand() *cobra.Command {
	r := backstay.RestoreRequest{Kind: backstay.CreateVM}
	var host, waitFor string
	var networks []string
	timeout := duration(0)
	c := &cobra.Command{
		Use: "create-vm POINT --name NEW", Short: "Restore a point as a new VM",
		Long: "Restore a point as a new VM. Everything that would fail is checked first; a\nrefused check stops the restore before anything is touched. --dry-run prints\nthe plan and the checks.",
		Example: "  backstay restore create-vm web01@latest --name web01-copy\n" +
			"  backstay restore create-vm 01K9ZQ --name web01-old --tier vault --isolated\n" +
			"  backstay restore create-vm web01@latest --name web01-test --network default=lab --wait-for port:192.168.122.50:80 --timeout 3m\n" +
			"  backstay restore create-vm db01@latest --name db01-lab --partial\n" +
			"  backstay restore create-vm web01@latest --name web01-now --live\n" +
			"  backstay restore create-vm web01@latest --name web01-copy --dry-run -o json",
		Args: exactly("POINT"), ValidArgsFunction: a.completePoints(),
		RunE: a.call(func(ctx context.Context, c *client.Client, args []string) (err error) {
			r.Point, r.Host = backstay.PointID(args[0]), backstay.HostName(host)
			if r.Probe, err = probe(waitFor, timeout); err != nil {
				return err
			}
			if r.Networks, err = mapping(networks); err != nil {
				return err
			}
			return a.restore(ctx, c, r)
		}),
	}
	f := c.Flags()
	f.StringVar(&r.Name, "name", "", "name of the new VM")
	f.StringVar(&host, "host", "", "host that gets it; the point's own unless told otherwise")
	f.StringVar(&r.Pool, "pool", "", "pool or folder for its disks; beside the source's unless told otherwise")
	f.StringArrayVar(&networks, "network", nil, "put what was on one network on another: OLD=NEW; repeat for more")
	f.BoolVar(&r.KeepMAC, "keep-mac", false, "keep the MAC addresses")
	f.BoolVar(&r.KeepUUID, "keep-uuid", false, "keep the UUID")
	f.BoolVar(&r.Partial, "partial", false, "also of a point from which the user left disks out: the new VM lacks them")
	f.BoolVar(&r.NoStart, "no-start", false, "do not start it")
	f.BoolVar(&r.Live, "live", false, "start it from the vault at once, and copy its disks in behind it")
	f.BoolVar(&r.Isolated, "isolated", false, "give it no network: every link is down")
	f.StringVar(&waitFor, "wait-for", "agent", "when it is up: agent, console:TEXT, port:HOST:PORT, none")
	f.Var(&timeout, "timeout", "how long it may take to come up; 0 for five minutes")
	f.StringVar(&r.Machine, "machine", "", "QEMU machine type of the new VM; the point's own unless told otherwise")
	mustHave(c, "name")
	return a.restoreFlags(c, &r)
}

// mapping reads OLD=NEW pairs.
func mapping(pairs []string) (map[string]string, error) {
	var out map[string]string
	for _, pair := range pairs {
		from, to, ok := strings.Cut(pair, "=")
		if !ok || from == "" || to == "" {
			return nil, backstay.Errorf(backstay.CodeUsage, "--network %q is not understood", pair).Becausef("it must name two networks").Do("say --network OLD=NEW")
		}
		if other, twice := out[from]; twice && other != to {
			return nil, backstay.Errorf(backstay.CodeUsage, "the network %s is mapped twice", from).Becausef("to %s and to %s", other, to).Do("keep one of the two")
		}
		if out == nil {
			out = map[string]string{}
		}
		out[from] = to
	}
	return out, nil
}
