package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/backstay/backstay/internal/sandbox"
)

// job is what the demo reads of a job's JSON.
type job struct {
	ID             string
	State          string
	Point          string
	Started, Ended time.Time
	Result         struct {
		Point     string
		UpSeconds float64
		SHA256    map[string]string
	}
	Stats struct {
		FreezeMs, BytesRead, BytesNew int64
	}
	Warnings []string
}

func (j job) seconds() float64 { return j.Ended.Sub(j.Started).Seconds() }

// disks are those of the demo's VM.
var disks = []string{"vda", "vdb"}

// sums are the SHA-256 of each disk's whole content.
type sums map[string]string

// steps are the demo from protecting a VM to what is left when all is done.
func (d *demo) steps(ctx context.Context) error {
	var first, second moment
	for _, step := range []func() error{
		func() error { return d.boot(ctx) },
		func() error { return d.protect(ctx) },
		func() (err error) { first, err = d.backup(ctx, "first backup", "one"); return err },
		func() (err error) {
			second, err = d.backup(ctx, "second backup, after 20 MiB were written", "two")
			return err
		},
		func() error { return d.instantRestore(ctx, first) },
		func() error { return d.vaultRestore(ctx, second) },
		func() error { return d.verify(ctx, second) },
		func() error { return d.oneFile(ctx, second) },
		func() error { return d.stall(ctx) },
		func() error { return d.sizes(ctx) },
		func() error { return d.memory() },
		func() error { return d.world.Tidy(ctx) },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// boot makes the VM whose disks, page and marker everything below is about.
func (d *demo) boot(ctx context.Context) error {
	d.say("web01: a VM with two disks, a page and a marker file")
	begin := time.Now()
	if err := d.addVM(ctx, sandbox.VMSpec{Name: "web01"}); err != nil {
		return err
	}
	d.took("web01 booted, its agent answers", begin)
	return nil
}

func (d *demo) addVM(ctx context.Context, spec sandbox.VMSpec) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	if err := d.world.AddVM(ctx, spec); err != nil {
		return err
	}
	if !spec.Off {
		if err := d.world.WaitAgent(ctx, "", spec.Name); err != nil {
			return err
		}
	}
	// The server hears of it from libvirt.
	for {
		err := d.quietly(ctx, nil, io.Discard, "vm", "show", spec.Name)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (d *demo) protect(ctx context.Context) error {
	d.say("protect it")
	if err := d.backstay(ctx, nil, "policy", "create", "demo", "--every", "0"); err != nil {
		return err
	}
	return d.backstay(ctx, nil, "protect", "web01", "--policy", "demo", "--vault", d.world.Region.Vault)
}

// moment is a recovery point, and what the disks held at its instant, measured
// without backstay.
type moment struct {
	point, marker string
	sums          sums
}

// backup changes the guest, backs it up, and measures what was frozen.
func (d *demo) backup(ctx context.Context, step, marker string) (moment, error) {
	d.say("%s", step)
	command := fmt.Sprintf("echo %s >/data/marker; echo %s >/srv/www/marker; dd if=/dev/urandom of=/data/%s bs=1M count=20 2>/dev/null; sync", marker, marker, marker)
	if _, err := d.guest(ctx, "web01", command); err != nil {
		return moment{}, err
	}
	var j job
	if err := d.backstay(ctx, &j, "backup", "web01"); err != nil {
		return moment{}, err
	}
	if j.State != "succeeded" {
		return moment{}, fmt.Errorf("%s ended as %s: %v", step, j.State, j.Warnings)
	}
	d.add(row{step: step, seconds: j.seconds(), read: j.Stats.BytesRead, stored: j.Stats.BytesNew, freezeMs: j.Stats.FreezeMs})
	frozen, err := d.below(ctx, "web01")
	return moment{j.Result.Point, marker, frozen}, err
}

// below returns the SHA-256 of what a VM's disks stand on: the layers that the
// newest backup froze, or from which the VM was restored.
func (d *demo) below(ctx context.Context, vm string) (sums, error) {
	files, err := d.host.Disks(ctx, vm)
	if err != nil {
		return nil, err
	}
	found := sums{}
	for _, f := range files {
		chain, err := d.host.Chain(ctx, f.Path)
		if err != nil {
			return nil, err
		}
		if len(chain) < 2 {
			return nil, fmt.Errorf("disk %s of %s stands on nothing", f.Target, vm)
		}
		if found[f.Target], err = d.host.DiskSHA256(ctx, chain[1], "qcow2"); err != nil {
			return nil, err
		}
	}
	return found, nil
}

// whole returns the SHA-256 of a VM's disks as they are.
func (d *demo) whole(ctx context.Context, vm string) (sums, error) {
	found := sums{}
	for _, target := range disks {
		sum, err := d.host.VMSHA256(ctx, vm, target)
		if err != nil {
			return nil, err
		}
		found[target] = sum
	}
	return found, nil
}

// same compares the whole content of disks.
func (d *demo) same(what string, got, want sums) error {
	for _, target := range disks {
		if want[target] == "" || got[target] != want[target] {
			return fmt.Errorf("%s: disk %s has SHA-256 %s, not %s", what, target, got[target], want[target])
		}
		fmt.Fprintf(d.out, "   %s  %s of %s\n", got[target], target, what)
	}
	return nil
}

// holds looks for the marker in a guest: on its data disk and on its page.
func (d *demo) holds(ctx context.Context, vm, marker string) error {
	got, err := d.guest(ctx, vm, "cat /data/marker; wget -q -O - http://127.0.0.1/")
	if err != nil {
		return err
	}
	if !strings.HasPrefix(got, marker+"\n") || !strings.Contains(got, "marker "+marker+"<") {
		return fmt.Errorf("guest %s holds %q, not the marker %q", vm, got, marker)
	}
	fmt.Fprintf(d.out, "   marker and page of %s say %q\n", vm, marker)
	return nil
}

// instantRestore restores from the snapshot tier while the vault cannot be read.
func (d *demo) instantRestore(ctx context.Context, m moment) error {
	d.say("restore the first point as web01-copy from the snapshot tier, with the vault cut off")
	back, err := away(d.world.Region.Units)
	if err != nil {
		return err
	}
	var j job
	err = d.backstay(ctx, &j, "restore", "create-vm", m.point, "--name", "web01-copy", "--tier", "snapshot")
	if err = errors.Join(err, back()); err != nil {
		return err
	}
	r := d.add(row{step: "restore from the snapshot tier, guest answers", seconds: j.seconds(), read: j.Stats.BytesRead, stored: -1, freezeMs: -1})
	r.note = fmt.Sprintf("%.2f s without the guest's boot", j.seconds()-j.Result.UpSeconds)
	if err := d.holds(ctx, "web01-copy", m.marker); err != nil {
		return err
	}
	got, err := d.below(ctx, "web01-copy")
	if err != nil {
		return err
	}
	return d.same("web01-copy", got, m.sums)
}

// vaultRestore restores from the vault while the source's disks are gone.
func (d *demo) vaultRestore(ctx context.Context, m moment) error {
	d.say("restore the second point as web01-vault from the vault, with the disks of web01 renamed away")
	files, err := d.host.Disks(ctx, "web01")
	if err != nil {
		return err
	}
	if err := d.host.Destroy(ctx, "web01"); err != nil {
		return err
	}
	var images []string
	for _, f := range files {
		chain, err := d.host.Chain(ctx, f.Path)
		if err != nil {
			return err
		}
		for _, image := range chain {
			images = append(images, d.host.Outside(image))
		}
	}
	back, err := away(images)
	if err != nil {
		return err
	}
	var j job
	err = d.backstay(ctx, &j, "restore", "create-vm", m.point, "--name", "web01-vault", "--tier", "vault", "--no-start")
	if err = errors.Join(err, back()); err != nil {
		return err
	}
	r := d.add(row{step: "restore from the vault, disks written and verified", seconds: j.seconds(), read: j.Stats.BytesRead, stored: -1, freezeMs: -1})
	got, err := d.whole(ctx, "web01-vault")
	if err != nil {
		return err
	}
	if err := d.same("web01-vault", got, m.sums); err != nil {
		return err
	}
	begin := time.Now()
	if err := d.host.Start(ctx, "web01-vault"); err != nil {
		return err
	}
	if err := d.holds(ctx, "web01-vault", m.marker); err != nil {
		return err
	}
	r.note = fmt.Sprintf("its guest answers after %.2f s more", time.Since(begin).Seconds())
	return errors.Join(d.host.Destroy(ctx, "web01-vault"), d.host.Destroy(ctx, "web01-copy"), d.host.Start(ctx, "web01"))
}

// away renames files and returns what renames them back.
func away(paths []string) (back func() error, err error) {
	var moved []string
	back = func() error {
		var all error
		for _, path := range moved {
			all = errors.Join(all, os.Rename(path+".away", path))
		}
		return all
	}
	for _, path := range paths {
		path = strings.TrimPrefix(path, "file://")
		if err := os.Rename(path, path+".away"); err != nil {
			return nil, errors.Join(err, back())
		}
		moved = append(moved, path)
	}
	return back, nil
}

// verify lets backstay read the point from the vault and compares its SHA-256.
func (d *demo) verify(ctx context.Context, m moment) error {
	d.say("verify the second point in the vault")
	var j job
	if err := d.backstay(ctx, &j, "point", "verify", m.point, "--tier", "vault"); err != nil {
		return err
	}
	d.add(row{step: "verify of a whole point in the vault", seconds: j.seconds(), read: j.Stats.BytesRead, stored: -1, freezeMs: -1})
	return d.same("the point in the vault", sums(j.Result.SHA256), m.sums)
}

// oneFile takes one file out of the point in the vault, and tells beside the restores
// what that took and what it read there.
func (d *demo) oneFile(ctx context.Context, m moment) error {
	d.say("take one file out of the second point in the vault")
	to := filepath.Join(d.world.Dir, "taken")
	if err := d.world.CountGets(); err != nil {
		return err
	}
	begin := time.Now()
	if err := d.backstay(ctx, nil, "files", "get", m.point, "vdb:/marker", "--to", to, "--tier", "vault"); err != nil {
		return err
	}
	r := d.took("one file out of the point in the vault", begin)
	requests, size, err := d.world.Gets()
	if err != nil {
		return err
	}
	r.read, r.note = size, fmt.Sprintf("%d requests", requests)
	got, err := os.ReadFile(filepath.Join(to, "marker"))
	if err != nil {
		return err
	}
	if strings.TrimSpace(string(got)) != m.marker {
		return fmt.Errorf("the file holds %q, not the marker %q", got, m.marker)
	}
	fmt.Fprintf(d.out, "   %s says %q\n", filepath.Join(to, "marker"), m.marker)
	return d.backstay(ctx, nil, "files", "sessions", "--end", "all")
}

// How the worst stalls are compared: the better of so many rounds each, because
// the machine does other work too, with this much tolerance.
const (
	rounds    = 2
	tolerance = 100 * time.Millisecond
)

// stall compares the guest's worst write stall in a backup with that of libvirt's
// own recipe, run on a VM of the same shape that backstay does not know of.
func (d *demo) stall(ctx context.Context) error {
	d.say("the guest's worst write stall: in a backup, and with `virsh snapshot-create-as --quiesce` beside it")
	if err := d.addVM(ctx, sandbox.VMSpec{Name: "plain"}); err != nil {
		return err
	}
	ours, plain := time.Hour, time.Hour
	for i := range rounds {
		worst, err := d.worst(ctx, "web01", func() error { return d.backstay(ctx, nil, "backup", "web01") })
		if err != nil {
			return err
		}
		ours = min(ours, worst)
		worst, err = d.worst(ctx, "plain", func() error {
			return d.host.Command(ctx, "virsh", "-q", "snapshot-create-as", "plain", fmt.Sprintf("round%d", i),
				"--disk-only", "--atomic", "--quiesce", "--no-metadata").Run()
		})
		if err != nil {
			return err
		}
		plain = min(plain, worst)
	}
	d.add(row{step: "worst write stall of the guest in a backup", seconds: ours.Seconds(), read: -1, stored: -1, freezeMs: -1})
	d.add(row{step: "worst write stall with the plain virsh recipe", seconds: plain.Seconds(), read: -1, stored: -1, freezeMs: -1})
	if ours > plain+tolerance {
		return fmt.Errorf("the guest's worst write took %v in a backup, and %v with virsh alone", ours, plain)
	}
	return d.host.Destroy(ctx, "plain")
}

var ticked = regexp.MustCompile(`writes (\d+) worst-ms ([0-9.]+)`)

// worst runs something while the guest writes 4 KiB durably every 5 ms, and
// returns the worst write's time.
func (d *demo) worst(ctx context.Context, vm string, do func() error) (time.Duration, error) {
	type answer struct {
		out string
		err error
	}
	done := make(chan answer, 1)
	go func() {
		out, err := d.guest(ctx, vm, "ticker /data/ticker 5")
		done <- answer{out, err}
	}()
	time.Sleep(time.Second) // let it write undisturbed first
	err := do()
	a := <-done
	if err := errors.Join(err, a.err); err != nil {
		return 0, err
	}
	match := ticked.FindStringSubmatch(a.out)
	if match == nil {
		return 0, fmt.Errorf("the ticker said %q", a.out)
	}
	ms, err := strconv.ParseFloat(match[2], 64)
	return time.Duration(ms * float64(time.Millisecond)), err
}

// sizes shows that an instant restore takes no longer for a big disk.
func (d *demo) sizes(ctx context.Context) error {
	d.say("restore from the snapshot tier: a disk of 1 GiB and one of 1 TiB")
	var took [2]float64
	for i, size := range []int64{1 << 30, 1 << 40} {
		name := []string{"small", "big"}[i]
		spec := sandbox.VMSpec{Name: name, Off: true, Disks: []sandbox.DiskSpec{{}, {Size: size, Blank: true}}}
		if err := d.addVM(ctx, spec); err != nil {
			return err
		}
		var b, r job
		err := d.backstay(ctx, nil, "protect", name, "--policy", "demo", "--vault", d.world.Region.Vault)
		if err == nil {
			err = d.backstay(ctx, &b, "backup", name, "--tier", "snapshot")
		}
		if err == nil {
			err = d.backstay(ctx, &r, "restore", "create-vm", b.Result.Point, "--name", name+"-copy", "--no-start")
		}
		if err != nil {
			return err
		}
		took[i] = r.seconds()
		step := "snapshot-tier restore of a disk of " + []string{"1 GiB", "1 TiB"}[i]
		d.add(row{step: step, seconds: took[i], read: r.Stats.BytesRead, stored: -1, freezeMs: -1})
	}
	if took[1] > 2*took[0]+1 {
		return fmt.Errorf("a restore of 1 TiB took %.2f s, one of 1 GiB %.2f s", took[1], took[0])
	}
	return nil
}

// memoryLimit is what server and mover may use, each, whatever the disks.
const memoryLimit = 256 << 20

// memory reads how much memory server and mover ever used.
func (d *demo) memory() error {
	for _, p := range []struct {
		name string
		pid  int
	}{{"server", d.world.Region.ServerPID()}, {"mover", d.host.MoverPID()}} {
		text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(p.pid), "status"))
		if err != nil {
			return err
		}
		var kib int64
		for line := range strings.Lines(string(text)) {
			if value, ok := strings.CutPrefix(line, "VmHWM:"); ok {
				if _, err := fmt.Sscan(value, &kib); err != nil {
					return fmt.Errorf("read the memory of the %s: %w", p.name, err)
				}
			}
		}
		d.add(row{step: "memory of the " + p.name + " at most", seconds: -1, read: -1, stored: -1, freezeMs: -1, note: mebibytes(kib << 10)})
		if kib<<10 > memoryLimit {
			return fmt.Errorf("the %s used %s of memory, more than %s", p.name, mebibytes(kib<<10), mebibytes(memoryLimit))
		}
	}
	return nil
}
