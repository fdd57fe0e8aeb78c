package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/client"
	"github.com/backstay/backstay/internal/config"
	"github.com/spf13/cobra"
)

// call wraps a command that needs the server.
func (a *app) call(fn func(ctx context.Context, c *client.Client, args []string) error) func(*cobra.Command, []string) error {
	return a.run(func(ctx context.Context, args []string) error {
		c, err := a.client()
		if err != nil {
			return err
		}
		defer c.Close()
		return fn(ctx, c, args)
	})
}

// client makes the client of the server that flags, environment and the
// client's configuration name, in this order.
func (a *app) client() (*client.Client, error) {
	if a.region != "" {
		return a.regionClient()
	}
	server, token := first(a.server, a.Getenv("BACKSTAY_SERVER")), first(a.token, a.Getenv("BACKSTAY_TOKEN"))
	if server == "" || token == "" {
		c, err := a.clientConfig()
		if err != nil {
			return nil, err
		}
		if server == "" {
			server = c.Server
			token = first(token, c.Token)
		} else if same(server, c.Server) {
			// The file's token is for the file's server alone.
			token = first(token, c.Token)
		}
	}
	server = first(server, "http://"+config.DefaultListen)
	if _, err := config.ServerURL(server); err != nil {
		return nil, backstay.Errorf(backstay.CodeUsage, "%q is not the address of a server", server).Because(err).Do("say --server http://HOST:PORT")
	}
	return client.New(server, token), nil
}

// regionClient makes the client of another region's server. What the environment has
// for the own region's is not for this one.
func (a *app) regionClient() (*client.Client, error) {
	if a.server != "" {
		return nil, backstay.Errorf(backstay.CodeUsage, "--region %s and --server name two servers", a.region).Becausef("a region's server is in the client's configuration").Do("leave out one of the two")
	}
	c, err := a.clientConfig()
	if err != nil {
		return nil, err
	}
	r, ok := c.Regions[backstay.RegionName(a.region)]
	if !ok {
		known := "it names none"
		if len(c.Regions) > 0 {
			known = fmt.Sprintf("it names %v", sortedKeys(c.Regions))
		}
		return nil, backstay.Errorf(backstay.CodeUnknownRegion, "the client's configuration has no region %q", a.region).Becausef("%s", known).
			Do("add `regions: {%s: {server: http://HOST:PORT, token: …}}` to %s", a.region, first(a.configPath, config.ClientPath(a.Getenv), "client.yaml"))
	}
	return client.New(r.Server, first(a.token, r.Token)), nil
}

// again is how a command that goes on from this one is typed: with the same region.
func (a *app) again(format string, args ...any) string {
	command := fmt.Sprintf(format, args...)
	if a.region != "" {
		command += " --region " + a.region
	}
	return command
}

func (a *app) clientConfig() (config.Client, error) {
	path, named := a.configPath, true
	if path == "" {
		path, named = config.ClientPath(a.Getenv), a.Getenv("BACKSTAY_CONFIG") != ""
	}
	if path == "" {
		return config.Client{}, nil
	}
	c, err := config.LoadClient(path)
	if !named && errors.Is(err, fs.ErrNotExist) {
		return config.Client{}, nil
	}
	return c, err
}

func same(a, b string) bool { return strings.TrimRight(a, "/") == strings.TrimRight(b, "/") }

func first(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}

// confirm makes sure that something is to be destroyed: it asks on a terminal,
// and needs --yes elsewhere.
func (a *app) confirm(format string, args ...any) error {
	what := fmt.Sprintf(format, args...)
	if a.yes {
		return nil
	}
	if !a.IsTerminal(a.Stdin) {
		return backstay.Errorf(backstay.CodeUsage, "this would %s", what).Becausef("nobody can be asked: stdin is not a terminal").Do("say --yes if it is meant")
	}
	fmt.Fprintf(a.Stderr, "This will %s. Type yes to go on: ", what)
	answer, err := bufio.NewReader(a.Stdin).ReadString('\n')
	if strings.TrimSpace(answer) == "yes" {
		return nil
	}
	e := backstay.Errorf(backstay.CodeCancelled, "nothing was done").Becausef("the answer was not yes")
	if err != nil {
		e = e.Because(err)
	}
	return e.Do("say --yes if it is meant")
}

// yesFlag and noWaitFlag are on the commands that need them.
func (a *app) yesFlag(c *cobra.Command) *cobra.Command {
	c.Flags().BoolVar(&a.yes, "yes", false, "do not ask")
	return c
}

func (a *app) noWaitFlag(c *cobra.Command) *cobra.Command {
	c.Flags().BoolVar(&a.noWait, "no-wait", false, "return at once; the job goes on")
	return c
}

// complete offers what the server lists, for the shell's completion. A server
// that does not answer at once offers nothing.
func (a *app) complete(list func(ctx context.Context, c *client.Client) ([]string, error)) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		c, err := a.client()
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		defer c.Close()
		ctx, cancel := context.WithTimeout(cmd.Context(), 2*time.Second)
		defer cancel()
		all, err := list(ctx, c)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var fitting []string
		for _, word := range all {
			if strings.HasPrefix(word, typed) {
				fitting = append(fitting, word)
			}
		}
		return fitting, cobra.ShellCompDirectiveNoFileComp
	}
}

// fixedWords are what flags of these names take, whose type does not say so.
var fixedWords = map[string][]string{
	"output": {"table", "json", "yaml"}, "format": {"qcow2", "raw", "vmdk", "vhdx"}, "bus": {"virtio", "sata"}, "firmware": {"bios", "uefi"},
}

// completeFlags offers the words that a flag takes, and what the server lists
// for a flag that names something there.
func (a *app) completeFlags(c *cobra.Command) {
	lists := map[string]func(context.Context, *client.Client) ([]string, error){
		"policy": func(ctx context.Context, c *client.Client) (out []string, err error) {
			all, err := c.Policies(ctx)
			for _, p := range all {
				out = append(out, string(p.Name))
			}
			return out, err
		},
		"vault": func(ctx context.Context, c *client.Client) (out []string, err error) {
			all, err := c.Vaults(ctx)
			for _, v := range all {
				out = append(out, string(v.Name))
			}
			return out, err
		},
		"host": func(ctx context.Context, c *client.Client) (out []string, err error) {
			all, err := c.Hosts(ctx)
			for _, h := range all {
				out = append(out, string(h.Name))
			}
			return out, err
		},
	}
	for _, name := range []string{"policy", "vault", "host", "tier", "consistency", "role", "redundancy", "output", "format", "bus", "firmware"} {
		f := c.LocalFlags().Lookup(name)
		if f == nil || c.Name() == "init" { // what init names is not there yet
			continue
		}
		words := strings.Split(f.Value.Type(), "|")
		if some := fixedWords[name]; some != nil && f.Value.Type() == "string" {
			words = some
		}
		fn := cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp)
		if list := lists[name]; list != nil {
			offer := a.complete(list)
			fn = func(c *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
				return offer(c, nil, typed)
			}
		}
		// It fails for a flag that has one already, and then that one is right.
		_ = c.RegisterFlagCompletionFunc(name, fn)
	}
	for _, child := range c.Commands() {
		a.completeFlags(child)
	}
}

func (a *app) completeVMs() cobra.CompletionFunc {
	return a.complete(func(ctx context.Context, c *client.Client) (out []string, err error) {
		vms, err := c.VMs(ctx)
		seen := map[string]int{}
		for _, vm := range vms {
			seen[vm.Name]++
		}
		for _, vm := range vms {
			if seen[vm.Name] > 1 {
				out = append(out, vmLabel(vm.Ref()))
			} else {
				out = append(out, vm.Name)
			}
		}
		return out, err
	})
}

func (a *app) completeGroups() cobra.CompletionFunc {
	return a.complete(func(ctx context.Context, c *client.Client) (out []string, err error) {
		groups, err := c.Groups(ctx)
		for _, g := range groups {
			out = append(out, string(g.Name))
		}
		return out, err
	})
}

func (a *app) completePoints() cobra.CompletionFunc {
	return a.complete(func(ctx context.Context, c *client.Client) (out []string, err error) {
		points, err := c.Points(ctx, "")
		for _, p := range points {
			out = append(out, string(p.ID))
		}
		return out, err
	})
}

func (a *app) completeJobs() cobra.CompletionFunc {
	return a.complete(func(ctx context.Context, c *client.Client) (out []string, err error) {
		jobs, err := c.Jobs(ctx, 50)
		for _, j := range jobs {
			out = append(out, string(j.ID))
		}
		return out, err
	})
}
