package cli

import (
	"context"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/api"
	"github.com/backstay/backstay/client"
	"github.com/spf13/cobra"
)

// vaultSettings are what can be set of a vault, each with what it is.
var vaultSettings = map[string]string{
	"redundancy":  "how many copies this region keeps of the vault, and where: LRS, ZRS or GRS. It is brought there by a job that copies, checks, then switches",
	"keep-days":   "for how many days after its instant this region keeps a point of a replica",
	"keep-points": "how many of the newest points of each VM of a replica this region keeps at any age",
}

func (a *app) vaultSetCommand() *cobra.Command {
	var settings []string
	for _, key := range slices.Sorted(maps.Keys(vaultSettings)) {
		value := "N"
		if key == "redundancy" {
			value = "LRS|ZRS|GRS"
		}
		settings = append(settings, "  "+key+"="+value+"\n        "+vaultSettings[key])
	}
	var units []string
	c := &cobra.Command{
		Use: "set VAULT KEY=VALUE… [--unit URL…]", Short: "Change how a vault is kept",
		Long: "Change how a vault is kept. A replica, VAULT@REGION, is another region's vault that is held here:\n" +
			"each region keeps its points by its own rule, and neither deletes anything in the other.\n\n" +
			strings.Join(settings, "\n"),
		Example: "  backstay vault set default redundancy=ZRS\n" +
			"  backstay vault set default redundancy=ZRS --unit /mnt/b,zone=2 --unit /mnt/c,zone=3\n" +
			"  backstay vault set default redundancy=LRS --unit s3://backups/site1,redundant\n" +
			"  backstay vault set default@west keep-days=90 keep-points=14",
		Args: cobra.MinimumNArgs(2),
		RunE: a.call(func(ctx context.Context, c *client.Client, args []string) error {
			values, err := parseSettings(args[1:])
			if err != nil {
				return err
			}
			if r, ok := values["redundancy"]; ok || len(units) > 0 {
				if !ok || len(values) > 1 {
					return backstay.Errorf(backstay.CodeUsage, "these do not go together").
						Becausef("redundancy= is set alone, and --unit says on which units").Do("say redundancy= in a command of its own")
				}
				return a.setRedundancy(ctx, c, args[0], r, units)
			}
			var keep api.SetVaultKeepRequest
			if keep.Days, err = setting(values, "keep-days"); err != nil {
				return err
			}
			if keep.Points, err = setting(values, "keep-points"); err != nil {
				return err
			}
			v, err := c.SetVaultKeep(ctx, backstay.VaultName(args[0]), keep)
			if err != nil {
				return err
			}
			return a.emit(v, func(w io.Writer) { a.vaultTable(w, v) })
		}),
	}
	c.Flags().StringArrayVar(&units, "unit", nil, "storage unit that is to be the vault's: PATH or URL[,zone=NAME][,redundant]; what lacks is chosen")
	return a.noWaitFlag(c)
}

// parseSettings takes KEY=VALUE apart; each key is known and named once.
func parseSettings(args []string) (map[string]string, error) {
	values := map[string]string{}
	for _, arg := range args {
		key, value, ok := strings.Cut(arg, "=")
		if _, known := vaultSettings[key]; !ok || !known || value == "" {
			return nil, backstay.Errorf(backstay.CodeUsage, "%q is no setting of a vault", arg).
				Becausef("settings are KEY=VALUE, with one of %s", strings.Join(slices.Sorted(maps.Keys(vaultSettings)), ", ")).
				Do("see `backstay vault set --help`")
		}
		if _, twice := values[key]; twice {
			return nil, backstay.Errorf(backstay.CodeUsage, "%s is set twice", key).Becausef("nobody can tell which counts").Do("say it once")
		}
		values[key] = value
	}
	return values, nil
}

// setting reads a number; nil if it was not given.
func setting(values map[string]string, key string) (*int, error) {
	text, given := values[key]
	if !given {
		return nil, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 {
		return nil, backstay.Errorf(backstay.CodeUsage, "%s cannot be %q", key, text).Becausef("it is a number").Do("say %s=30, for instance", key)
	}
	return &n, nil
}
