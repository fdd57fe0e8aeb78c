package cli

import (
	"context"
	"strings"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/api"
	"github.com/backstay/backstay/client"
	"github.com/spf13/cobra"
)

// setRedundancy has a vault brought to a redundancy, and follows the job.
func (a *app) setRedundancy(ctx context.Context, c *client.Client, vault, redundancy string, units []string) error {
	r := api.SetRedundancyRequest{Redundancy: backstay.Redundancy(strings.ToUpper(redundancy))}
	for _, u := range units {
		unit, err := newUnit(u)
		if err != nil {
			return err
		}
		r.Units = append(r.Units, unit)
	}
	out, err := c.SetRedundancy(ctx, backstay.VaultName(vault), r)
	if err != nil {
		return err
	}
	for _, u := range out.Vault.Units {
		switch u.Standing {
		case backstay.Behind:
			a.note("%s joins", u.URL)
		case backstay.Leaving:
			a.note("%s leaves when the others have everything; what is on it stays there", u.URL)
		}
	}
	return a.started(ctx, c, out.Job)
}

func (a *app) unitDrainCommand() *cobra.Command {
	var to []string
	c := &cobra.Command{
		Use: "drain URL [--to URL]", Short: "Have the copies that are on a storage unit made elsewhere",
		Long: "Have the copies that are on a storage unit made elsewhere.\n\n" +
			"From now on no vault is put on the unit. For each vault that is on it, another unit gets a copy\n" +
			"of everything, from those that have it; this one stays a copy until that is read back, and then\n" +
			"leaves the vault. What is on it stays there: nothing is deleted. A unit that is lost for good is\n" +
			"drained in the same way.",
		Example: "  backstay unit drain /mnt/copy2\n  backstay unit drain /mnt/copy2 --to /mnt/copy4,zone=2",
		Args:    exactly("URL"),
		RunE: a.call(func(ctx context.Context, c *client.Client, args []string) error {
			url, err := unitURL(args[0])
			if err != nil {
				return err
			}
			var r api.DrainUnitRequest
			for _, t := range to {
				unit, err := newUnit(t)
				if err != nil {
					return err
				}
				r.To = append(r.To, unit)
			}
			out, err := c.DrainUnit(ctx, url, r)
			if err != nil {
				return err
			}
			if len(out.Jobs) == 0 {
				a.note("no vault is on it; from now on none is put there")
			}
			for _, job := range out.Jobs {
				if err := a.started(ctx, c, job); err != nil {
					return err
				}
			}
			return nil
		}),
	}
	c.Flags().StringArrayVar(&to, "to", nil, "storage unit that takes its place: PATH or URL[,zone=NAME][,redundant]; otherwise a free one is chosen")
	return a.noWaitFlag(c)
}

func (a *app) unitRemoveCommand() *cobra.Command {
	return &cobra.Command{
		Use: "remove URL", Short: "Forget a storage unit that no vault is on",
		Long: "Forget a storage unit that no vault is on. What is on it stays there.\n" +
			"One that holds a copy is drained first (backstay unit drain).",
		Example: "  backstay unit remove /mnt/copy2",
		Args:    exactly("URL"),
		RunE: a.call(func(ctx context.Context, c *client.Client, args []string) error {
			url, err := unitURL(args[0])
			if err != nil {
				return err
			}
			if err := c.RemoveUnit(ctx, url); err != nil {
				return err
			}
			a.note("%s is not known to the region any more", url)
			return nil
		}),
	}
}
