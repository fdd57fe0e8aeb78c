package cli

import (
	"context"
	"io"
	"strings"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/api"
	"github.com/backstay/backstay/client"
	"github.com/spf13/cobra"
)

func (a *app) unitAddCommand() *cobra.Command {
	var r api.NewUnit
	c := &cobra.Command{
		Use: "add URL", Short: "Make a place known to the region as a storage unit",
		Long: "Make a place known to the region as a storage unit.\n\n" +
			"A folder is made one; it must be empty or not there yet. A bucket or container must be there\n" +
			"and answer. Vaults that are made without --unit, and those whose redundancy is changed, take\n" +
			"free units of the region. --redundant declares that the place keeps several copies by itself.",
		Example: "  backstay unit add /mnt/copy4\n  backstay unit add 's3://backups/east?endpoint=https://s3.example.org' --zone east\n" +
			"  backstay unit add s3://backups/all --redundant",
		Args: exactly("URL"),
		RunE: a.call(func(ctx context.Context, c *client.Client, args []string) (err error) {
			if r.URL, err = unitURL(args[0]); err != nil {
				return err
			}
			u, err := c.AddUnit(ctx, r)
			if err != nil {
				return err
			}
			return a.emit(u, func(w io.Writer) { a.unitTable(w, u) })
		}),
	}
	c.Flags().StringVar(&r.Zone, "zone", "", "`NAME` of the zone that it is in")
	c.Flags().BoolVar(&r.Redundant, "redundant", false, "it keeps several copies by itself, and counts for all copies of a vault")
	return c
}

func (a *app) unitListCommand() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the storage units, as last looked at", Example: "  backstay unit list\n  backstay unit list -o json", Args: exactly(),
		RunE: a.call(func(ctx context.Context, c *client.Client, _ []string) error {
			units, err := c.Units(ctx)
			if err != nil {
				return err
			}
			return a.emit(units, func(w io.Writer) {
				row(w, "UNIT", "ZONE", "STATE", "FREE", "VAULT", "CHECKED")
				for _, u := range units {
					row(w, u.URL, u.Zone, unitState(u), freeOf(u), vaultsOn(u), a.whenPtr(u.Checked))
				}
			})
		}),
	}
}

func (a *app) unitShowCommand() *cobra.Command {
	return &cobra.Command{
		Use: "show URL", Short: "Look at one storage unit now and show it", Example: "  backstay unit show /mnt/copy1", Args: exactly("URL"),
		RunE: a.call(func(ctx context.Context, c *client.Client, args []string) error {
			url, err := unitURL(args[0])
			if err != nil {
				return err
			}
			u, err := c.Unit(ctx, url)
			if err != nil {
				return err
			}
			return a.emit(u, func(w io.Writer) { a.unitTable(w, u) })
		}),
	}
}

func (a *app) unitTable(w io.Writer, u backstay.Unit) {
	row(w, "unit", u.URL)
	row(w, "zone", u.Zone)
	row(w, "state", unitState(u))
	row(w, "device", u.Device)
	row(w, "free", freeOf(u))
	if u.Redundant {
		row(w, "redundant", "declared; nothing here can check it")
	}
	row(w, "vault", vaultsOn(u))
	row(w, "added", a.when(u.Added))
	row(w, "checked", a.whenPtr(u.Checked))
}

// unitState says what a unit is at the moment: one without a vault is free.
func unitState(u backstay.Unit) string {
	state := u.State
	if state == backstay.NoCopy && len(u.Vaults) == 0 {
		state = "ok"
	}
	if u.Closed {
		state += ", drained"
	}
	return strings.TrimPrefix(state, ", ")
}

func freeOf(u backstay.Unit) string {
	if u.Available < 0 {
		return ""
	}
	return size(u.Available)
}

func vaultsOn(u backstay.Unit) string {
	var names []string
	for _, v := range u.Vaults {
		names = append(names, string(v))
	}
	return strings.Join(names, ", ")
}
