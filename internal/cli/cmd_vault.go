package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/api"
	"github.com/backstay/backstay/client"
	"github.com/backstay/backstay/internal/blob/unit"
	"github.com/spf13/cobra"
)

func (a *app) vaultCommands() *cobra.Command {
	list := &cobra.Command{
		Use: "list", Short: "List the vaults, as last checked", Example: "  backstay vault list", Args: exactly(),
		RunE: a.call(func(ctx context.Context, c *client.Client, _ []string) error {
			vaults, err := c.Vaults(ctx)
			if err != nil {
				return err
			}
			return a.emit(vaults, func(w io.Writer) {
				row(w, "VAULT", "REDUNDANCY", "COPIES", "FAILURE DOMAINS", "CHECKED", "NOTE")
				for _, v := range vaults {
					row(w, v.Name, v.Redundancy, v.Copies, v.FailureDomains, a.whenPtr(v.Checked), vaultNote(v))
				}
			})
		}),
	}
	show := &cobra.Command{
		Use: "show VAULT", Short: "Check one vault now and show it", Example: "  backstay vault show default", Args: exactly("VAULT"),
		RunE: a.call(func(ctx context.Context, c *client.Client, args []string) error {
			v, err := c.Vault(ctx, backstay.VaultName(args[0]))
			if err != nil {
				return err
			}
			return a.emit(v, func(w io.Writer) { a.vaultTable(w, v) })
		}),
	}
	usage := &cobra.Command{
		Use: "usage VAULT", Short: "Show what a vault holds", Example: "  backstay vault usage default", Args: exactly("VAULT"),
		RunE: a.call(func(ctx context.Context, c *client.Client, args []string) error {
			u, err := c.VaultUsage(ctx, backstay.VaultName(args[0]))
			if err != nil {
				return err
			}
			return a.emit(u, func(w io.Writer) {
				row(w, "vault", u.Vault)
				row(w, "points", u.Points)
				row(w, "objects", u.Objects)
				row(w, "stored", size(u.StoredBytes)+" in each copy")
				row(w, "of disks of", size(u.LogicalBytes))
				if u.StoredBytes > 0 && u.LogicalBytes > 0 {
					row(w, "ratio", fmt.Sprintf("%.1f : 1", float64(u.LogicalBytes)/float64(u.StoredBytes)))
				}
			})
		}),
	}
	c := a.group("vault", "Stores of recovery points", "  backstay vault list\n  backstay vault create second --unit /mnt/a --unit /mnt/b --unit /mnt/c",
		a.vaultCreateCommand(), a.vaultSetCommand(), list, show, usage)
	c.AddCommand(a.vaultHealthCommands()...)
	c.AddCommand(a.vaultKeyCommand())
	return c
}

// vaultNote is what is wrong with a vault, damage first: it must not be hidden in
// what only `vault show` says.
func vaultNote(v backstay.Vault) string {
	var bad int64
	for _, u := range v.Units {
		if u.Copy != nil {
			bad += u.Copy.Damaged + u.Copy.Missing
		}
	}
	if bad == 0 {
		return v.Note
	}
	return strings.TrimSuffix(fmt.Sprintf("%d copies of objects are damaged or missing; %s", bad, v.Note), "; ")
}

// unitStanding says what a unit is to its vault.
func unitStanding(a *app, u backstay.StorageUnit) string {
	says := string(cmp.Or(u.Standing, backstay.Current))
	if u.Since != nil {
		says += " since " + a.when(*u.Since)
	}
	if u.Redundant {
		says += ", declared redundant"
	}
	return says
}

func (a *app) vaultTable(w io.Writer, v backstay.Vault) {
	row(w, "vault", v.Name)
	row(w, "id", v.ID)
	row(w, "redundancy", v.Redundancy)
	row(w, "created", a.when(v.Created))
	if v.Pair != "" && v.Redundancy == backstay.GRS {
		row(w, "replicated to", fmt.Sprintf("region %s: see `backstay replication status`", v.Pair))
	}
	if v.Origin != nil {
		row(w, "replica of", fmt.Sprintf("%s, of region %s", v.Origin.Vault, v.Origin.Region))
		row(w, "kept here", fmt.Sprintf("%d days, and the newest %d points of each VM", v.Kept().Days, v.Kept().Points))
	}
	row(w, "copies", v.Copies)
	if n := v.Short(); n > 0 {
		row(w, "short of", fmt.Sprintf("%d of %d copies", n, v.Redundancy.Copies()))
	}
	row(w, "failure domains", v.FailureDomains)
	row(w, "checked", a.whenPtr(v.Checked))
	if v.Head != nil {
		row(w, "chain", fmt.Sprintf("record %d, %.16s…", v.Head.Seq, v.Head.Hash))
	}
	row(w, "note", v.Note)
	row(w, "")
	row(w, "UNIT", "ZONE", "DEVICE", "STATE", "COPY")
	for _, u := range v.Units {
		row(w, u.URL, u.Zone, u.Device, u.State, unitStanding(a, u))
	}
	a.healthTable(w, v)
}

func (a *app) vaultCreateCommand() *cobra.Command {
	redundancy := backstay.LRS
	var units []string
	var pair string
	var open openers
	c := &cobra.Command{
		Use: "create NAME [--unit URL…]", Short: "Make a vault and print its recovery key once",
		Long: "Make a vault and print its recovery key once.\n\n" +
			"LRS keeps three copies in one zone, ZRS one copy in each of three zones, GRS three copies in one\n" +
			"zone here and as many in the paired region, to which it is pushed. Without --unit, free\n" +
			"storage units of the region are taken (backstay unit add). A unit that keeps several copies\n" +
			"by itself, such as a bucket that somebody else replicates, can stand for all: say so with\n" +
			",redundant. Nothing here can check that, and whatever is said of it says so.",
		Example: "  backstay vault create second --unit /mnt/a --unit /mnt/b --unit /mnt/c\n" +
			"  backstay vault create third --unit /mnt/a --unit /mnt/b --unit /mnt/c --recipient age1… --no-recovery-key\n" +
			"  backstay vault create zoned --redundancy ZRS --unit /mnt/a,zone=1 --unit /mnt/b,zone=2 --unit /mnt/c,zone=3\n" +
			"  backstay vault create far --redundancy GRS\n" +
			"  backstay vault create bucket --unit s3://backups/site1,redundant\n" +
			"  backstay vault create mixed --unit /mnt/a --unit s3://backups/site1?region=eu-central-1 --unit azure://account/container",
		Args: exactly("NAME"),
		RunE: a.call(func(ctx context.Context, c *client.Client, args []string) error {
			r := api.CreateVaultRequest{Name: backstay.VaultName(args[0]), Redundancy: redundancy, Pair: backstay.RegionName(pair)}
			for _, u := range units {
				unit, err := newUnit(u)
				if err != nil {
					return err
				}
				r.Units = append(r.Units, unit)
			}
			if err := a.addOpeners(&r, open); err != nil {
				return err
			}
			out, err := c.CreateVault(ctx, r)
			if err != nil {
				return err
			}
			return a.emit(out, func(w io.Writer) {
				a.vaultTable(w, out.Vault)
				if out.RecoveryKey == "" {
					return
				}
				fmt.Fprintf(w, "\nThe recovery key of the vault %q, shown this once:\n\n    %s\n\n", out.Vault.Name, out.RecoveryKey)
				fmt.Fprintln(w, "With it, everything in the vault can be read without this server. Keep it away from here.")
			})
		}),
	}
	c.Flags().Var(oneOf(&redundancy, backstay.LRS, backstay.ZRS, backstay.GRS), "redundancy", "copies in one zone, in three, or in one and in the paired region")
	c.Flags().StringVar(&pair, "pair", "", "`REGION` to which a GRS vault is replicated; the first that was paired unless told otherwise")
	c.Flags().StringArrayVar(&units, "unit", nil, "storage unit, a folder on the hosts, a bucket or a container: PATH or URL[,zone=NAME][,redundant]; once for each copy")
	open.flags(c)
	return c
}

// newUnit reads PATH or URL, with ,zone=NAME and ,redundant behind it.
func newUnit(s string) (api.NewUnit, error) {
	n := api.NewUnit{}
	at := s
	for {
		before, found := strings.CutSuffix(at, ",redundant")
		if found {
			at, n.Redundant = before, true
			continue
		}
		i := strings.LastIndex(at, ",zone=")
		if i < 0 || n.Zone != "" {
			break
		}
		if n.Zone = at[i+len(",zone="):]; n.Zone == "" {
			return n, backstay.Errorf(backstay.CodeUsage, "the unit %q names no zone", s).Becausef("nothing follows zone=").Do("say PATH,zone=NAME")
		}
		at = at[:i]
	}
	var err error
	n.URL, err = unitURL(at)
	return n, err
}

// unitURL returns a storage unit's URL as it is; what is none is a folder seen
// from here.
func unitURL(s string) (string, error) {
	if s == "" {
		return "", backstay.Errorf(backstay.CodeUsage, "a storage unit has no name").
			Becausef("--unit is empty").Do("say --unit PATH or --unit URL")
	}
	if strings.Contains(s, "://") {
		return s, nil
	}
	abs, err := filepath.Abs(s)
	if err != nil {
		return "", fmt.Errorf("find folder %s: %w", s, err)
	}
	return unit.Clean(abs)
}
