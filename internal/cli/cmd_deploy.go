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
)

func (a *app) deployCommand() *cobra.Command {
	var r backstay.DeployRequest
	var host, waitFor string
	var set []string
	timeout := duration(0)
	c := &cobra.Command{
		Use: "deploy DIR", Short: "Make a VM of restored disks and their template",
		Long: "Make a VM of the disks that `backstay restore disks` left in a folder of a host.\nNo vault is needed. Values come from --set and from the folder's parameters.json,\n" +
			"which may be edited; one that is not valid is refused, and nothing is touched.\n--dry-run prints all parameters, how the VM will differ from its source, and the\nchecks. The disks are used where they lie, and stay when the VM goes.",
		Example: "  backstay deploy /srv/restored --dry-run\n" +
			"  backstay deploy /srv/restored --set name=web02 --set memory=4GiB --set vcpus=2\n" +
			"  backstay deploy /srv/restored --set nic.0.network=lab --set antiAffinityGroup=web --no-start\n" +
			"  backstay deploy /srv/restored --host west --wait-for port:192.168.122.50:80",
		Args: exactly("DIR"), ValidArgsFunction: cobra.NoFileCompletions,
		RunE: a.call(func(ctx context.Context, c *client.Client, args []string) (err error) {
			r.Folder, r.Host = args[0], backstay.HostName(host)
			if r.Probe, err = probe(waitFor, timeout); err != nil {
				return err
			}
			if r.Set, err = values(set); err != nil {
				return err
			}
			out, err := c.StartDeploy(ctx, r)
			if err != nil {
				return err
			}
			if out.Job == nil {
				return a.emit(out, func(w io.Writer) { deployTable(w, out) })
			}
			return a.started(ctx, c, *out.Job)
		}),
	}
	f := c.Flags()
	f.StringArrayVar(&set, "set", nil, "the value of a parameter: NAME=VALUE; repeat for more")
	f.StringVar(&host, "host", "", "the host that has the folder, where more than one may")
	f.BoolVar(&r.NoStart, "no-start", false, "do not start the VM")
	f.BoolVar(&r.Force, "force", false, "also beside another VM of its anti-affinity group")
	f.StringVar(&waitFor, "wait-for", "agent", "when it is up: agent, console:TEXT, port:HOST:PORT, none")
	f.Var(&timeout, "timeout", "how long it may take to come up; 0 for five minutes")
	f.BoolVar(&r.DryRun, "dry-run", false, "print the parameters, the plan and the checks, and do nothing")
	return a.noWaitFlag(c)
}

// values reads NAME=VALUE pairs. A value may have an = of its own.
func values(pairs []string) (map[string]string, error) {
	var out map[string]string
	for _, pair := range pairs {
		name, value, ok := strings.Cut(pair, "=")
		if !ok || name == "" {
			return nil, backstay.Errorf(backstay.CodeUsage, "--set %q is not understood", pair).Becausef("it must name a parameter and its value").Do("say --set NAME=VALUE")
		}
		if _, twice := out[name]; twice {
			return nil, backstay.Errorf(backstay.CodeUsage, "the parameter %s is set twice", name).Do("keep one of the two")
		}
		if out == nil {
			out = map[string]string{}
		}
		out[name] = value
	}
	return out, nil
}

func deployTable(w io.Writer, out api.DeployResponse) {
	row(w, "PARAMETER", "VALUE", "THE POINT HAS", "TYPE", "")
	for _, p := range out.Parameters {
		was := fmt.Sprint(p.Default)
		if was == fmt.Sprint(p.Value) {
			was = ""
		}
		row(w, p.Name, oneLine(fmt.Sprint(p.Value)), oneLine(was), p.Type, p.Description)
	}
	row(w, "")
	planTable(w, out.Plan)
}
