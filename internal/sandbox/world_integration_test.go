//go:build integration

package sandbox

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// up makes a world without a region, which ends with the test.
func up(t *testing.T, o Options) (*World, context.Context) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	t.Cleanup(cancel)
	o.NoRegion = true
	w, err := Up(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { leavesNothing(t, w) })
	return w, ctx
}

// leavesNothing takes a world down and looks for what is left.
func leavesNothing(t *testing.T, w *World) {
	t.Helper()
	all, err := processesOf(w.Dir)
	if err != nil {
		t.Error(err)
	}
	if err := w.Down(context.Background()); err != nil {
		t.Error(err)
	}
	for _, p := range all {
		if p.alive() {
			t.Errorf("process %d of the world still runs", p.PID)
		}
	}
	if _, err := os.Stat(w.Dir); !os.IsNotExist(err) {
		t.Errorf("the world's folder is still there: %v", err)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || strings.Contains(string(mounts), filepath.Base(w.Dir)) {
		t.Errorf("a mount of the world is left (%v):\n%s", err, mounts)
	}
}

func guestRun(t *testing.T, w *World, vm, command string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	out, err := w.Guest(ctx, "", vm, command)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

func TestAGuestBootsFromItsDiskAndAnswers(t *testing.T) {
	w, ctx := up(t, Options{})
	if err := w.AddVM(ctx, VMSpec{Name: "web01", Disks: []DiskSpec{{}, {Raw: true, Size: 64 << 20}}}); err != nil {
		t.Fatal(err)
	}
	if got := guestRun(t, w, "web01", "wc -l </var/log/boots"); got != "1" {
		t.Errorf("boots = %s", got)
	}
	guestRun(t, w, "web01", "echo hello >/data/marker; sync")
	if got := guestRun(t, w, "web01", "mount | grep -c ' /data '"); got != "1" {
		t.Errorf("the data disk is mounted %s times", got)
	}
	if got := guestRun(t, w, "web01", "ticker /data/tick 0.3"); !strings.HasPrefix(got, "writes ") {
		t.Errorf("ticker says %q", got)
	}
	if _, err := w.Guest(ctx, "", "web01", "exit 7"); err == nil || !strings.Contains(err.Error(), "code 7") {
		t.Errorf("a failing command gave %v", err)
	}
	crashAndRestart(t, ctx, w)
	h := w.Hosts[0]
	if err := h.Destroy(ctx, "web01"); err != nil {
		t.Fatal(err)
	}
	before := sums(t, ctx, h, "web01")
	if again := sums(t, ctx, h, "web01"); again != before {
		t.Error("two readings of one disk differ")
	}
	if err := h.Start(ctx, "web01"); err != nil {
		t.Fatal(err)
	}
	if got := guestRun(t, w, "web01", "cat /data/marker; wc -l </var/log/boots"); got != "hello\n2" {
		t.Errorf("after a restart the guest has %q", got)
	}
	if again := sums(t, ctx, h, "web01"); again == before {
		t.Error("a guest that booted left its disks unchanged, says their SHA-256")
	}
}

// crashAndRestart shows that guests outlive libvirtd.
func crashAndRestart(t *testing.T, ctx context.Context, w *World) {
	t.Helper()
	h := w.Hosts[0]
	if err := h.KillLibvirtd(ctx); err != nil {
		t.Fatal(err)
	}
	if err := h.StartLibvirtd(ctx); err != nil {
		t.Fatal(err)
	}
	if state, err := h.State(ctx, "web01"); err != nil || state != Running {
		t.Errorf("after libvirtd's crash the VM is %s, %v", state, err)
	}
	guestRun(t, w, "web01", "true")
}

func sums(t *testing.T, ctx context.Context, h *Host, vm string) string {
	t.Helper()
	var all []string
	for _, target := range []string{"vda", "vdb"} {
		sum, err := h.VMSHA256(ctx, vm, target)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, sum)
	}
	return fmt.Sprint(all)
}

func TestUEFIGuestWithTPMUnderDebiansQEMU(t *testing.T) {
	w, ctx := up(t, Options{QEMU: DebianQEMU})
	if err := w.AddVM(ctx, VMSpec{Name: "safe", UEFI: true, TPM: true, Network: Network}); err != nil {
		t.Fatal(err)
	}
	guestRun(t, w, "safe", "test -d /sys/firmware/efi -a -e /sys/class/tpm/tpm0")
	files, err := w.Hosts[0].Disks(ctx, "safe")
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(w.Hosts[0].Outside(files[0].Path))
	if err != nil {
		t.Fatal(err)
	}
	if owner := info.Sys().(*syscall.Stat_t).Uid; owner == 0 {
		t.Error("the disk of a running VM belongs to root: QEMU does not run as Debian runs it")
	}
}

func TestHostsDoNotSeeEachOthersDisks(t *testing.T) {
	w, ctx := up(t, Options{Hosts: []string{"east", "west"}})
	if err := w.AddVM(ctx, VMSpec{Name: "a", Host: "west", Off: true}); err != nil {
		t.Fatal(err)
	}
	disk := Images + "/a-vda.qcow2"
	if _, err := os.Stat(disk); !os.IsNotExist(err) {
		t.Errorf("the machine itself can open %s: %v", disk, err)
	}
	for _, h := range w.Hosts {
		err := h.Command(ctx, "test", "-e", disk).Run()
		if (err == nil) != (h.Name == "west") {
			t.Errorf("host %s: test -e %s gives %v", h.Name, disk, err)
		}
	}
}

func TestDownNeedsNothingOfADeadCreator(t *testing.T) {
	w, ctx := up(t, Options{})
	if err := w.AddVM(ctx, VMSpec{Name: "orphan"}); err != nil {
		t.Fatal(err)
	}
	// The state that the creator wrote is worthless; only the marker file is left.
	if err := os.WriteFile(filepath.Join(w.Dir, "world.json"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	leavesNothing(t, w)
}

func TestDownRefusesWhatIsNoWorld(t *testing.T) {
	dir := t.TempDir()
	keep := filepath.Join(dir, "precious")
	if err := os.WriteFile(keep, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Down(context.Background(), dir); err == nil {
		t.Error("a folder that is no world was taken down")
	}
	if _, err := os.Stat(keep); err != nil {
		t.Error(err)
	}
}
