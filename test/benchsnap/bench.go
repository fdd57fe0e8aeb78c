package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/api"
	"github.com/backstay/backstay/client"
	"github.com/backstay/backstay/internal/sandbox"
	"github.com/backstay/backstay/test/bench/show"
)

// section is a part of a run that --only selects. It begins with the guests that
// it names up and no other, and with none of its figures.
type section struct {
	name  string
	title string
	vms   []string
	run   func(*bench, context.Context) error
}

var sections = []section{
	{"points", "stalls and times of points and merges", []string{work, big}, (*bench).points},
	{"idle", "second backups of idle guests", []string{work, big}, (*bench).idle},
	{"transfer", "stalls during transfers", []string{work}, (*bench).transfers},
	{"virtnbd", "beside virtnbdbackup", []string{work}, (*bench).virtnbd},
	{"layers", "writing on eight layers, and what a point keeps", []string{deep}, (*bench).layers},
}

func sectionNames() []string {
	var names []string
	for _, s := range sections {
		names = append(names, s.name)
	}
	return names
}

// The guests: one that works, on a disk of 1 GiB; one with a disk of 1 TiB; and
// one with layers on some of its disks.
const (
	work = "work"
	big  = "big"
	deep = "deep"
)

const (
	mib = 1 << 20
	gib = 1 << 30
	tib = 1 << 40
)

// specs are the guests.
var specs = map[string]sandbox.VMSpec{
	work: {Name: work, Disks: []sandbox.DiskSpec{{}, {Size: gib}}},
	big:  {Name: big, Disks: []sandbox.DiskSpec{{}, {Size: tib, Blank: true}}},
	deep: {Name: deep, Disks: deepDisks()},
}

// bench is one run.
type bench struct {
	o       options
	figures *figures
	begin   time.Time
	world   *sandbox.World
	host    *sandbox.Host
	client  *client.Client
	seed    int // of the next content that is written
}

func newBench(o options) (*bench, error) {
	f, err := loadFigures(o.keep)
	return &bench{o: o, figures: f, begin: time.Now(), seed: 1}, err
}

func (b *bench) want(s section) bool {
	return len(b.o.only) == 0 || slices.Contains(b.o.only, s.name)
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
		return errors.New("this needs root, as it runs libvirtd in namespaces of its own: sudo make bench-snapshot")
	}
	b.world, err = sandbox.Up(ctx, sandbox.Options{Binary: []string{b.o.sandbox, "backstay"}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.world.Down(context.WithoutCancel(ctx))) }()
	b.host, b.client = b.world.Hosts[0], client.New(b.world.Region.URL, b.world.Region.Token)
	defer b.client.Close()
	b.figures.Machine = show.Machine(ctx)
	for name, args := range map[string][]string{
		"libvirt": {"virsh", "--version"}, "QEMU": {"qemu-system-x86_64", "--version"}, "virtnbdbackup": {"virtnbdbackup", "-V"},
	} {
		if out, err := exec.CommandContext(ctx, args[0], args[1:]...).Output(); err == nil {
			first, _, _ := strings.Cut(string(out), "\n")
			b.figures.Machine["version "+name] = strings.TrimSpace(first)
		}
	}
	if _, err := b.client.CreatePolicy(ctx, policy); err != nil {
		return err
	}
	for _, s := range sections {
		if !b.want(s) {
			continue
		}
		if err := b.section(ctx, s); err != nil {
			return fmt.Errorf("measure %s: %w", s.name, err)
		}
	}
	return nil
}

// policy keeps everything, so that nothing goes but what is deleted here.
var policy = backstay.Policy{
	Name: "bench", Consistency: backstay.FileSystemConsistent,
	Snapshot: backstay.SnapshotKeep{Days: 30, Depth: 16}, Vault: backstay.VaultKeep{Last: 1000},
}

func (b *bench) section(ctx context.Context, s section) error {
	b.logf("%s", s.title)
	b.figures.Forget(s.name)
	if err := b.only(ctx, s.vms); err != nil {
		return err
	}
	return s.run(b, ctx)
}

// only ends the guests that are not wanted, makes those that are, and waits until
// the region knows them.
func (b *bench) only(ctx context.Context, names []string) error {
	have, err := b.host.VMs(ctx)
	if err != nil {
		return err
	}
	for _, name := range have {
		state, err := b.host.State(ctx, name)
		if err != nil {
			return err
		}
		if state == sandbox.Running && !slices.Contains(names, name) {
			if err := b.host.Destroy(ctx, name); err != nil {
				return err
			}
		}
	}
	for _, name := range names {
		if !slices.Contains(have, name) {
			err = b.world.AddVM(ctx, specs[name])
		} else if state, _ := b.host.State(ctx, name); state != sandbox.Running {
			err = b.host.Start(ctx, name)
		}
		if err != nil {
			return err
		}
	}
	for _, name := range names {
		if err := b.ready(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

// ready waits until a guest answers and the region knows it.
func (b *bench) ready(ctx context.Context, name string) error {
	if err := b.world.WaitAgent(ctx, "", name); err != nil {
		return err
	}
	for {
		_, err := b.client.VM(ctx, name)
		if !backstay.IsCode(err, backstay.CodeUnknownVM) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// protect protects a VM in the region's first vault.
func (b *bench) protect(ctx context.Context, name string, exclude ...backstay.DiskTarget) error {
	_, err := b.client.Protect(ctx, name, api.ProtectRequest{
		Policy: policy.Name, Vault: backstay.VaultName(b.world.Region.Vault), ExcludeDisks: exclude,
	})
	return err
}

// backup takes a point and waits until the job has ended well.
func (b *bench) backup(ctx context.Context, name string, tier backstay.Tier) (backstay.Job, error) {
	started, err := b.client.StartBackup(ctx, api.BackupRequest{VM: name, Tier: tier})
	if err != nil {
		return backstay.Job{}, err
	}
	return b.await(ctx, *started.Job)
}

func (b *bench) await(ctx context.Context, job backstay.Job) (backstay.Job, error) {
	job, err := b.client.Wait(ctx, job.ID)
	switch {
	case err != nil:
		return job, err
	case job.Error != nil:
		return job, job.Error
	case job.State != backstay.JobSucceeded:
		return job, fmt.Errorf("job %s of %s ended as %s: %s", job.Kind, job.Target, job.State, strings.Join(job.Warnings, "; "))
	}
	return job, nil
}

// drop deletes a point from all tiers, which merges its layers.
func (b *bench) drop(ctx context.Context, point backstay.PointID) error {
	job, err := b.client.DeletePoint(ctx, string(point))
	if err != nil {
		return err
	}
	_, err = b.await(ctx, job)
	return err
}

// guest runs a command in a guest.
func (b *bench) guest(ctx context.Context, name, format string, args ...any) (string, error) {
	return b.world.Guest(ctx, "", name, fmt.Sprintf(format, args...))
}

// churn writes content that was never there before into a file of the guest.
func (b *bench) churn(ctx context.Context, name string, bytes int64) error {
	b.seed++
	_, err := b.guest(ctx, name, "ticker fill /data/churn 0 %d %d", bytes, b.seed)
	return err
}

// virsh runs virsh as a user of the host would.
func (b *bench) virsh(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, "virsh", append([]string{"-q", "-c", b.host.URI()}, args...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("virsh %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// remove removes files of the host's images.
func (b *bench) remove(pattern string) error {
	paths, err := filepath.Glob(b.host.Outside(sandbox.Images + "/" + pattern))
	for _, path := range paths {
		err = errors.Join(err, os.RemoveAll(path))
	}
	return err
}
