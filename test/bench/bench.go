package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// sections are the parts of a run that --only selects.
var sections = []string{"primitives", "first", "second", "restore", "copies", "increments", "reads", "plan", "index", "sweep"}

// bench is one run.
type bench struct {
	o       options
	results *results
	begin   time.Time
	again   bool // in a further round: the best figure stays
}

func newBench(o options) (*bench, error) {
	if err := os.MkdirAll(o.dir, 0o755); err != nil {
		return nil, err
	}
	r, err := loadResults(o.dir)
	return &bench{o: o, results: r, begin: time.Now()}, err
}

// want tells whether a section is to be measured. The sweep is not part of the
// whole: it takes long, and serves a decision.
func (b *bench) want(names ...string) bool {
	return slices.ContainsFunc(names, func(n string) bool {
		if len(b.o.only) == 0 {
			return n != "sweep"
		}
		return slices.Contains(b.o.only, n)
	})
}

func (b *bench) path(parts ...string) string {
	return filepath.Join(append([]string{b.o.dir}, parts...)...)
}

func (b *bench) logf(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%6.1f s  %s\n", time.Since(b.begin).Seconds(), fmt.Sprintf(format, args...))
}

// record keeps a figure and tells it.
func (b *bench) record(name string, f figure) error {
	text := fmt.Sprintf("%-24s %7.2f s  CPU %7.2f s  %5d MiB memory", name, f.Wall, f.CPU, f.RSS/mib)
	if f.Stored > 0 {
		text += fmt.Sprintf("  stored %d MiB (+%d)", f.Stored/mib, f.Added/mib)
	}
	b.logf("%s", text)
	return b.results.put(name, f, b.again)
}

// task runs a worker that is measured.
func (b *bench) task(ctx context.Context, name string, t task) error {
	f, err := worker(ctx, b.o.dir, t)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return b.record(name, f)
}

// quiet runs a worker that prepares or checks.
func (b *bench) quiet(ctx context.Context, t task) (figure, error) {
	return worker(ctx, b.o.dir, t)
}

func (b *bench) measure(ctx context.Context) error {
	if slices.Equal(b.o.only, []string{"none"}) {
		return nil
	}
	b.results.Machine = machine(ctx, b.o)
	if b.want("primitives", "first", "second", "restore", "copies", "increments", "reads", "sweep") {
		if err := b.images(ctx); err != nil {
			return err
		}
	}
	if b.want("primitives") {
		err := b.task(ctx, "primitives", task{Op: "primitives", Image: b.path("base.raw"), Out: b.path("primitives")})
		if err != nil {
			return err
		}
	}
	if err := b.table(ctx); err != nil {
		return err
	}
	for _, s := range []struct {
		name string
		fn   func(context.Context) error
	}{
		{"copies", b.threeCopies}, {"increments", b.increments}, {"reads", b.reads},
		{"plan", b.plan}, {"index", b.index}, {"sweep", b.sweepAll},
	} {
		if !b.want(s.name) {
			continue
		}
		if err := s.fn(ctx); err != nil {
			return err
		}
	}
	return nil
}

// table measures the table: each subject in turn, in the other order in
// every second round.
func (b *bench) table(ctx context.Context) error {
	if !b.want("first", "second", "restore") {
		return nil
	}
	for round := range b.o.rounds {
		b.again = round > 0
		subjects := append([]string{"backstay"}, b.o.peers...)
		if round%2 == 1 {
			slices.Reverse(subjects)
		}
		for _, s := range subjects {
			if err := warm(ctx, b.path("base.raw")); err != nil {
				return err
			}
			if err := b.subject(ctx, s); err != nil {
				return fmt.Errorf("measure %s: %w", s, err)
			}
		}
	}
	b.again = false
	return nil
}

func (b *bench) subject(ctx context.Context, name string) error {
	if name == "backstay" {
		return b.backstay(ctx)
	}
	dir := b.path(name)
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(dir, "in"), 0o755); err != nil {
		return err
	}
	err := peers[name](ctx, b, dir)
	return errors.Join(err, os.RemoveAll(dir))
}

// imageKey says what the images in a folder were made of and with.
type imageKey struct {
	GiB    int64
	Given  string
	Format int
}

// imageFormat changes when images are made in another way.
const imageFormat = 2

// images makes sure that the first image, the changed one and the overlay are there.
func (b *bench) images(ctx context.Context) error {
	want := imageKey{GiB: b.o.gib, Given: b.o.image, Format: imageFormat}
	var have imageKey
	data, err := os.ReadFile(b.path("image.json"))
	if err == nil && json.Unmarshal(data, &have) == nil && have == want {
		return nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	b.logf("making the images")
	b.results.Figures = map[string]figure{}
	for _, old := range []string{"vault1", "vault-chain", "chain.json"} { // of other images
		if err := os.RemoveAll(b.path(old)); err != nil {
			return err
		}
	}
	base, changed := b.path("base.raw"), b.path("changed.raw")
	if err := b.baseImage(ctx, base); err != nil {
		return fmt.Errorf("make the first image: %w", err)
	}
	if err := tool(ctx, "cp", "--sparse=always", base, changed); err != nil {
		return err
	}
	f, err := b.quiet(ctx, b.change(changed, b.path("ranges.json"), 1))
	if err != nil {
		return fmt.Errorf("make the change: %w", err)
	}
	if err := b.results.put("change", f, false); err != nil {
		return err
	}
	b.logf("the change: %d MiB in 4 KiB blocks (%d runs), %d in 64 KiB, %d in 1 MiB, %d in 4 MiB; compressed %d MiB (%d in single blocks)",
		int64(f.Said["4k"])/mib, int64(f.Said["runs"]), int64(f.Said["64k"])/mib, int64(f.Said["1m"])/mib, int64(f.Said["4m"])/mib,
		int64(f.Said["squeezed"])/mib, int64(f.Said["single"])/mib)
	f, err = b.quiet(ctx, task{Op: "overlay", Image: changed, Out: base, Ranges: b.path("ranges.json"), Overlay: b.path("overlay.qcow2")})
	if err != nil {
		return fmt.Errorf("make the overlay: %w", err)
	}
	b.logf("the overlay holds %d MiB", int64(f.Said["held"])/mib)
	if data, err = json.Marshal(want); err != nil {
		return err
	}
	return os.WriteFile(b.path("image.json"), data, 0o644)
}

func (b *bench) baseImage(ctx context.Context, path string) error {
	if b.o.image != "" {
		files, err := sources(sourceRoots(ctx))
		if err != nil {
			return err
		}
		if err := saveSources(b.path("sources.json"), files); err != nil {
			return err
		}
		return tool(ctx, "cp", "--sparse=always", b.o.image, path)
	}
	f, err := b.quiet(ctx, task{Op: "image", Sources: b.path("sources.json"), Out: path, Bytes: b.o.gib * gib})
	if err == nil {
		b.logf("the first image: %d GiB with %d files, %d MiB", b.o.gib, int64(f.Said["files"]), int64(f.Said["bytes"])/mib)
	}
	return err
}

// change is the task that changes an image for the step-th time.
func (b *bench) change(image, ranges string, step int) task {
	return task{Op: "change", Image: image, Ranges: ranges, Sources: b.path("sources.json"), Bytes: b.o.gib * gib, Step: step, Flat: b.o.image != ""}
}

// check demands that a restored image is the one that was backed up, and removes it.
func (b *bench) check(ctx context.Context, want, got string) error {
	_, err := b.quiet(ctx, task{Op: "same", Image: want, Out: got})
	return errors.Join(err, os.Remove(got))
}

// link gives a file another name, so that a peer sees one name for both states.
func link(from, to string) error {
	if err := os.Remove(to); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.Link(from, to)
}

// cloneTree gives all files of a folder second names in another: an instant copy
// of what is never changed in place.
func cloneTree(from, to string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, rel)
		switch {
		case d.IsDir():
			return os.MkdirAll(target, 0o700)
		case d.Name() == "bench.json": // is written anew
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			return os.WriteFile(target, data, 0o600)
		default:
			return unix.Link(path, target)
		}
	})
}
