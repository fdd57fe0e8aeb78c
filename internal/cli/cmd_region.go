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

func (a *app) regionCommands() *cobra.Command {
	list := &cobra.Command{
		Use: "list", Short: "List the regions with which this one is paired", Example: "  backstay region list\n  backstay region list -o json", Args: exactly(),
		RunE: a.call(func(ctx context.Context, c *client.Client, _ []string) error {
			regions, err := c.Regions(ctx)
			if err != nil {
				return err
			}
			return a.emit(regions, func(w io.Writer) {
				row(w, "REGION", "STATE", "LAST SEEN", "ADDRESS", "REASON")
				for _, r := range regions {
					row(w, r.Name, regionState(r), a.whenPtr(r.LastSeen), r.Address, r.Reason)
				}
			})
		}),
	}
	show := &cobra.Command{
		Use: "show REGION", Short: "Show one paired region", Example: "  backstay region show east",
		Args: exactly("REGION"), ValidArgsFunction: a.completeRegions(),
		RunE: a.call(func(ctx context.Context, c *client.Client, args []string) error {
			r, err := c.Region(ctx, backstay.RegionName(args[0]))
			if err != nil {
				return err
			}
			return a.emit(r, func(w io.Writer) { a.printRegion(w, r) })
		}),
	}
	return a.group("region", "Regions with which this one is paired", "  backstay region pair\n  backstay region list", list, show, a.regionPairCommand(), a.regionRemoveCommand())
}

func regionState(r backstay.Region) string {
	if r.Paused {
		return r.State + ", paused"
	}
	return r.State
}

func (a *app) printRegion(w io.Writer, r backstay.Region) {
	row(w, "region", r.Name)
	row(w, "state", regionState(r))
	if r.Reason != "" {
		row(w, "reason", r.Reason)
	}
	row(w, "last seen", a.whenPtr(r.LastSeen))
	row(w, "paired", a.when(r.Paired))
	row(w, "address", orNone(r.Address, "it cannot be called"))
	row(w, "server", orNone(r.Server, "it did not say"))
	row(w, "fingerprint", r.Fingerprint)
	row(w, "recipient", orNone(r.Recipient, "it holds without being able to read"))
}

func orNone(value, none string) string {
	if value == "" {
		return "- (" + none + ")"
	}
	return value
}

func (a *app) regionPairCommand() *cobra.Command {
	replace := ""
	c := &cobra.Command{
		Use: "pair [TOKEN]", Short: "Pair with another region: first without a token there, then with it here",
		Long: "Pair two regions. Without TOKEN a token is made, which the other region's owner\n" +
			"gives to the same command there; with TOKEN the server calls the one that made\n" +
			"it. The token can be used once, within an hour. TOKEN - reads it from stdin.\n\n" +
			"Each server keeps the other's certificate, and knows it by that alone. A region\n" +
			"that is known already gets another server only with --replace on both sides.",
		Example: "  backstay region pair                          # in west: prints a token\n" +
			"  backstay region pair bspair_…                 # in east: uses it\n" +
			"  backstay region pair --replace west           # in east: west has a new server",
		Args: atMostOne,
		RunE: a.call(func(ctx context.Context, c *client.Client, args []string) error {
			if len(args) == 0 {
				return a.newPairingToken(ctx, c, backstay.RegionName(replace))
			}
			token := args[0]
			if token == "-" {
				data, err := io.ReadAll(io.LimitReader(a.Stdin, 8<<10))
				if err != nil {
					return fmt.Errorf("read the token: %w", err)
				}
				token = strings.TrimSpace(string(data))
			}
			r, err := c.PairRegion(ctx, api.PairRequest{Token: token, Replace: backstay.RegionName(replace)})
			if err != nil {
				return err
			}
			return a.emit(r, func(w io.Writer) {
				row(w, "paired with region "+string(r.Name))
				a.printRegion(w, r)
			})
		}),
	}
	c.Flags().StringVar(&replace, "replace", "", "the `REGION` that is known already and gets another server by this")
	return c
}

func (a *app) regionRemoveCommand() *cobra.Command {
	return a.yesFlag(&cobra.Command{
		Use: "remove REGION", Short: "End the pairing with a region, on this side",
		Long:    "End the pairing with a region: its server is not answered any more, at once, and\nnot called. What is held of it here stays, and so does what it holds. It is\nrefused while a vault of this region is replicated to it.",
		Example: "  backstay region remove east --yes", Args: exactly("REGION"), ValidArgsFunction: a.completeRegions(),
		RunE: a.call(func(ctx context.Context, c *client.Client, args []string) error {
			if err := a.confirm("end the pairing with region %s; its server is shut out at once", args[0]); err != nil {
				return err
			}
			if err := c.RemoveRegion(ctx, backstay.RegionName(args[0])); err != nil {
				return err
			}
			a.note("region %s is not paired with this one any more", args[0])
			return nil
		}),
	})
}

func (a *app) newPairingToken(ctx context.Context, c *client.Client, replace backstay.RegionName) error {
	t, err := c.NewPairingToken(ctx, api.PairingTokenRequest{Replace: replace})
	if err != nil {
		return err
	}
	return a.emit(t, func(w io.Writer) {
		fmt.Fprintf(w, "token of region %s, shown this once, for one use until %s:\n\n    %s\n\n", t.Region, a.when(t.Expires), t.Token)
		fmt.Fprintf(w, "Give it to `backstay region pair TOKEN` in the other region, whose server will\ncall this one at %s.\n", t.Address)
	})
}

func (a *app) completeRegions() cobra.CompletionFunc {
	return a.complete(func(ctx context.Context, c *client.Client) (out []string, err error) {
		regions, err := c.Regions(ctx)
		for _, r := range regions {
			out = append(out, string(r.Name))
		}
		return out, err
	})
}
