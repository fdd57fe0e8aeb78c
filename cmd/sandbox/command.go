package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/backstay/backstay/internal/sandbox"
)

// defaultDir is the world of somebody who names none.
const defaultDir = "/tmp/backstay-sandbox"

// command is the tree of commands.
func command() *cobra.Command {
	root := &cobra.Command{
		Use:   "sandbox",
		Short: "A whole world of backstay on one machine: libvirt, guests, a region",
		Example: "  sandbox up\n  sandbox vm web01\n  sandbox guest web01 'ls /data'\n" +
			"  sandbox backstay vm list\n  sandbox down",
		SilenceUsage: true, SilenceErrors: true,
	}
	var dir string
	root.PersistentFlags().StringVar(&dir, "dir", defaultDir, "folder of the world; a short path")
	root.AddCommand(upCommand(&dir), downCommand(&dir), vmCommand(&dir), guestCommand(&dir), sumCommand(&dir), killCommand(&dir), startCommand(&dir), linkCommand(&dir), demoCommand())
	root.AddCommand(&cobra.Command{
		Use: "backstay ARGUMENTS...", Short: "Run backstay itself against the region of the world",
		Example:            "  sandbox backstay vm list",
		DisableFlagParsing: true,
		// main takes this before the tree is asked; it stands here for --help.
		Run: func(*cobra.Command, []string) {},
	})
	return root
}

func upCommand(dir *string) *cobra.Command {
	var hosts, qemu, regions string
	var noRegion bool
	c := &cobra.Command{
		Use: "up", Short: "Bring a world up and leave it up",
		Example: "  sandbox up\n  sandbox up --hosts east,west --dir /tmp/two\n  sandbox up --qemu debian\n  sandbox up --regions west,east",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			o := sandbox.Options{Dir: *dir, NoRegion: noRegion, Log: newLogger(c.ErrOrStderr())}
			switch qemu {
			case "root":
			case "debian":
				o.QEMU = sandbox.DebianQEMU
			default:
				return fmt.Errorf("--qemu %s: say root or debian", qemu)
			}
			if n, err := strconv.Atoi(hosts); err == nil {
				for i := range n {
					o.Hosts = append(o.Hosts, fmt.Sprintf("host%d", i+1))
				}
			} else if hosts != "" {
				o.Hosts = strings.Split(hosts, ",")
			}
			if regions != "" {
				return upRegions(c, o, regions)
			}
			w, err := up(c, o)
			if err != nil {
				return err
			}
			describe(c.OutOrStdout(), w)
			return nil
		},
	}
	c.Flags().StringVar(&regions, "regions", "", "two regions by name, with hosts of their own and a link between them")
	c.Flags().StringVar(&hosts, "hosts", "east", "names of the hosts, or how many")
	c.Flags().StringVar(&qemu, "qemu", "root", "as whom QEMU runs: root, or debian for Debian's own configuration")
	c.Flags().BoolVar(&noRegion, "no-region", false, "hosts only, without a server and movers")
	return c
}

// up brings a world up whose backstay is this program.
func up(c *cobra.Command, o sandbox.Options) (*sandbox.World, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	o.Binary = []string{self, "backstay"}
	return sandbox.Up(c.Context(), o)
}

// describe tells how to use a world, with the programs where they are.
func describe(out io.Writer, w *sandbox.World) {
	self := os.Args[0]
	backstay := filepath.Join(filepath.Dir(self), "backstay")
	if !strings.Contains(self, "/") {
		backstay = "backstay"
	}
	fmt.Fprintf(out, "world   %s\n", w.Dir)
	for _, h := range w.Hosts {
		fmt.Fprintf(out, "host    %s  virsh -c '%s' list\n", h.Name, h.URI())
	}
	if w.Region != nil {
		fmt.Fprintf(out, "URL     %s\ntoken   %s\n", w.Region.URL, w.Region.Token)
		fmt.Fprintf(out, "use it  export BACKSTAY_CONFIG=%s; %s vm list\n", w.Region.Client, backstay)
	}
	flag := ""
	if w.Dir != defaultDir {
		flag = " --dir " + w.Dir
	}
	fmt.Fprintf(out, "end it  %s down%s\n", self, flag)
}

func downCommand(dir *string) *cobra.Command {
	return &cobra.Command{
		Use: "down", Short: "End a world: nothing of it is left",
		Example: "  sandbox down\n  sandbox down --dir /tmp/two",
		Args:    cobra.NoArgs,
		RunE:    func(c *cobra.Command, _ []string) error { return sandbox.Down(c.Context(), *dir) },
	}
}

func vmCommand(dir *string) *cobra.Command {
	var spec sandbox.VMSpec
	var disks []string
	c := &cobra.Command{
		Use: "vm NAME", Short: "Make a VM and wait until its guest answers",
		Long: "Make a VM and wait until its guest answers. Its first disk is the system;\n" +
			"--disk adds one each time: FORMAT[:SIZE], such as qcow2:4G or raw:64M.",
		Example: "  sandbox vm web01\n  sandbox vm db01 --host west --disk raw --disk qcow2:4G\n  sandbox vm safe --uefi --tpm",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			spec.Name = args[0]
			var err error
			if spec.Disks, err = sandbox.ParseDisks(disks); err != nil {
				return err
			}
			w, err := sandbox.Open(*dir)
			if err != nil {
				return err
			}
			if err := w.AddVM(c.Context(), spec); err != nil || spec.Off || spec.NoAgent {
				return err
			}
			return w.WaitAgent(c.Context(), spec.Host, spec.Name)
		},
	}
	f := c.Flags()
	f.StringVar(&spec.Host, "host", "", "the host (default the first)")
	f.StringArrayVar(&disks, "disk", []string{"qcow2", "qcow2:1G"}, "FORMAT[:SIZE] of each disk; the size of the first is fixed")
	f.BoolVar(&spec.UEFI, "uefi", false, "UEFI firmware instead of BIOS")
	f.BoolVar(&spec.TPM, "tpm", false, "with a virtual TPM")
	f.BoolVar(&spec.NoAgent, "no-agent", false, "without a channel to the guest agent")
	f.BoolVar(&spec.Off, "off", false, "do not start it")
	f.StringVar(&spec.Network, "network", "", "a libvirt network of the host, such as "+sandbox.Network+" (default user networking)")
	return c
}

func guestCommand(dir *string) *cobra.Command {
	var host string
	c := &cobra.Command{
		Use: "guest VM COMMAND", Short: "Run a shell command in a guest",
		Example: "  sandbox guest web01 'cat /data/marker'",
		Args:    cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			w, err := sandbox.Open(*dir)
			if err != nil {
				return err
			}
			out, err := w.Guest(c.Context(), host, args[0], args[1])
			fmt.Fprint(c.OutOrStdout(), out)
			return err
		},
	}
	c.Flags().StringVar(&host, "host", "", "the host (default the first)")
	return c
}

func sumCommand(dir *string) *cobra.Command {
	var host string
	c := &cobra.Command{
		Use: "sha256 VM DISK", Short: "Print the SHA-256 of all that a guest would read from a disk",
		Example: "  sandbox sha256 web01 vdb",
		Args:    cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			w, err := sandbox.Open(*dir)
			if err != nil {
				return err
			}
			h, err := w.Host(host)
			if err != nil {
				return err
			}
			sum, err := h.VMSHA256(c.Context(), args[0], args[1])
			if err == nil {
				fmt.Fprintln(c.OutOrStdout(), sum)
			}
			return err
		},
	}
	c.Flags().StringVar(&host, "host", "", "the host (default the first)")
	return c
}

func killCommand(dir *string) *cobra.Command {
	return partCommand(dir, "kill", "End a part of the world as a crash does", (*sandbox.World).Kill)
}

func startCommand(dir *string) *cobra.Command {
	return partCommand(dir, "start", "Start a part of the world again", (*sandbox.World).Start)
}

func partCommand(dir *string, verb, short string, do func(*sandbox.World, context.Context, string, string) error) *cobra.Command {
	var host string
	c := &cobra.Command{
		Use: verb + " server|mover|libvirtd", Short: short,
		Example: "  sandbox " + verb + " server\n  sandbox " + verb + " mover --host west",
		Args:    cobra.ExactArgs(1), ValidArgs: []string{"server", "mover", "libvirtd"},
		RunE: func(c *cobra.Command, args []string) error {
			w, err := sandbox.Open(*dir)
			if err != nil {
				return err
			}
			return do(w, c.Context(), args[0], host)
		},
	}
	c.Flags().StringVar(&host, "host", "", "the host (default the first)")
	return c
}

// newLogger tells a person what is being done.
func newLogger(out io.Writer) *slog.Logger {
	return slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey || a.Key == slog.LevelKey {
			return slog.Attr{}
		}
		return a
	}}))
}
