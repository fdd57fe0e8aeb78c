// Command benchfiles measures files out of recovery points: whole commands of
// backstay on a real region, each in turn with what libguestfs needs for the same
// on the same image. It is a benchmark and not a test: no figure makes it fail. It
// ends with a line for each goal.
//
// Goals are ratios of medians within one run, as the machine is never quite quiet.
// It needs root, bin/backstay and bin/sandbox; `make bench-files` builds them and
// calls it.
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
	keep   string   // the folder with the results of earlier runs
	only   []string // sections; empty: all
	rounds int
	size   int64 // of the disk, in bytes
	large  int64 // of its large file, in bytes
	many   int   // small files
	points int   // in which is searched
	write  string
	bin    string // the folder of the programs
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintf(os.Stderr, "benchfiles: %v\n", err)
		stop()
		os.Exit(1) //nolint:gocritic // stop was called
	}
}

func parse(args []string) (options, error) {
	var o options
	var only, size, large string
	f := flag.NewFlagSet("benchfiles", flag.ContinueOnError)
	f.StringVar(&o.keep, "keep", ".work/benchfiles", "the `folder` in which results are kept and found")
	f.StringVar(&only, "only", "", "measure these `sections` only: "+strings.Join(sectionNames(), ",")+"; \"none\" prints what there is")
	f.IntVar(&o.rounds, "rounds", 3, "how often each thing is measured; what takes long is measured once")
	f.StringVar(&size, "size", "100G", "the `size` of the disk, nearly all of which is a hole")
	f.StringVar(&large, "large", "200M", "the `size` of the large file")
	f.IntVar(&o.many, "many", 100_000, "how many small files there are")
	f.IntVar(&o.points, "points", 12, "how many points are listed and searched; 100 take some 15 minutes")
	f.StringVar(&o.write, "write", "", "render all results into this Markdown `file`, and a chart beside it in pictures/")
	f.StringVar(&o.bin, "bin", "bin", "the `folder` with backstay and sandbox")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if f.NArg() > 0 {
		return o, fmt.Errorf("%q is not a flag", f.Arg(0))
	}
	disks, err := sandbox.ParseDisks([]string{"raw:" + size, "raw:" + large})
	if err != nil {
		return o, err
	}
	o.size, o.large = disks[0].Size, disks[1].Size
	switch {
	case o.rounds < 1 || o.many < 1 || o.points < 2:
		return o, errors.New("rounds and many start at 1, points at 2")
	case o.size < 2*o.large+int64(o.many)*8192+gib:
		return o, errors.New("the disk is too small for the files")
	}
	o.only = strings.FieldsFunc(only, func(r rune) bool { return r == ',' || r == ' ' })
	for _, s := range o.only {
		if !slices.Contains(append(sectionNames(), "none"), s) {
			return o, fmt.Errorf("there is no section %q: want some of %s", s, strings.Join(sectionNames(), ","))
		}
	}
	if o.bin, err = filepath.Abs(o.bin); err != nil {
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
