package cli

import (
	"context"
	"fmt"
	"io"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/api"
	"github.com/backstay/backstay/client"
	"github.com/spf13/cobra"
)

// vaultReclaimCommand gives back what no point of a vault needs.
func (a *app) vaultReclaimCommand() *cobra.Command {
	var r api.ReclaimRequest
	var given func() bool
	var trash duration
	c := &cobra.Command{
		Use: "reclaim VAULT", Short: "Give back the room of what no recovery point needs any more",
		Long: "Find the packs that no recovery point needs and put them into the trash of the vault; delete those that have been\n" +
			"there long enough and that no job can still read; move what is needed out of packs of which little is. The server\n" +
			"does so by itself every day. Nothing is deleted if any storage unit cannot be listed in full.",
		Example: "  backstay vault reclaim default --dry-run\n  backstay vault reclaim default\n  backstay vault reclaim default --trash 0s --no-repack",
		Args:    exactly("VAULT"),
		RunE: a.call(func(ctx context.Context, c *client.Client, args []string) error {
			if given() {
				delay := backstay.Duration(trash)
				r.Trash = &delay
			}
			out, err := c.ReclaimVault(ctx, backstay.VaultName(args[0]), r)
			if err != nil {
				return err
			}
			if out.Plan != nil {
				return a.emit(out.Plan, func(w io.Writer) { a.reclaimTable(w, *out.Plan) })
			}
			return a.started(ctx, c, *out.Job)
		}),
	}
	c.Flags().BoolVar(&r.DryRun, "dry-run", false, "say what would be done, and do nothing")
	c.Flags().Var(&trash, "trash", "how long a condemned pack stays before it is deleted; left out: what the server's configuration says")
	c.Flags().Lookup("trash").DefValue = ""
	given = func() bool { return c.Flags().Changed("trash") }
	c.Flags().BoolVar(&r.NoRepack, "no-repack", false, "leave alone packs that are needed in part")
	return a.noWaitFlag(c)
}

func (a *app) reclaimTable(w io.Writer, p backstay.ReclaimPlan) {
	row(w, "vault", p.Vault)
	row(w, "points", p.Points)
	row(w, "packs", fmt.Sprintf("%d, %s in each copy", p.Packs.Objects, size(p.Packs.Bytes)))
	if p.Live > 0 {
		row(w, "needed of them", size(p.Live))
	}
	row(w, "to the trash", sum(p.Condemn))
	var moved, left int64
	for _, m := range p.Repack {
		moved += m.Live
		left += m.Bytes - m.Live
	}
	row(w, "repack", fmt.Sprintf("%d, moving %s to free %s", len(p.Repack), size(moved), size(left)))
	if p.RepackLater > 0 {
		row(w, "repack later", fmt.Sprintf("%d more than one run takes on", p.RepackLater))
	}
	row(w, "index objects", fmt.Sprintf("%s to be joined", sum(p.Indexes)))
	row(w, "chain records", fmt.Sprintf("%d to be removed", p.Records))
	row(w, "free after it", size(p.Now))
	row(w, "free later", size(p.Later))
	if len(p.Trash) > 0 {
		row(w, "")
		row(w, "IN THE TRASH", "PACKS", "NEEDED AGAIN", "SINCE", "DELETED")
		for _, t := range p.Trash {
			row(w, t.List, sum(t.Packs), t.Rescued.Objects, a.when(t.Since), a.fate(t))
		}
	}
	if len(p.Repack) > 0 {
		row(w, "")
		row(w, "REPACK", "SIZE", "NEEDED", "REASON")
		for _, m := range p.Repack {
			row(w, m.Pack, size(m.Bytes), size(m.Live), m.Reason)
		}
	}
}

// fate says when a list of condemned packs is deleted, or for whom it waits.
func (a *app) fate(t backstay.CondemnedPacks) string {
	switch {
	case t.Ready:
		return "now"
	case len(t.Waits) == 0:
		return "from " + a.when(t.Due)
	}
	l := t.Waits[0]
	text := fmt.Sprintf("from %s, when job %s (%s of %s) has ended", a.when(t.Due), l.Job, l.Kind, l.Target)
	if more := len(t.Waits) - 1; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

func sum(s backstay.ObjectSum) string { return fmt.Sprintf("%d, %s", s.Objects, size(s.Bytes)) }
