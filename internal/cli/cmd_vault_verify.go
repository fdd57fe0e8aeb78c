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

// vaultHealthCommands are those that look after a vault as a whole.
func (a *app) vaultHealthCommands() []*cobra.Command {
	var points bool
	verify := &cobra.Command{
		Use: "verify VAULT", Short: "Read and prove everything in a vault, in every copy",
		Long: "Read every object of the vault from every copy. One copy of each goes through the decoder; the others must be\n" +
			"the same bytes. What is damaged or missing in some copy is repaired by a job of its own.\n" +
			"Exit code 6 means that a recovery point cannot be restored whole any more.",
		Example: "  backstay vault verify default\n  backstay vault verify default --points\n  backstay vault verify default --no-wait -o json",
		Args:    exactly("VAULT"),
		RunE: a.call(func(ctx context.Context, c *client.Client, args []string) error {
			job, err := c.VerifyVault(ctx, backstay.VaultName(args[0]), api.VerifyVaultRequest{Points: points})
			if err != nil {
				return err
			}
			return a.started(ctx, c, job)
		}),
	}
	verify.Flags().BoolVar(&points, "points", false, "only the points that were never verified")
	repair := &cobra.Command{
		Use: "repair VAULT", Short: "Mend damaged and missing copies that verifying the vault found",
		Example: "  backstay vault repair default", Args: exactly("VAULT"),
		RunE: a.call(func(ctx context.Context, c *client.Client, args []string) error {
			job, err := c.RepairVault(ctx, backstay.VaultName(args[0]))
			if err != nil {
				return err
			}
			return a.started(ctx, c, job)
		}),
	}
	rebuild := &cobra.Command{
		Use: "catalog VAULT rebuild", Short: "Make the catalogue agree with the vault",
		Long: "Read the vault, add the points that the catalogue lacks, correct what differs, and mark what the vault no\n" +
			"longer has. Nothing is taken out of the catalogue.",
		Example: "  backstay vault catalog default rebuild", Args: exactly("VAULT", "rebuild"),
		RunE: a.call(func(ctx context.Context, c *client.Client, args []string) error {
			if args[1] != "rebuild" {
				return backstay.Errorf(backstay.CodeUsage, "a vault's catalogue cannot be told to %q", args[1]).Becausef("it can be rebuilt").
					Do("say: backstay vault catalog %s rebuild", args[0])
			}
			job, err := c.RebuildCatalogue(ctx, backstay.VaultName(args[0]))
			if err != nil {
				return err
			}
			return a.started(ctx, c, job)
		}),
	}
	return []*cobra.Command{a.noWaitFlag(verify), a.noWaitFlag(repair), a.noWaitFlag(rebuild), a.noWaitFlag(a.vaultImportCommand()), a.vaultReclaimCommand()}
}

func (a *app) vaultImportCommand() *cobra.Command {
	var units []string
	var keyFile, passphraseFile string
	c := &cobra.Command{
		Use: "import NAME --unit URL… --key FILE", Short: "Take in a vault that exists on its storage units",
		Long: "Make a vault known to this server, with a key that opens it (the recovery key, for instance) or a passphrase,\n" +
			"and fill the catalogue from it. The key is sent once and kept nowhere; the server becomes a recipient of its own.",
		Example: "  backstay vault import default --unit /mnt/a --unit /mnt/b --unit /mnt/c --key recovery.key\n" +
			"  pass show backstay | backstay vault import default --unit /mnt/a --unit /mnt/b --unit /mnt/c --key -",
		Args: exactly("NAME"),
		RunE: a.call(func(ctx context.Context, c *client.Client, args []string) error {
			r := api.ImportVaultRequest{Name: backstay.VaultName(args[0])}
			for _, u := range units {
				unit, err := newUnit(u)
				if err != nil {
					return err
				}
				r.Units = append(r.Units, unit)
			}
			var err error
			if passphraseFile != "" {
				r.Passphrase, err = a.readPassphrase(passphraseFile)
			} else {
				r.Key, err = a.readSecret(keyFile)
				r.Key = strings.TrimSpace(r.Key)
			}
			if err != nil {
				return err
			}
			out, err := c.ImportVault(ctx, r)
			if err != nil {
				return err
			}
			a.note("the vault %s is taken in; the catalogue is filled from it", out.Vault.Name)
			return a.started(ctx, c, out.Job)
		}),
	}
	c.Flags().StringArrayVar(&units, "unit", nil, "storage unit: PATH or URL[,zone=NAME]; once for each copy, in the order in which the vault was made")
	c.Flags().StringVar(&keyFile, "key", "", "file with a key that opens the vault; - for standard input")
	c.Flags().StringVar(&passphraseFile, "passphrase-file", "", "file with a passphrase that opens the vault in its first line; - for standard input")
	mustHave(c, "unit")
	c.MarkFlagsOneRequired("key", "passphrase-file")
	c.MarkFlagsMutuallyExclusive("key", "passphrase-file")
	return c
}

// healthTable says what verifying found out of a vault.
func (a *app) healthTable(w io.Writer, v backstay.Vault) {
	h := v.Health
	if h == nil {
		return
	}
	row(w, "")
	row(w, "COPY", "OBJECTS", "BYTES", "LAST SCRUBBED", "DAMAGED", "MISSING", "UNREADABLE")
	for _, u := range v.Units {
		if u.Copy == nil {
			row(w, u.URL, "", "", "never")
			continue
		}
		row(w, u.URL, u.Copy.Objects, size(u.Copy.Bytes), first(a.whenPtr(u.Copy.LastScrubbed), "never"), u.Copy.Damaged, u.Copy.Missing, u.Copy.Unreadable)
	}
	if h.Round != nil {
		row(w, "verify", fmt.Sprintf("under way since %s: %d objects, %s read", a.when(h.Round.Started), h.Round.Objects, size(h.Round.Bytes)))
	}
	for i, d := range h.Damages {
		if i == 10 {
			row(w, "", fmt.Sprintf("and %d more damages", len(h.Damages)-i))
			break
		}
		row(w, "damage", d)
	}
}
