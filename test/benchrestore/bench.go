package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/api"
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
	{"create", "create VM from the snapshot tier, and from a ready image", (*bench).creates},
	{"replace", "replace disks from the snapshot tier, and undo", (*bench).replaces},
	{"live", "live restore, and the boot from a local disk", (*bench).lives},
	{"vault", "disks from the vault: whole, and what differs", (*bench).vaults},
}

func sectionNames() []string {
	var names []string
	for _, s := range sections {
		names = append(names, s.name)
	}
	return names
}

// The VMs: with a disk of 1 GiB, with one of 1 TiB, and with one that is full of
// data and never boots.
const (
	work = "work"
	big  = "big"
	bulk = "bulk"
)

const (
	mib = 1 << 20
	gib = 1 << 30
	tib = 1 << 40
)

// bench is one run.
type bench struct {
	o       options
	figures *figures
	begin   time.Time
	world   *sandbox.World
	host    *sandbox.Host
	client  *client.Client
	made    int // VMs and folders that were made, for their names
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
		return errors.New("this needs root, as it runs libvirtd in namespaces of its own: sudo make bench-restore")
	}
	b.world, err = sandbox.Up(ctx, sandbox.Options{Binary: []string{b.o.sandbox, "backstay"}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.world.Down(context.WithoutCancel(ctx))) }()
	b.host, b.client = b.world.Hosts[0], client.New(b.world.Region.URL, b.world.Region.Token)
	defer b.client.Close()
	b.figures.Machine = show.Machine(ctx)
	for name, args := range map[string][]string{"libvirt": {"virsh", "--version"}, "QEMU": {"qemu-system-x86_64", "--version"}} {
		if out, err := exec.CommandContext(ctx, args[0], args[1:]...).Output(); err == nil {
			first, _, _ := strings.Cut(string(out), "\n")
			b.figures.Machine["version "+name] = strings.TrimSpace(first)
		}
	}
	if _, err := b.client.CreatePolicy(ctx, policy); err != nil {
		return err
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

// policy keeps everything, so that nothing is merged in between.
var policy = backstay.Policy{
	Name: "bench", Consistency: backstay.FileSystemConsistent,
	Snapshot: backstay.SnapshotKeep{Days: 30, Depth: 32}, Vault: backstay.VaultKeep{Last: 1000},
}

// guest makes a protected VM that has run, unless it is there, and ends it.
func (b *bench) guest(ctx context.Context, name string, size int64) error {
	have, err := b.host.VMs(ctx)
	if err != nil || slices.Contains(have, name) {
		return err
	}
	if err := b.world.AddVM(ctx, sandbox.VMSpec{Name: name, Disks: []sandbox.DiskSpec{{}, {Size: size, Blank: size > gib}}}); err != nil {
		return err
	}
	if err := errors.Join(b.world.WaitAgent(ctx, "", name), b.protect(ctx, name)); err != nil {
		return err
	}
	if _, err := b.world.Guest(ctx, "", name, "sync"); err != nil {
		return err
	}
	return b.host.Destroy(ctx, name)
}

// protect waits until the region knows a VM, and protects it.
func (b *bench) protect(ctx context.Context, name string, exclude ...backstay.DiskTarget) error {
	for {
		_, err := b.client.VM(ctx, name)
		if err == nil {
			break
		}
		if !backstay.IsCode(err, backstay.CodeUnknownVM) {
			return err
		}
		if err := sleep(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
	_, err := b.client.Protect(ctx, name, api.ProtectRequest{
		Policy: policy.Name, Vault: backstay.VaultName(b.world.Region.Vault), ExcludeDisks: exclude,
	})
	return err
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// backup takes a point.
func (b *bench) backup(ctx context.Context, name string, tier backstay.Tier) (backstay.PointID, error) {
	started, err := b.client.StartBackup(ctx, api.BackupRequest{VM: name, Tier: tier})
	if err != nil {
		return "", err
	}
	job, err := b.await(ctx, *started.Job)
	return job.Point, err
}

// await waits until a job has ended well; warnings are no matter here.
func (b *bench) await(ctx context.Context, job backstay.Job) (backstay.Job, error) {
	job, err := b.client.Wait(ctx, job.ID)
	switch {
	case err != nil:
		return job, err
	case job.Error != nil:
		return job, job.Error
	case job.State != backstay.JobSucceeded && job.State != backstay.JobWarning:
		return job, fmt.Errorf("job %s of %s ended as %s: %s", job.Kind, job.Target, job.State, strings.Join(job.Warnings, "; "))
	}
	return job, nil
}

// restore restores a point, and waits until it is done.
func (b *bench) restore(ctx context.Context, r backstay.RestoreRequest) (backstay.Job, error) {
	answer, err := b.client.StartRestore(ctx, r)
	if err != nil {
		return backstay.Job{}, err
	}
	job, err := b.await(ctx, *answer.Job)
	b.logf("  %s: %s", r.Kind, steps(job))
	return job, err
}

// steps tells where the time of a job went.
func steps(job backstay.Job) string {
	var all []string
	for _, task := range job.Tasks {
		if task.Started != nil && task.Ended != nil {
			all = append(all, fmt.Sprintf("%s %.0f ms", task.Name, task.Ended.Sub(*task.Started).Seconds()*1e3))
		}
	}
	if job.Started != nil && job.Ended != nil {
		all = append(all, fmt.Sprintf("of %.0f ms since %.0f ms after it was asked for", job.Ended.Sub(*job.Started).Seconds()*1e3, job.Started.Sub(job.Created).Seconds()*1e3))
	}
	return strings.Join(all, ", ")
}

// timed is how long something takes, in seconds.
func timed(do func() error) (float64, error) {
	begin := time.Now()
	err := do()
	return time.Since(begin).Seconds(), err
}

// virsh runs virsh as a user of the host would.
func (b *bench) virsh(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "virsh", append([]string{"-q", "-c", b.host.URI()}, args...)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("virsh %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return string(out), nil
}

// fresh is a name that was not used before.
func (b *bench) fresh(name string) string {
	b.made++
	return fmt.Sprintf("%s-%d", name, b.made)
}

// discard ends a VM that a restore made, and removes it with its disks.
func (b *bench) discard(ctx context.Context, name string, files []sandbox.DiskFile) error {
	if state, err := b.host.State(ctx, name); err != nil {
		return err
	} else if state != sandbox.Off {
		if err := b.host.Destroy(ctx, name); err != nil {
			return err
		}
	}
	err := b.host.Undefine(ctx, name)
	for _, f := range files {
		err = errors.Join(err, os.Remove(b.host.Outside(f.Path)))
	}
	return err
}
