// Command bench measures what the vault costs: backstay and its peers in turn,
// on one image, in one run. It is a benchmark and not a test: no figure makes it
// fail. It ends with a line for each goal of the project.
//
// Each measurement is a process of its own. Those of backstay are this program
// itself, called as `bench worker`: they use the packages of the vault on storage
// units in a directory, with no server and no catalogue.
//
// It needs root, for the loop mounts by which the images are changed. `make bench`
// builds the peers and calls it.
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
)

// options are what the command line says.
type options struct {
	dir       string   // where images and repositories are
	keep      bool     // the folder was named, and stays
	gib       int64    // size of the generated image
	image     string   // a given image instead
	only      []string // sections; empty: all
	peers     []string
	rounds    int
	increment int    // how many increments follow the second backup
	write     string // a Markdown file to render the results into
	picture   string // where the chart goes
	bin       string // folder of the peers that were built
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	if len(os.Args) == 3 && os.Args[1] == "worker" {
		err = work(ctx, os.Args[2])
	} else {
		err = run(ctx, os.Args[1:])
	}
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		stop()
		os.Exit(1) //nolint:gocritic // stop was called
	}
}

func parse(args []string) (options, error) {
	var o options
	var only, peers, keep string
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.StringVar(&keep, "keep", "", "work in this `folder`, keep everything in it, and use what an earlier run left there")
	f.Int64Var(&o.gib, "gib", 8, "size of the generated image in `GiB`; the change grows with it")
	f.StringVar(&only, "only", "", "measure these `sections` only: "+strings.Join(sections, ",")+"; \"none\" prints what there is")
	f.StringVar(&peers, "peers", strings.Join(allPeers, ","), "the `peers` to measure; \"none\" for none")
	f.IntVar(&o.rounds, "rounds", 1, "measure the table this many times, in alternating order, and keep the best")
	f.IntVar(&o.increment, "increments", 30, "how many increments lie between the second backup and the last restore")
	f.StringVar(&o.write, "write", "", "render all results into this Markdown `file`, and a chart beside it in pictures/")
	f.StringVar(&o.bin, "bin", "bin/peers", "`folder` of the peers that were built")
	f.Usage = func() {
		fmt.Fprintln(f.Output(), "usage: bench [flags]     (BENCH_IMAGE=FILE measures on a raw image of yours)")
		f.PrintDefaults()
	}
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if f.NArg() > 0 {
		return o, fmt.Errorf("%q is not a flag", f.Arg(0))
	}
	o.image = os.Getenv("BENCH_IMAGE")
	o.only, o.peers = list(only), list(peers)
	for _, s := range o.only {
		if !slices.Contains(append(sections, "none"), s) {
			return o, fmt.Errorf("there is no section %q: want some of %s", s, strings.Join(sections, ","))
		}
	}
	if peers == "none" {
		o.peers = nil
	}
	for _, p := range o.peers {
		if !slices.Contains(allPeers, p) {
			return o, fmt.Errorf("there is no peer %q: want some of %s", p, strings.Join(allPeers, ","))
		}
	}
	if o.gib < 1 || o.rounds < 1 || o.increment < 1 {
		return o, errors.New("sizes and counts start at 1")
	}
	o.dir, o.keep = keep, keep != ""
	if o.write != "" {
		o.picture = filepath.Join(filepath.Dir(o.write), "pictures", "benchmarks.svg")
	}
	return o, absolute(&o.dir, &o.image, &o.bin)
}

func list(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ' ' })
}

func absolute(paths ...*string) error {
	for _, p := range paths {
		if *p == "" {
			continue
		}
		abs, err := filepath.Abs(*p)
		if err != nil {
			return err
		}
		*p = abs
	}
	return nil
}

func run(ctx context.Context, args []string) error {
	o, err := parse(args)
	if err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return errors.New("this needs root, to mount the images that it changes: sudo make bench")
	}
	if o.dir == "" {
		if o.dir, err = os.MkdirTemp("", "backstay-bench-"); err != nil {
			return err
		}
		defer func() { _ = os.RemoveAll(o.dir) }()
	}
	b, err := newBench(o)
	if err != nil {
		return err
	}
	if err := b.measure(ctx); err != nil {
		return err
	}
	b.print(os.Stdout)
	if o.write != "" {
		if err := b.write(o.write, o.picture); err != nil {
			return err
		}
	}
	for _, g := range b.results.goals() {
		fmt.Println(g)
	}
	return nil
}
