package cli

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/client"
	"github.com/spf13/cobra"
)

func (a *app) policySimulateCommand() *cobra.Command {
	days := 30
	c := &cobra.Command{
		Use: "simulate POLICY", Short: "Show which points a policy would keep, and how deep the chains would get",
		Long:    "Show what a policy would keep, had it been at work for so many days. Nothing is changed.",
		Example: "  backstay policy simulate daily\n  backstay policy simulate prod --days 400 -o json",
		Args:    exactly("POLICY"),
		RunE: a.call(func(ctx context.Context, cl *client.Client, args []string) error {
			sim, err := cl.SimulatePolicy(ctx, backstay.PolicyName(args[0]), days)
			if err != nil {
				return err
			}
			return a.emit(sim, func(w io.Writer) { a.simulationTable(w, sim) })
		}),
	}
	c.Flags().IntVar(&days, "days", days, "how long the policy is imagined to have been at work, 1 to 3660")
	return c
}

func (a *app) simulationTable(w io.Writer, sim backstay.PolicySimulation) {
	row(w, "policy", sim.Policy.Name)
	row(w, "imagined", fmt.Sprintf("%d days at work, %d points taken", sim.Days, sim.Taken))
	row(w, "deepest chain", fmt.Sprintf("%d points; it may hold %d", sim.Deepest, sim.Bound))
	row(w, "most in the vault", fmt.Sprintf("%d points", sim.MostInVault))
	for _, note := range sim.Notes {
		row(w, "note", note)
	}
	row(w, "")
	from := sim.Until.Add(-time.Duration(sim.Days) * 24 * time.Hour)
	row(w, "snapshot tier", "|"+timeline(sim, from, func(p backstay.SimulatedPoint) bool { return p.Snapshot != "" })+"|")
	row(w, "vault tier", "|"+timeline(sim, from, func(p backstay.SimulatedPoint) bool { return p.Vault != "" })+"|")
	left := fmt.Sprintf("-%d d", sim.Days)
	row(w, "", " "+left+strings.Repeat(" ", max(1, columns-len(left)-len("now")))+"now")
	row(w, "")
	row(w, "KEPT POINT OF", "SNAPSHOT TIER", "VAULT TIER")
	for _, p := range sim.Points {
		row(w, p.Time.Format("2006-01-02 15:04"), first(p.Snapshot, "-"), first(p.Vault, "-"))
	}
}

// columns is the width of a timeline.
const columns = 60

// timeline draws the kept points from left to right: a dot for a stretch of time
// without one, else how many there are, "+" for more than nine.
func timeline(sim backstay.PolicySimulation, from time.Time, kept func(backstay.SimulatedPoint) bool) string {
	counts := make([]int, columns)
	span := sim.Until.Sub(from)
	for _, p := range sim.Points {
		if at := int(float64(p.Time.Sub(from)) / float64(span) * columns); kept(p) && span > 0 {
			counts[min(max(at, 0), columns-1)]++
		}
	}
	var b strings.Builder
	for _, n := range counts {
		switch {
		case n == 0:
			b.WriteByte('.')
		case n > 9:
			b.WriteByte('+')
		default:
			fmt.Fprint(&b, n)
		}
	}
	return b.String()
}
