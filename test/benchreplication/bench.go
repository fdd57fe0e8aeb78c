package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	backstay "github.com/backstay/backstay"
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
	{"store", "a point over a link without a bound, beside the other region's storage units", (*bench).store},
	{"line", "a point over a slow link", (*bench).line},
	{"lag", "a new point while an older one is being pushed over the slow link", (*bench).lag},
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
	regions *sandbox.Regions
	image   string // path outside of the host
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
	b.begin = time.Now()
	if slices.Equal(b.o.only, []string{"none"}) {
		return nil
	}
	if os.Geteuid() != 0 {
		return errors.New("this needs root, as it makes network namespaces: sudo make bench-replication")
	}
	program := filepath.Join(b.o.bin, "sandbox")
	b.regions, err = sandbox.UpRegions(ctx, sandbox.Options{Hosts: []string{"host1"}, Binary: []string{program, "backstay"}, LinkBinary: []string{program, "carry"}}, "west", "east")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.regions.Down(context.WithoutCancel(ctx))) }()
	b.figures.Machine = show.Machine(ctx)
	b.figures.Machine["line"] = fmt.Sprintf("%d MiB/s", b.o.line/mib)
	if err := b.pair(ctx); err != nil {
		return fmt.Errorf("pair the regions: %w", err)
	}
	for _, s := range sections {
		if len(b.o.only) > 0 && !slices.Contains(b.o.only, s.name) {
			continue
		}
		b.logf("%s", s.title)
		b.figures.Forget(s.name)
		for range b.o.rounds {
			if err := s.run(b, ctx); err != nil {
				return fmt.Errorf("measure %s: %w", s.name, err)
			}
		}
	}
	return nil
}

// pair pairs the regions and makes a GRS vault in the first.
func (b *bench) pair(ctx context.Context) error {
	west, err := b.regions.World("west")
	if err != nil {
		return err
	}
	east, err := b.regions.World("east")
	if err != nil {
		return err
	}
	b.image = west.Hosts[0].Outside(sandbox.Images + "/disk.img")
	create := []string{"vault", "create", "far", "--redundancy", "GRS"}
	for i := range 3 {
		if err := b.backstay(ctx, "east", nil, "unit", "add", filepath.Join(east.Dir, "region", fmt.Sprintf("held%d", i))); err != nil {
			return err
		}
		create = append(create, "--unit", filepath.Join(west.Dir, "region", fmt.Sprintf("far%d", i)))
	}
	var made struct {
		Token string `json:"token"`
	}
	if err := b.backstay(ctx, "west", &made, "region", "pair"); err != nil {
		return err
	}
	if err := b.backstay(ctx, "east", nil, "region", "pair", made.Token); err != nil {
		return err
	}
	if err := b.backstay(ctx, "west", nil, create...); err != nil {
		return err
	}
	if err := b.backstay(ctx, "west", nil, "policy", "create", "daily"); err != nil {
		return err
	}
	return until(ctx, func() (bool, error) {
		var regions []backstay.Region
		var hosts []backstay.Host
		err := errors.Join(b.backstay(ctx, "west", &regions, "region", "list"), b.backstay(ctx, "west", &hosts, "host", "list"))
		return len(regions) == 1 && regions[0].State == "connected" && len(hosts) == 1 && hosts[0].State == "connected", err
	})
}

// backstay runs a command of backstay in a region, and decodes its JSON into answer
// unless that is nil.
func (b *bench) backstay(ctx context.Context, region string, answer any, args ...string) error {
	w, err := b.regions.World(region)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, filepath.Join(b.o.bin, "backstay"), append([]string{"-o", "json"}, args...)...)
	cmd.Env = append(os.Environ(), "BACKSTAY_CONFIG="+w.Region.Client, "BACKSTAY_SERVER=", "BACKSTAY_TOKEN=")
	var out, problems bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &problems
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("backstay %s: %w: %s%s", strings.Join(args[:min(2, len(args))], " "), err, problems.String(), out.String())
	}
	if answer == nil {
		return nil
	}
	return json.Unmarshal(out.Bytes(), answer)
}

// backup backs an image of fresh noise up as a machine and returns the job.
func (b *bench) backup(ctx context.Context, name string, size int64) (backstay.Job, error) {
	var job backstay.Job
	if err := noise(b.image, size); err != nil {
		return job, err
	}
	err := b.backstay(ctx, "west", &job, "backup", "--host", "west1", "--image", sandbox.Images+"/disk.img", "--as", name, "--vault", "far", "--policy", "daily")
	return job, err
}

func noise(path string, size int64) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = io.CopyN(f, rand.Reader, size)
	return errors.Join(err, f.Close())
}

// available waits until a point is whole in the other region.
func (b *bench) available(ctx context.Context, point backstay.PointID) error {
	return until(ctx, func() (bool, error) {
		var p backstay.RecoveryPoint
		err := b.backstay(ctx, "west", &p, "point", "show", string(point))
		return len(p.Replicas) == 1 && p.Replicas[0].State == backstay.ReplicaAvailable, err
	})
}

// newest returns the newest job that pushed and has ended.
func (b *bench) newest(ctx context.Context) (backstay.Job, error) {
	var found backstay.Job
	err := until(ctx, func() (bool, error) {
		var jobs []backstay.Job
		err := b.backstay(ctx, "west", &jobs, "job", "list")
		i := slices.IndexFunc(jobs, func(j backstay.Job) bool { return j.Kind == backstay.JobReplicate && j.Stats.BytesNew > mib })
		if err != nil || i < 0 || !jobs[i].State.Ended() {
			return false, err
		}
		found = jobs[i]
		return true, nil
	})
	return found, err
}

// pushed backs up while replication is paused, then pushes, and returns the job that
// did.
func (b *bench) pushed(ctx context.Context, name string, size int64) (backstay.Job, error) {
	if err := b.backstay(ctx, "west", nil, "replication", "pause"); err != nil {
		return backstay.Job{}, err
	}
	job, err := b.backup(ctx, name, size)
	if err == nil {
		err = b.backstay(ctx, "west", nil, "replication", "resume")
	}
	if err == nil {
		err = b.available(ctx, job.Result.Backups[0].Point)
	}
	if err != nil {
		return job, err
	}
	return b.newest(ctx)
}

func speed(j backstay.Job) float64 {
	return float64(j.Stats.BytesNew) / j.Ended.Sub(*j.Started).Seconds()
}

// store measures with a link that has no bound: then the other region's units are
// what is slowest.
func (b *bench) store(ctx context.Context) error {
	east, err := b.regions.World("east")
	if err != nil {
		return err
	}
	raw, err := rawStore(filepath.Join(east.Dir, "region", "raw"), b.o.size)
	if err != nil {
		return err
	}
	job, err := b.pushed(ctx, "store", b.o.size)
	if err != nil {
		return err
	}
	return errors.Join(b.record("store/raw", raw), b.record("store/ours", speed(job)),
		b.record("store/requests-per-GiB", float64(job.Stats.Requests)*gib/float64(job.Stats.BytesNew)))
}

// rawStore is how fast three copies of as many bytes can be written, each synced and
// read back, in objects like packs.
func rawStore(dir string, size int64) (float64, error) {
	const object, atOnce = 16 * mib, 6
	data := make([]byte, object)
	if _, err := rand.Read(data); err != nil {
		return 0, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return 0, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	begin := time.Now()
	names := make(chan int64)
	failed := make(chan error, atOnce)
	for range atOnce {
		go func() {
			var errs []error
			for n := range names {
				errs = append(errs, threeCopies(dir, n, data))
			}
			failed <- errors.Join(errs...)
		}()
	}
	for n := range size / object {
		names <- n
	}
	close(names)
	var errs []error
	for range atOnce {
		errs = append(errs, <-failed)
	}
	return float64(size/object*object) / time.Since(begin).Seconds(), errors.Join(errs...)
}

func threeCopies(dir string, n int64, data []byte) error {
	var wg sync.WaitGroup
	errs := make([]error, 3)
	for i := range errs {
		wg.Go(func() {
			path := filepath.Join(dir, fmt.Sprintf("%d-%d", n, i))
			f, err := os.Create(path)
			if err == nil {
				_, err = f.Write(data)
				err = errors.Join(err, f.Sync(), f.Close())
			}
			var back []byte
			if err == nil {
				back, err = os.ReadFile(path)
			}
			if err == nil && !bytes.Equal(back, data) {
				err = errors.New("another content is read back")
			}
			errs[i] = err
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// line measures over the slow link.
func (b *bench) line(ctx context.Context) error {
	if err := b.regions.Speed(ctx, b.o.line); err != nil {
		return err
	}
	defer func() { _ = b.regions.Speed(ctx, 0) }()
	job, err := b.pushed(ctx, "line", b.o.size/2)
	if err != nil {
		return err
	}
	return errors.Join(b.record("line/raw", float64(b.o.line)), b.record("line/ours", speed(job)))
}

// lag measures how long after its backup a new point is whole there, while an older
// one is on its way.
func (b *bench) lag(ctx context.Context) error {
	if err := b.regions.Speed(ctx, b.o.line); err != nil {
		return err
	}
	defer func() { _ = b.regions.Speed(ctx, 0) }()
	old, err := b.backup(ctx, "lag-old", b.o.size)
	if err != nil {
		return err
	}
	err = until(ctx, func() (bool, error) {
		var all []backstay.Replication
		err := b.backstay(ctx, "west", &all, "replication", "status")
		return len(all) == 1 && all[0].State == "copying" && all[0].Rate > 0, err
	})
	if err != nil {
		return err
	}
	fresh, err := b.backup(ctx, "lag-new", b.o.fresh)
	if err != nil {
		return err
	}
	if err := b.available(ctx, fresh.Result.Backups[0].Point); err != nil {
		return err
	}
	lag := time.Since(*fresh.Ended).Seconds()
	ideal := float64(fresh.Stats.BytesNew) / float64(b.o.line)
	if err := errors.Join(b.record("lag/ideal", ideal), b.record("lag/ours", lag)); err != nil {
		return err
	}
	if err := b.regions.Speed(ctx, 0); err != nil {
		return err
	}
	return b.available(ctx, old.Result.Backups[0].Point)
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
		case <-time.After(200 * time.Millisecond):
		}
	}
}
