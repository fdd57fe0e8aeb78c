package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/client"
	"github.com/backstay/backstay/internal/sandbox"
	"github.com/backstay/backstay/test/bench/show"
)

// section is a part of a run that --only selects.
type section struct {
	name  string
	title string
	run   func(*bench, context.Context) error
}

var sections = []section{
	{"list", "the first listing, cold and from the pool", (*bench).lists},
	{"small", "a folder and one file of 1 MiB: what is read from the vault; and the whole point", (*bench).smalls},
	{"large", "one large file, warm", (*bench).larges},
	{"tar", "many small files as tar", (*bench).tars},
	{"index", "the list of files of a point and of the next ones, and a search", (*bench).indexes},
}

func sectionNames() []string {
	var names []string
	for _, s := range sections {
		names = append(names, s.name)
	}
	return names
}

// bench is one run.
type bench struct {
	o       options
	figures *figures
	begin   time.Time
	world   *sandbox.World
	host    *sandbox.Host
	client  *client.Client
	image   string // path outside of the host
	point   string // of the image
	scratch string // a folder for what is taken
}

func newBench(o options) (*bench, error) {
	f, err := loadFigures(o.keep)
	return &bench{o: o, figures: f, begin: time.Now()}, err
}

func (b *bench) logf(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%6.1f s  %s\n", time.Since(b.begin).Seconds(), fmt.Sprintf(format, args...))
}

// record keeps a figure and tells it.
func (b *bench) record(name string, value float64) error {
	b.logf("%-28s %.4g", name, value)
	return b.figures.Add(name, value)
}

func (b *bench) measure(ctx context.Context) (err error) {
	if slices.Equal(b.o.only, []string{"none"}) {
		return nil
	}
	if os.Geteuid() != 0 {
		return errors.New("this needs root, as it runs libvirtd in namespaces of its own: sudo make bench-files")
	}
	b.world, err = sandbox.Up(ctx, sandbox.Options{Binary: []string{filepath.Join(b.o.bin, "sandbox"), "backstay"}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.world.Down(context.WithoutCancel(ctx))) }()
	b.host, b.client = b.world.Hosts[0], client.New(b.world.Region.URL, b.world.Region.Token)
	defer b.client.Close()
	b.describe(ctx)
	if err := b.prepare(ctx); err != nil {
		return fmt.Errorf("prepare the image: %w", err)
	}
	for _, s := range sections {
		if len(b.o.only) > 0 && !slices.Contains(b.o.only, s.name) {
			continue
		}
		b.logf("%s", s.title)
		b.figures.Forget(s.name)
		if err := s.run(b, ctx); err != nil {
			return fmt.Errorf("measure %s: %w", s.name, err)
		}
	}
	return nil
}

func (b *bench) describe(ctx context.Context) {
	b.figures.Machine = show.Machine(ctx)
	for name, args := range map[string][]string{"libguestfs": {"guestfish", "--version"}, "QEMU": {"qemu-system-x86_64", "--version"}} {
		if out, err := exec.CommandContext(ctx, args[0], args[1:]...).Output(); err == nil {
			first, _, _ := strings.Cut(string(out), "\n")
			b.figures.Machine["version "+name] = strings.TrimSpace(first)
		}
	}
}

// prepare makes the image, backs it up, and lets libguestfs make its appliance.
func (b *bench) prepare(ctx context.Context) error {
	b.scratch = filepath.Join(b.world.Dir, "taken")
	inside := sandbox.Images + "/server.img"
	b.image = b.host.Outside(inside)
	b.logf("make a disk of %d GiB with %d files", b.o.size/gib, b.o.many)
	if err := errors.Join(os.Mkdir(b.scratch, 0o755), b.makeImage(ctx, b.image), b.connected(ctx)); err != nil {
		return err
	}
	b.logf("back it up")
	var job backstay.Job
	if err := b.backstay(ctx, &job, "backup", "--image", inside, "--as", "server"); err != nil {
		return err
	}
	b.point = string(job.Point)
	b.logf("libguestfs makes its appliance")
	return b.onImage(ctx, "ls", "/")
}

// backstay runs a command of backstay, and decodes its JSON into answer unless
// that is nil.
func (b *bench) backstay(ctx context.Context, answer any, args ...string) error {
	if answer != nil {
		args = append([]string{"-o", "json"}, args...)
	}
	cmd := exec.CommandContext(ctx, filepath.Join(b.o.bin, "backstay"), args...)
	cmd.Env = append(os.Environ(), "BACKSTAY_CONFIG="+b.world.Region.Client, "BACKSTAY_SERVER=", "BACKSTAY_TOKEN=")
	var out, problems bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &problems
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("backstay %s: %w: %s%s", strings.Join(args, " "), err, problems.String(), out.String())
	}
	if answer == nil {
		return nil
	}
	return json.Unmarshal(out.Bytes(), answer)
}

// timed is how long something takes, in seconds.
func timed(do func() error) (float64, error) {
	begin := time.Now()
	err := do()
	return time.Since(begin).Seconds(), err
}

// measured records how long something takes.
func (b *bench) measured(name string, do func() error) error {
	seconds, err := timed(do)
	if err != nil {
		return err
	}
	return b.record(name, seconds)
}

// cold drops files from the machine's memory.
func cold(roots ...string) error {
	for _, root := range roots {
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			f, err := os.Open(path)
			if err != nil {
				return err
			}
			defer f.Close()
			return unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
		})
		if err != nil {
			return fmt.Errorf("drop %s from memory: %w", root, err)
		}
	}
	return nil
}

func (b *bench) units() []string {
	var dirs []string
	for _, unit := range b.world.Region.Units {
		dirs = append(dirs, strings.TrimPrefix(unit, "file://"))
	}
	return dirs
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// until waits until something is so.
func until(ctx context.Context, so func() (bool, error)) error {
	for {
		if ok, err := so(); ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}
