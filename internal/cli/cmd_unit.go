package cli

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/blob/conform"
	"github.com/backstay/backstay/internal/blob/unit"
	"github.com/spf13/cobra"
)

func (a *app) unitCommands() *cobra.Command {
	return a.group("unit", "Storage units: the places that hold a vault's copies",
		"  backstay unit list\n  backstay unit check /mnt/copy1\n  backstay unit check 's3://backups/site1?endpoint=https://s3.example.org'", a.unitAddCommand(), a.unitListCommand(), a.unitShowCommand(), a.unitDrainCommand(), a.unitRemoveCommand(), a.unitCheckCommand(), a.unitInitCommand())
}

// unitMade is what `unit init` prints.
type unitMade struct {
	Unit string `json:"unit"`
}

func (a *app) unitInitCommand() *cobra.Command {
	return &cobra.Command{
		Use: "init PATH", Short: "Make an empty folder a storage unit, in the place of one that was lost",
		Long: "Make an empty folder a storage unit, in the place of one that was lost.\n\n" +
			"A folder without the mark of a storage unit is never written to: its disk may not be mounted.\n" +
			"When a disk was lost for good, mount a new one in its place and say so with this, where its server\n" +
			"runs. Then `backstay vault verify` finds what is missing there and has it written. Buckets and\n" +
			"containers need no mark: of them it is only tried whether they answer.",
		Example: "  backstay unit init /mnt/copy2 && backstay vault verify default",
		Args:    exactly("PATH"),
		RunE: a.run(func(ctx context.Context, args []string) error {
			raw, err := unitURL(args[0])
			if err != nil {
				return err
			}
			shown, err := unit.Clean(raw)
			if err != nil {
				return err
			}
			if err := unit.Init(ctx, raw); err != nil {
				return err
			}
			return a.emit(unitMade{Unit: shown}, func(w io.Writer) { fmt.Fprintf(w, "%s is a storage unit\n", shown) })
		}),
	}
}

// unitReport is what `unit check` prints.
type unitReport struct {
	Unit string `json:"unit"`
	conform.Report
}

func (a *app) unitCheckCommand() *cobra.Command {
	large, many := 0, 0
	c := &cobra.Command{
		Use: "check URL", Short: "Try whether a directory, bucket or container can hold a vault's copy",
		Long: "Try whether a directory, bucket or container can hold a vault's copy.\n\n" +
			"It runs here, without the server, with the credentials of this environment. It writes\n" +
			"objects below backstay-check-…/ and deletes them again, and touches no other. Tries:\n" +
			"put-if-absent with racing writers, exact ranges, list after write, order and paging of\n" +
			"long listings, odd names, empty and large objects, connections broken off in the middle,\n" +
			"delete. It ends with 1 if the unit cannot be used; a warning is no failure.",
		Example: "  backstay unit check /mnt/copy1\n" +
			"  backstay unit check 's3://backups/site1?endpoint=https://s3.example.org&path-style=true'\n" +
			"  backstay unit check azure://account/container -o json",
		Args: exactly("URL"),
		RunE: a.run(func(ctx context.Context, args []string) error {
			if large < 1 || large > 4096 || many < 1 {
				return backstay.Errorf(backstay.CodeUsage, "the check cannot have these sizes").
					Becausef("--large is %d and --many %d", large, many).Do("give --large 1 to 4096 and --many 1 or more")
			}
			return a.checkUnit(ctx, args[0], conform.Options{Large: large << 20, Many: many})
		}),
	}
	c.Flags().IntVar(&large, "large", 64, "`MIB` of the large object")
	c.Flags().IntVar(&many, "many", 1100, "`NUMBER` of objects in the long listing")
	return c
}

func (a *app) checkUnit(ctx context.Context, raw string, o conform.Options) error {
	raw, err := unitURL(raw)
	if err != nil {
		return err
	}
	shown, err := unit.Clean(raw)
	if err != nil {
		return err
	}
	s, done, err := unit.Options{}.Trial(ctx, raw)
	if err != nil {
		return err
	}
	r := unitReport{Unit: shown, Report: conform.Run(ctx, s, o, nil)}
	if err := done(); err != nil {
		return fmt.Errorf("clean up after the check: %w", err)
	}
	if ctx.Err() != nil {
		a.note("stopped: this says nothing of the storage unit")
		return errInterrupted
	}
	err = a.emit(r, func(w io.Writer) {
		row(w, "CHECK", "VERDICT", "TIME", "DETAIL")
		for _, c := range r.Results {
			row(w, c.Check, c.Verdict, (time.Duration(c.Millis) * time.Millisecond).String(), oneLine(c.Detail))
			if c.Action != "" {
				row(w, " ", " ", " ", "-> "+c.Action)
			}
		}
	})
	if err == nil && !r.OK {
		err = backstay.Errorf(backstay.CodeUnitUnfit, "the storage unit %s cannot hold a copy", shown).Becausef("%s", failedChecks(r.Results))
	}
	return err
}

func failedChecks(results []conform.Result) string {
	var failed []string
	for _, r := range results {
		if r.Verdict == conform.Fails {
			failed = append(failed, r.Check+": "+oneLine(r.Detail))
		}
	}
	return strings.Join(failed, "; ")
}
