package cli

import (
	"context"
	"fmt"
	"io"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/client"
	"github.com/spf13/cobra"
)

func (a *app) replicationCommands() *cobra.Command {
	return a.group("replication", "Replication of GRS vaults to the paired region",
		"  backstay replication status\n  backstay replication pause", a.replicationStatusCommand(), a.replicationPauseCommand(true), a.replicationPauseCommand(false))
}

func (a *app) replicationStatusCommand() *cobra.Command {
	return &cobra.Command{
		Use: "status [VAULT]", Short: "Show how far vaults are in the paired region",
		Long: "Show how far vaults are in the paired region: how many of their points are whole there, by how\n" +
			"much the newest of those is older than the newest point of the vault, and what is missing.",
		Example: "  backstay replication status\n  backstay replication status default -o json",
		Args:    atMostOne,
		RunE: a.call(func(ctx context.Context, c *client.Client, args []string) error {
			all, err := c.Replications(ctx)
			if err != nil {
				return err
			}
			if len(args) == 0 {
				return a.emit(all, func(w io.Writer) { a.replicationTable(w, all) })
			}
			for _, r := range all {
				if string(r.Vault) == args[0] {
					return a.emit(r, func(w io.Writer) { a.replicationTable(w, []backstay.Replication{r}) })
				}
			}
			return backstay.Errorf(backstay.CodeUnknownVault, "the vault %q is not replicated", args[0]).
				Becausef("it is not there, or its redundancy is not GRS").Do("see `backstay vault list`")
		}),
	}
}

func (a *app) replicationTable(w io.Writer, all []backstay.Replication) {
	row(w, "VAULT", "REGION", "STATE", "POINTS", "LAG", "MISSING", "RATE", "TIME LEFT", "LAST")
	for _, r := range all {
		missing, rate, left := "", "", ""
		if r.BacklogObjects > 0 {
			missing = fmt.Sprintf("%s in %d objects", size(r.BacklogBytes), r.BacklogObjects)
		}
		if r.Rate > 0 {
			rate = size(r.Rate) + "/s"
		}
		if r.EtaSeconds != nil {
			left = seconds(*r.EtaSeconds)
		}
		row(w, r.Vault, r.Region, because(r.State, r.Reason), fmt.Sprintf("%d of %d", r.Available, r.Points), seconds(r.LagSeconds), missing, rate, left, a.whenPtr(r.Last))
	}
}

// seconds shows a time in words that people read.
func seconds(n int64) string { return (time.Duration(n) * time.Second).String() }

func (a *app) replicationPauseCommand(pause bool) *cobra.Command {
	c := &cobra.Command{
		Use: "pause [REGION]", Short: "Push nothing to a paired region until told otherwise",
		Long:    "Push nothing to a paired region, or to all of them, until `replication resume`. What is there stays.",
		Example: "  backstay replication pause\n  backstay replication pause east",
	}
	if !pause {
		c = &cobra.Command{
			Use: "resume [REGION]", Short: "Go on with pushing to a paired region",
			Example: "  backstay replication resume\n  backstay replication resume east",
		}
	}
	c.Args = atMostOne
	c.RunE = a.call(func(ctx context.Context, cl *client.Client, args []string) error {
		var names []backstay.RegionName
		if len(args) == 1 {
			names = append(names, backstay.RegionName(args[0]))
		} else {
			regions, err := cl.Regions(ctx)
			if err != nil {
				return err
			}
			for _, r := range regions {
				names = append(names, r.Name)
			}
			if len(names) == 0 {
				return backstay.Errorf(backstay.CodeUnknownRegion, "this region is not paired with another one")
			}
		}
		change, done := cl.PauseReplication, "replication to region %s is paused"
		if !pause {
			change, done = cl.ResumeReplication, "replication to region %s goes on"
		}
		changed := []backstay.Region{}
		for _, name := range names {
			region, err := change(ctx, name)
			if err != nil {
				return err
			}
			a.note(done, name)
			changed = append(changed, region)
		}
		return a.emit(changed, func(w io.Writer) {
			row(w, "REGION", "STATE", "REPLICATION")
			for _, r := range changed {
				state := "goes on"
				if r.Paused {
					state = "paused"
				}
				row(w, r.Name, because(r.State, r.Reason), state)
			}
		})
	})
	return c
}

// replicas says how far a point is in other regions, in one word each.
func replicas(p backstay.RecoveryPoint) string {
	text := ""
	for i, r := range p.Replicas {
		if i > 0 {
			text += ", "
		}
		text += fmt.Sprintf("%s %s", r.Region, r.State)
	}
	return text
}
