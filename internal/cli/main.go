// Package cli is the command line: it parses, calls the API through client, and
// prints. Everything but `server`, `agent`, `init` and `recover` can do nothing
// that the API cannot (`doctor` only looks at this machine).
//
// It holds no logic of the product. What is long-running is handed in as
// functions, so that it knows no adapter.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/config"
	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// Env is what a run of the command line touches of the process around it. The
// zero value of each field means the process's own.
type Env struct {
	Stdin  io.Reader
	Stdout io.Writer
	Stderr io.Writer
	Getenv func(string) string
	// IsTerminal tells whether a stream is a terminal.
	IsTerminal func(stream any) bool
	Now        func() time.Time
	// Version is what --version prints.
	Version string
}

// Daemons are the commands that are not clients of the API.
type Daemons struct {
	Server func(ctx context.Context, configPath string) error
	Init   func(ctx context.Context, o config.InitOptions) (config.InitResult, error)
	Agent  func(ctx context.Context, o config.AgentOptions) error
	// Guard lets a guest go when the process that froze it cannot. It is started
	// by that process and by nobody else.
	Guard func(ctx context.Context) error
	// Export serves a point to a VM that runs before its disks were copied. It is
	// started by a server or a mover, never by a person.
	Export func(ctx context.Context) error
	// SmallMachine starts a small machine out of a folder and ends it, and says how
	// that went; "" means the one that was installed.
	SmallMachine func(ctx context.Context, dir string) (string, error)
}

// app is one run of the command line.
type app struct {
	Env
	daemons Daemons
	root    *cobra.Command
	began   bool // a command's own code runs: errors are no longer the parser's

	server, token, region, configPath, output string
	noWait, yes                               bool
	// recoveryKey is the file with which a restore brings back lost secrets.
	recoveryKey string
}

// exitInterrupted is the exit code after Ctrl-C, as shells have it.
const exitInterrupted = 130

// errInterrupted ends a command that was told to stop waiting.
var errInterrupted = errors.New("interrupted")

// Main runs the command line and returns its exit code. It stops waiting when
// ctx ends.
func Main(ctx context.Context, args []string, env Env, daemons Daemons) int {
	a := newApp(env, daemons)
	a.root.SetArgs(args)
	cmd, err := a.root.ExecuteContextC(ctx)
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errInterrupted), ctx.Err() != nil && (errors.Is(err, ctx.Err()) || errors.Is(err, context.Cause(ctx))):
		return exitInterrupted
	case !a.began:
		err = misused(cmd, err)
	}
	e := backstay.AsError(err)
	a.printError(e, args)
	return e.Kind.ExitCode()
}

func newApp(env Env, daemons Daemons) *app {
	a := &app{Env: env, daemons: daemons}
	if a.Stdin == nil {
		a.Stdin = os.Stdin
	}
	if a.Stdout == nil {
		a.Stdout = os.Stdout
	}
	if a.Stderr == nil {
		a.Stderr = os.Stderr
	}
	if a.Getenv == nil {
		a.Getenv = os.Getenv
	}
	if a.Now == nil {
		a.Now = time.Now
	}
	if a.IsTerminal == nil {
		a.IsTerminal = func(stream any) bool {
			f, ok := stream.(*os.File)
			return ok && term.IsTerminal(int(f.Fd()))
		}
	}
	a.root = a.commands()
	return a
}

// commands puts the tree of commands together.
func (a *app) commands() *cobra.Command {
	root := &cobra.Command{
		Use:   "backstay",
		Short: "Back up and restore virtual machines on QEMU/KVM under libvirt",
		Example: "  backstay init                        # once: configuration, vault, recovery key\n" +
			"  backstay server                      # the region's API, jobs and schedule\n" +
			"  backstay protect web01 --policy daily --vault default\n" +
			"  backstay backup web01\n" +
			"  backstay restore create-vm web01@latest --name web01-copy",
		Version:       first(a.Version, "unknown"),
		SilenceErrors: true, SilenceUsage: true,
		PersistentPreRunE: func(*cobra.Command, []string) error { return a.checkOutput() },
	}
	root.SetIn(a.Stdin)
	root.SetOut(a.Stdout)
	root.SetErr(a.Stderr)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return usageError(cmd, err) })
	flags := root.PersistentFlags()
	flags.StringVar(&a.server, "server", "", "address of the server, as a `URL` http://HOST:PORT (BACKSTAY_SERVER)")
	flags.StringVar(&a.token, "token", "", "token for the server (BACKSTAY_TOKEN)")
	flags.StringVar(&a.region, "region", "", "`NAME` of a region in the client's configuration: its server is called, whatever became of this one's")
	flags.StringVar(&a.configPath, "config", "", "configuration `FILE`: the client's, or the server's for the command server (BACKSTAY_CONFIG)")
	flags.StringVarP(&a.output, "output", "o", "table", "table, json or yaml")
	root.AddCommand(a.serverCommand(), a.agentCommand(), a.guardCommand(), a.exportCommand(), a.initCommand(), a.doctorCommand(),
		a.hostCommands(), a.vmCommands(), a.groupCommands(), a.protectCommand(), a.unprotectCommand(),
		a.vaultCommands(), a.unitCommands(), a.policyCommands(), a.backupCommand(), a.pointCommands(), a.restoreCommands(), a.deployCommand(), a.filesCommands(),
		a.drillCommands(), a.jobCommands(), a.recoverCommands(), a.regionCommands(), a.replicationCommands(), a.auditCommands(), a.tokenCommands(), a.manCommand())
	root.InitDefaultCompletionCmd()
	root.InitDefaultHelpCmd()
	for _, c := range root.Commands() {
		switch c.Name() {
		case "completion":
			c.Example = "  source <(backstay completion bash)"
			for _, shell := range c.Commands() {
				shell.Example = "  backstay completion " + shell.Name()
			}
		case "help":
			c.Example = "  backstay help restore create-vm"
		}
	}
	a.completeFlags(root)
	return root
}

// group makes a command that only holds others.
func (a *app) group(use, short, example string, children ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, Example: example, Args: cobra.ArbitraryArgs}
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return cmd.Help()
		}
		e := backstay.Errorf(backstay.CodeUsage, "`%s` has no command %q", cmd.CommandPath(), args[0]).
			Becausef("it has %s", strings.Join(names(cmd), ", ")).Do("see `%s --help`", cmd.CommandPath())
		if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
			e = e.Do("did you mean `%s %s`?", cmd.CommandPath(), near[0])
		}
		return e
	}
	c.SuggestionsMinimumDistance = 2
	c.AddCommand(children...)
	return c
}

func names(cmd *cobra.Command) []string {
	var out []string
	for _, c := range cmd.Commands() {
		out = append(out, c.Name())
	}
	return out
}

// run wraps a command's code: from here on an error is not about usage.
func (a *app) run(fn func(ctx context.Context, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		a.began = true
		return fn(cmd.Context(), args)
	}
}

// exactly takes the named arguments, no more and no fewer.
func exactly(words ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == len(words) {
			return nil
		}
		want := "no argument"
		if len(words) > 0 {
			want = strings.Join(words, " ")
		}
		return usageError(cmd, fmt.Errorf("it takes %s, and got %d arguments", want, len(args)))
	}
}

// atLeast is for commands that take a list; words say what.
func atLeast(n int, words string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) >= n {
			return nil
		}
		return usageError(cmd, fmt.Errorf("it takes %s, and got %d arguments", words, len(args)))
	}
}

func atMostOne(cmd *cobra.Command, args []string) error {
	if len(args) <= 1 {
		return nil
	}
	return usageError(cmd, fmt.Errorf("it takes one argument at most, and got %d", len(args)))
}

func usageError(cmd *cobra.Command, err error) error {
	return backstay.Errorf(backstay.CodeUsage, "`%s` was called in a way that it does not understand", cmd.CommandPath()).
		Because(err).Do("see `%s --help`", cmd.CommandPath())
}

// misused makes a usage error of what the parser says about a command.
func misused(cmd *cobra.Command, err error) error {
	if e := (*backstay.Error)(nil); errors.As(err, &e) {
		return e
	}
	if cmd.HasParent() {
		return usageError(cmd, err)
	}
	first, rest, _ := strings.Cut(err.Error(), "\n")
	e := backstay.Errorf(backstay.CodeUsage, "the command was not understood").Becausef("%s", first).Do("see `backstay --help`")
	for line := range strings.Lines(rest) { // cobra's suggestions, one a line, indented by a tab
		if word, ok := strings.CutPrefix(line, "\t"); ok && strings.TrimSpace(word) != "" {
			return e.Do("did you mean `backstay %s`?", strings.TrimSpace(word))
		}
	}
	return e
}

func (a *app) checkOutput() error {
	if slices.Contains([]string{"table", "json", "yaml"}, a.output) {
		return nil
	}
	return backstay.Errorf(backstay.CodeUsage, "%q is not a form of output", a.output).Becausef("there are table, json and yaml").Do("say -o json")
}
