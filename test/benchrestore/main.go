// Command benchrestore measures the ways back: the whole product on real VMs,
// each in turn with what one would do by hand on the same machine (start a ready
// image, copy an image). It is a benchmark and not a test: no figure makes it
// fail. It ends with a line for each goal.
//
// Goals are ratios of medians within one run, as the machine is never quite quiet.
// It needs root and bin/sandbox; `make bench-restore` builds both and calls it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/backstay/backstay/internal/sandbox"
)

// options are what the command line says.
type options struct {
	keep    string   // the folder with the results of earlier runs
	only    []string // sections; empty: all
	rounds  int
	bulk    int64  // size of the disk of the vault's section, in bytes
	write   string // a Markdown file to render the results into
	sandbox string // the program that acts as backstay in the world
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintf(os.Stderr, "benchrestore: %v\n", err)
		stop()
		os.Exit(1) //nolint:gocritic // stop was called
	}
}

func parse(args []string) (options, error) {
	var o options
	var only, bulk string
	f := flag.NewFlagSet("benchrestore", flag.ContinueOnError)
	f.StringVar(&o.keep, "keep", ".work/benchrestore", "the `folder` in which results are kept and found")
	f.StringVar(&only, "only", "", "measure these `sections` only: "+strings.Join(sectionNames(), ",")+"; \"none\" prints what there is")
	f.IntVar(&o.rounds, "rounds", 5, "how often each thing is measured; what takes long is measured less often")
	f.StringVar(&bulk, "bulk", "8G", "the `size` of the disk that is restored from the vault")
	f.StringVar(&o.write, "write", "", "render all results into this Markdown `file`, and a chart beside it in pictures/")
	f.StringVar(&o.sandbox, "sandbox", "bin/sandbox", "the sandbox's `program`")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if f.NArg() > 0 {
		return o, fmt.Errorf("%q is not a flag", f.Arg(0))
	}
	if o.rounds < 1 {
		return o, errors.New("rounds start at 1")
	}
	disks, err := sandbox.ParseDisks([]string{"raw:" + bulk})
	if err != nil {
		return o, err
	}
	if o.bulk = disks[0].Size; o.bulk < 256*mib {
		return o, errors.New("a bulk of less than 256M tells nothing")
	}
	o.only = strings.FieldsFunc(only, func(r rune) bool { return r == ',' || r == ' ' })
	for _, s := range o.only {
		if !slices.Contains(append(sectionNames(), "none"), s) {
			return o, fmt.Errorf("there is no section %q: want some of %s", s, strings.Join(sectionNames(), ","))
		}
	}
	if o.sandbox, err = filepath.Abs(o.sandbox); err != nil {
		return o, err
	}
	o.keep, err = filepath.Abs(o.keep)
	return o, err
}

func run(ctx context.Context, args []string) error {
	o, err := parse(args)
	if err != nil {
		return err
	}
	b, err := newBench(o)
	if err != nil {
		return err
	}
	if err := b.measure(ctx); err != nil {
		return err
	}
	b.figures.print(os.Stdout)
	if o.write != "" {
		if err := b.figures.write(o.write); err != nil {
			return err
		}
	}
	for _, g := range b.figures.goals() {
		fmt.Println(g)
	}
	return nil
}
