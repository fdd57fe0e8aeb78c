package cli

import (
	"context"
	"fmt"
	"io"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/config"
	"github.com/spf13/cobra"
)

func (a *app) serverCommand() *cobra.Command {
	return &cobra.Command{
		Use: "server", Short: "Run the control plane of one region: API, scheduler, jobs",
		Example: "  backstay server\n  backstay server --config /etc/backstay/backstay.yaml",
		Args:    exactly(),
		RunE: a.run(func(ctx context.Context, _ []string) error {
			return a.daemons.Server(ctx, first(a.configPath, config.DefaultPath))
		}),
	}
}

func (a *app) agentCommand() *cobra.Command {
	o := config.AgentOptions{Files: config.Default().Files}
	c := &cobra.Command{
		Use: "agent", Short: "Run the data mover of a host, for a server in another process",
		Example: "  backstay agent --listen unix:///run/backstay/mover.sock",
		Args:    exactly(),
		RunE:    a.run(func(ctx context.Context, _ []string) error { return a.daemons.Agent(ctx, o) }),
	}
	c.Flags().StringVar(&o.Listen, "listen", "unix:///run/backstay/mover.sock", "socket to listen on; the server's configuration names it as the host's mover")
	c.Flags().StringVar(&o.Libvirt, "libvirt", config.DefaultLibvirt, "URI of this machine's libvirt")
	c.Flags().StringVar(&o.State, "state", "/var/lib/backstay/mover", "folder for the mover's key and journals")
	c.Flags().StringVar(&o.Layers, "layer-dir", config.DefaultLayers, "folder for layers of block devices and network disks; QEMU must be able to pass through it")
	c.Flags().StringVar(&o.Files.Machine, "machine-dir", "", "folder of what small machines start from (default: the one that was installed)")
	c.Flags().IntVar(&o.Files.Memory, "machine-memory", o.Files.Memory, "memory of one small machine, in MiB")
	c.Flags().IntVar(&o.Files.Sessions, "sessions", o.Files.Sessions, "sessions of item-level restore that may be open at a time")
	c.Flags().StringVar(&o.Files.Warm, "warm", o.Files.Warm, "keep a small machine ready for the next session: on or off")
	return c
}

// guardCommand is hidden: a server or mover starts it for itself.
func (a *app) guardCommand() *cobra.Command {
	return &cobra.Command{
		Use: "guard", Short: "Let a guest go when the process that froze it cannot", Hidden: true,
		Example: "  backstay guard    # started by a server or a mover, which gives it its orders",
		Args:    exactly(),
		RunE:    a.run(func(ctx context.Context, _ []string) error { return a.daemons.Guard(ctx) }),
	}
}

// exportCommand is hidden: a server or mover starts it for a VM that is restored live.
func (a *app) exportCommand() *cobra.Command {
	return &cobra.Command{
		Use: "export", Short: "Serve a point to a VM that runs before its disks were copied", Hidden: true,
		Example: "  backstay export    # started by a server or a mover, which says what to serve",
		Args:    exactly(),
		RunE:    a.run(func(ctx context.Context, _ []string) error { return a.daemons.Export(ctx) }),
	}
}

func (a *app) initCommand() *cobra.Command {
	var o config.InitOptions
	vault := "default"
	c := &cobra.Command{
		Use: "init", Short: "Write a configuration, make the default vault, print the recovery key once",
		Example: "  backstay init\n" +
			"  backstay init --unit /mnt/a/backstay --unit /mnt/b/backstay --unit /mnt/c/backstay\n" +
			"  backstay init --dir ./try        # everything below one folder\n" +
			"  backstay init --no-vault         # in the place of a server that was lost",
		Args: exactly(),
		RunE: a.run(func(ctx context.Context, _ []string) error {
			o.Vault = backstay.VaultName(vault)
			result, err := a.daemons.Init(ctx, o)
			if err != nil {
				return err
			}
			return a.emit(result, func(w io.Writer) { initDone(w, result) })
		}),
	}
	f := c.Flags()
	f.StringVar(&o.Dir, "dir", "", "put everything below this folder")
	f.StringVar(&o.Listen, "listen", "", "address of the API (default "+config.DefaultListen+")")
	f.StringVar(&o.Region, "region", "", "name of the region (default "+config.DefaultRegion+")")
	f.StringVar(&o.Libvirt, "libvirt", "", "URI of this machine's libvirt (default "+config.DefaultLibvirt+")")
	f.StringVar(&vault, "vault", vault, "name of the vault to make")
	f.BoolVar(&o.NoVault, "no-vault", false, "make no vault: one that exists is taken in with backstay's command vault import")
	f.StringArrayVar(&o.Units, "unit", nil, "storage unit of the vault, a folder; once for each of three copies")
	return c
}

// initDone says what was made. The recovery key is printed here and nowhere else.
func initDone(w io.Writer, r config.InitResult) {
	fmt.Fprintf(w, "The region %q is made:\n", r.Region)
	row(w, "  configuration", r.ConfigPath)
	row(w, "  data", r.DataDir)
	if r.VaultName == "" {
		row(w, "  owner's token", "in "+r.ClientConfigPath+", readable by you alone")
		fmt.Fprintf(w, "\nNext: backstay server --config %s\n", r.ConfigPath)
		fmt.Fprintln(w, "Then take in the vault: backstay vault import NAME --unit URL --unit URL --unit URL --key FILE")
		return
	}
	row(w, "  vault "+string(r.VaultName), "a copy in each of these; `backstay vault show` tells on how many devices they are")
	for _, u := range r.Units {
		row(w, " ", "  "+u)
	}
	row(w, "  owner's token", "in "+r.ClientConfigPath+", readable by you alone")
	fmt.Fprintf(w, "\nThe recovery key of the vault %q, shown this once:\n\n    %s\n\n", r.VaultName, r.RecoveryKey)
	fmt.Fprintln(w, "With it, everything in the vault can be read without this server; without it,")
	fmt.Fprintln(w, "a lost server means a lost vault. Keep it on paper or in a password store, away")
	fmt.Fprintln(w, "from this machine. backstay keeps no copy that it could show again.")
	fmt.Fprintf(w, "\nNext: backstay server --config %s\n", r.ConfigPath)
}
