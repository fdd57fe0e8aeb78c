// Command benchreplication measures how a vault is pushed to a paired region: whole
// regions in network namespaces of their own, a link between them whose speed is
// set, and disk images that hold nothing that compresses. It is a benchmark and not
// a test: no figure makes it fail. It ends with a line for each goal.
//
// It needs root, bin/backstay and bin/sandbox; `make bench-replication` builds them
// and calls it.
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

const (
	mib = 1 << 20
	gib = 1 << 30
)

// options are what the command line says.
type options struct {
	keep   string   // the folder with the results of earlier runs
	only   []string // sections; empty: all
	rounds int
	size   int64 // of the image that is pushed, in bytes
	fresh  int64 // of the newest point's image, in bytes
	line   int64 // speed of the slow link, in bytes a second
	write  string
	bin    string // the folder of the programs
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintf(os.Stderr, "benchreplication: %v\n", err)
		stop()
		os.Exit(1) //nolint:gocritic // stop was called
	}
}

func parse(args []string) (options, error) {
	var o options
	var only, size, fresh, line string
	f := flag.NewFlagSet("benchreplication", flag.ContinueOnError)
	f.StringVar(&o.keep, "keep", ".work/benchreplication", "the `folder` in which results are kept and found")
	f.StringVar(&only, "only", "", "measure these `sections` only: "+strings.Join(sectionNames(), ",")+"; \"none\" prints what there is")
	f.IntVar(&o.rounds, "rounds", 3, "how often each thing is measured")
	f.StringVar(&size, "size", "1G", "the `size` of the image that is pushed")
	f.StringVar(&fresh, "fresh", "64M", "the `size` of the image of the newest point, which comes while another is being pushed")
	f.StringVar(&line, "line", "20M", "the speed of the slow link, as a `size` a second")
	f.StringVar(&o.write, "write", "", "render all results into this Markdown `file`, and a chart beside it in pictures/")
	f.StringVar(&o.bin, "bin", "bin", "the `folder` with backstay and sandbox")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if f.NArg() > 0 {
		return o, fmt.Errorf("%q is not a flag", f.Arg(0))
	}
	sizes, err := sandbox.ParseDisks([]string{"raw:" + size, "raw:" + fresh, "raw:" + line})
	if err != nil {
		return o, err
	}
	o.size, o.fresh, o.line = sizes[0].Size, sizes[1].Size, sizes[2].Size
	if o.rounds < 1 || o.fresh > o.size/4 {
		return o, errors.New("rounds start at 1, and the newest image has at most a quarter of the size of the other")
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
	f, err := loadFigures(o.keep)
	if err != nil {
		return err
	}
	b := &bench{o: o, figures: f}
	if err := b.measure(ctx); err != nil {
		return err
	}
	f.print(os.Stdout)
	if o.write != "" {
		if err := f.write(o.write); err != nil {
			return err
		}
	}
	for _, g := range f.goals() {
		fmt.Println(g)
	}
	return nil
}
