//go:build integration

package guest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/guest/image"
)

// child is set in the process that a test starts to see what its death leaves.
const child = "BACKSTAY_TEST_POOL"

func TestMain(m *testing.M) {
	if folder := os.Getenv(child); folder != "" {
		runChild(folder)
	}
	os.Exit(m.Run())
}

// runChild starts a machine, says so, and waits to be killed.
func runChild(folder string) {
	p, err := NewPool(Options{Parts: os.Getenv(child + "_PARTS"), Run: folder, Accel: AccelTCG})
	if err == nil {
		var m *Machine
		if m, err = p.Machine(context.Background(), Need{}); err == nil {
			fmt.Println("up", m.process.cmd.Process.Pid)
			select {}
		}
	}
	fmt.Println(err)
	os.Exit(1)
}

func parts(t *testing.T) string {
	t.Helper()
	parts, err := image.Ensure(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	return parts
}

// pool makes machines of the source tree for a test.
func pool(t *testing.T, o Options) *Pool {
	t.Helper()
	o.Parts, o.Run, o.Accel = parts(t), t.TempDir(), AccelTCG
	p, err := NewPool(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
		if left, _ := filepath.Glob(filepath.Join(o.Run, "machine-*")); len(left) > 0 {
			t.Errorf("the pool left %v", left)
		}
	})
	return p
}

func machine(t *testing.T, p *Pool) *Machine {
	t.Helper()
	m, err := p.Machine(t.Context(), Need{})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// served serves an ext4 image read-only over NBD.
func served(t *testing.T) Disk {
	t.Helper()
	dir := t.TempDir()
	path, socket := filepath.Join(dir, "disk"), filepath.Join(dir, "socket")
	const size = 64 << 20
	run(t, "truncate", "-s", "64M", path)
	run(t, "/usr/sbin/mke2fs", "-q", "-t", "ext4", "-L", "a-label", path)
	cmd := exec.Command("qemu-nbd", "-r", "-t", "-e", "8", "-f", "raw", "-x", "disk", "-k", socket, "--fork", "--pid-file="+dir+"/pid", path)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("qemu-nbd: %v: %s", err, out)
	}
	t.Cleanup(func() {
		var pid int
		if text, err := os.ReadFile(dir + "/pid"); err == nil {
			if _, err := fmt.Sscan(string(text), &pid); err == nil {
				_ = unix.Kill(pid, unix.SIGTERM)
			}
		}
	})
	return Disk{Target: "vda", Socket: socket, Export: "disk", Size: size}
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", name, err, out)
	}
}

// TestAMachineIsConfined is about one machine with a disk: who it runs as, what it
// may reach, and that what it writes has a bound.
func TestAMachineIsConfined(t *testing.T) {
	const bound = 8 << 20
	p := pool(t, Options{Overlay: bound, Most: 2, SpareIn: time.Millisecond})
	m := machine(t, p)
	d := served(t)
	before, err := os.ReadFile(filepath.Join(filepath.Dir(d.Socket), "disk"))
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Attach(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	found, err := m.Scan(t.Context())
	if err != nil || len(found.Volumes) != 1 || found.Volumes[0].Label != "a-label" {
		t.Fatalf("found %+v, error %v", found, err)
	}
	confinedProcess(t, m)

	// The most that may run: the one, and the spare, which comes by itself.
	spare := waitForSpare(t, p)
	second := machine(t, p)
	if second.process.cmd.Process.Pid != spare {
		t.Error("the spare machine was not used")
	}
	if _, err := p.Machine(t.Context(), Need{}); !backstay.IsCode(err, backstay.CodeMachineFailed) || !strings.Contains(err.Error(), "the most that may") {
		t.Errorf("a third of two machines: %v", err)
	}

	// More than the bound is not written: the machine's write fails, or it ends.
	overlay := overlayOf(t, p, m)
	_ = m.monitor.run(t.Context(), "human-monitor-command", map[string]any{"command-line": fmt.Sprintf(`qemu-io -d d1 "write -P 7 0 %d"`, 16<<20)}, nil)
	if info, err := overlay.Stat(); err != nil || info.Size() > bound || info.Size() < bound/2 {
		t.Errorf("the overlay has %d bytes, the bound is %d (%v)", info.Size(), bound, err)
	}
	after, err := os.ReadFile(filepath.Join(filepath.Dir(d.Socket), "disk"))
	if err != nil || string(before) != string(after) {
		t.Errorf("the disk of the point changed, or %v", err)
	}
	if _, err := second.Scan(t.Context()); err != nil {
		t.Errorf("the neighbour of a machine that wrote too much: %v", err)
	}

	// A machine that ends says so in every call, and its neighbour goes on.
	third := m
	_ = third.monitor.run(t.Context(), "system_reset", nil, nil)
	<-third.Ended()
	if _, err := third.Scan(t.Context()); !backstay.IsCode(err, backstay.CodeMachineFailed) {
		t.Errorf("a call to a machine that has ended: %v", err)
	}
	if _, err := second.Scan(t.Context()); err != nil {
		t.Errorf("the neighbour of a machine that ended: %v", err)
	}
}

// overlayOf opens the file without a name that takes what the machine writes.
func overlayOf(t *testing.T, p *Pool, m *Machine) *os.File {
	t.Helper()
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", m.process.cmd.Process.Pid))
	for _, name := range files {
		if target, err := os.Readlink(name); err == nil && strings.HasPrefix(target, p.o.Run+"/") {
			file, err := os.Open(name)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { file.Close() })
			return file
		}
	}
	t.Fatal("no overlay is open")
	return nil
}

// waitForSpare returns the process of the spare machine once it is there.
func waitForSpare(t *testing.T, p *Pool) int {
	t.Helper()
	for {
		p.mu.Lock()
		m := p.spare
		p.mu.Unlock()
		if m != nil {
			return m.process.cmd.Process.Pid
		}
		select {
		case <-t.Context().Done():
			t.Fatal("no spare machine came")
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func confinedProcess(t *testing.T, m *Machine) {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d", m.process.cmd.Process.Pid)
	status, err := os.ReadFile(dir + "/status")
	if err != nil {
		t.Fatal(err)
	}
	limits, err := os.ReadFile(dir + "/limits")
	if err != nil {
		t.Fatal(err)
	}
	field := func(text []byte, name string) string {
		for line := range strings.Lines(string(text)) {
			if rest, ok := strings.CutPrefix(line, name); ok {
				return strings.Join(strings.Fields(rest), " ")
			}
		}
		return ""
	}
	for name, want := range map[string]string{"Seccomp:": "2", "CapEff:": "0000000000000000", "Groups:": ""} {
		if got := field(status, name); got != want {
			t.Errorf("%s %q, want %q", name, got, want)
		}
	}
	var uid, gid int
	fmt.Sscan(field(status, "Uid:"), &uid)
	fmt.Sscan(field(status, "Gid:"), &gid)
	if uid < firstUser || gid < firstUser {
		t.Errorf("it runs as user %d of group %d", uid, gid)
	}
	if got := field(limits, "Max core file size"); !strings.HasPrefix(got, "0 0") {
		t.Errorf("core files: %s", got)
	}
	for _, space := range []string{"net", "ipc", "pid"} {
		theirs, err := os.Readlink(dir + "/ns/" + space)
		ours, _ := os.Readlink("/proc/self/ns/" + space)
		if err != nil || theirs == ours {
			t.Errorf("it shares the host's %s namespace (%v)", space, err)
		}
	}
	if env, err := os.ReadFile(dir + "/environ"); err != nil || len(env) > 0 {
		t.Errorf("its environment is %q (%v)", env, err)
	}
}

func TestAMachineThatStandsStillIsEnded(t *testing.T) {
	m := machine(t, pool(t, Options{Keep: -1, CallLimit: 20 * time.Second}))
	if err := m.monitor.run(t.Context(), "stop", nil, nil); err != nil {
		t.Fatal(err)
	}
	_, err := m.Scan(t.Context())
	var coded *backstay.Error
	if !errors.As(err, &coded) || coded.Code != backstay.CodeMachineFailed || !strings.Contains(coded.Cause, errSilent.Error()) {
		t.Errorf("error is %v", err)
	}
	<-m.Ended()
}

func TestNoMachineOutlivesTheProcessThatStartedIt(t *testing.T) {
	folder := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), child+"="+folder, child+"_PARTS="+parts(t))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	var pid int
	if _, scanned := fmt.Sscanf(line, "up %d", &pid); err != nil || scanned != nil {
		t.Fatalf("the child says %q (%v)", line, err)
	}
	if _, ok := started(pid); !ok {
		t.Fatal("the machine does not run")
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	for {
		if _, ok := started(pid); !ok {
			break
		}
		select {
		case <-t.Context().Done():
			t.Fatal("the machine outlived its parent")
		case <-time.After(10 * time.Millisecond):
		}
	}
	// What it left is forgotten by the next.
	if p, err := NewPool(Options{Run: folder}); err != nil || p.Close() != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(filepath.Join(folder, "*")); len(left) > 0 {
		t.Errorf("left over: %v", left)
	}
}
