package host

import (
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
	"github.com/backstay/backstay/internal/mover"
)

// restored returns a world with a restored VM that is defined and not started.
func restored(t *testing.T) (*testWorld, mover.StageRequest) {
	w := newTestWorld(t)
	r := w.backup(backstay.SnapshotTier)
	_, err := w.host.Stage(t.Context(), r, nil)
	must(t, err)
	must(t, define(t, w, r))
	return w, r
}

// TestAVMIsUpWhenItsProbeSaysSo: by console file and by port, and only then.
func TestAVMIsUpWhenItsProbeSaysSo(t *testing.T) {
	t.Run("console", func(t *testing.T) {
		w, r := restored(t)
		console := w.path("console")
		must(t, os.WriteFile(console, []byte("old run: READY\n"), 0o600))
		w.domain = func(d *hypervisor.Domain) { d.Console = console }
		r.Plan.Probe = backstay.Probe{Kind: backstay.ProbeConsole, Text: "READY", Timeout: backstay.Duration(time.Second)}
		if _, err := w.host.Start(t.Context(), r); !backstay.IsCode(err, backstay.CodeNotUp) {
			t.Fatalf("the text of an earlier run: %v, want code vm-not-up", err)
		}
		must(t, os.WriteFile(console, []byte("booting\nREADY 1\n"), 0o600)) // begun anew
		r.Plan.Probe.Timeout = 0
		up, err := w.host.Start(t.Context(), r)
		if err != nil || !strings.Contains(up.How, "READY") {
			t.Errorf("%+v %v", up, err)
		}
	})
	t.Run("port", func(t *testing.T) {
		w, r := restored(t)
		l, err := net.Listen("tcp", "127.0.0.1:0")
		must(t, err)
		defer func() { _ = l.Close() }()
		r.Plan.Probe = backstay.Probe{Kind: backstay.ProbePort, Text: l.Addr().String()}
		_, err = w.host.Start(t.Context(), r)
		must(t, err)
	})
	t.Run("agent that is silent", func(t *testing.T) {
		w, r := restored(t)
		w.hv.SetAgent(copyVM, backstay.AgentDisconnected)
		r.Plan.Probe = backstay.Probe{Kind: backstay.ProbeAgent, Timeout: backstay.Duration(time.Millisecond)}
		if _, err := w.host.Start(t.Context(), r); !backstay.IsCode(err, backstay.CodeNotUp) {
			t.Errorf("%v, want code vm-not-up", err)
		}
	})
	t.Run("a VM that stops", func(t *testing.T) {
		w, r := restored(t)
		w.hv.SetAgent(copyVM, backstay.AgentDisconnected)
		running := true
		w.domain = func(d *hypervisor.Domain) {
			if d.VM.ID == copyVM && d.VM.State == backstay.VMRunning {
				if !running {
					d.VM.State = backstay.VMShutOff
				}
				running = false
			}
		}
		r.Plan.Probe = backstay.Probe{Kind: backstay.ProbeConsole, Text: "x"}
		if _, err := w.host.Start(t.Context(), r); !backstay.IsCode(err, backstay.CodeNotUp) || !strings.Contains(err.Error(), "stopped") {
			t.Errorf("%v", err)
		}
	})
	t.Run("a VM that does not start", func(t *testing.T) {
		w, r := restored(t)
		must(t, os.Remove(r.Plan.Disks[0].Path))
		if _, err := w.host.Start(t.Context(), r); !backstay.IsCode(err, backstay.CodeStartFailed) {
			t.Errorf("%v, want code vm-start-failed", err)
		}
	})
}

// TestATerminalsTextIsSeen: a pty forgets what nobody reads, so it is read all
// the time.
func TestATerminalsTextIsSeen(t *testing.T) {
	w, r := restored(t)
	master, slave := openPty(t)
	w.domain = func(d *hypervisor.Domain) { d.Console = slave }
	r.Plan.Probe = backstay.Probe{Kind: backstay.ProbeConsole, Text: "TINY-READY"}
	_, err := master.WriteString("booting\r\nTINY-READY boots=1\r\n")
	must(t, err)
	_, err = w.host.Start(t.Context(), r)
	must(t, err)
}

// openPty returns the master of a fresh terminal in raw mode and its slave's path.
func openPty(t *testing.T) (*os.File, string) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	must(t, err)
	t.Cleanup(func() { _ = master.Close() })
	fd := int(master.Fd())
	must(t, unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0))
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	must(t, err)
	path := fmt.Sprintf("/dev/pts/%d", n)
	keep, err := os.OpenFile(path, os.O_RDWR|syscall.O_NOCTTY, 0)
	must(t, err)
	t.Cleanup(func() { _ = keep.Close() })
	attr, err := unix.IoctlGetTermios(int(keep.Fd()), unix.TCGETS)
	must(t, err)
	attr.Lflag &^= unix.ICANON | unix.ECHO
	attr.Oflag &^= unix.OPOST
	must(t, unix.IoctlSetTermios(int(keep.Fd()), unix.TCSETS, attr))
	return master, path
}
