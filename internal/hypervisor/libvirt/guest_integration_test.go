//go:build integration

package libvirt_test

import (
	"context"
	"encoding/json"
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
	"github.com/backstay/backstay/internal/hypervisor/qemu"
	"github.com/backstay/backstay/internal/sandbox/guest"
)

// libvirtd is the daemon's process: the helper execs it in the end.
func (p *private) libvirtd() int { return p.cmd.Process.Pid }

func TestTheHostComesBackByItselfWithLibvirt(t *testing.T) {
	p := startPrivate(t)
	h := open(t, p.uri)
	answers(t, h)
	events := make(chan hypervisor.Event, 100)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	go func() { _ = h.Watch(ctx, func(e hypervisor.Event) { events <- e }) }()
	wait := func(kind hypervisor.EventKind) {
		t.Helper()
		for {
			select {
			case e := <-events:
				if e.Kind == kind {
					return
				}
			case <-ctx.Done():
				t.Fatalf("no event %s", kind)
			}
		}
	}
	wait(hypervisor.EventUp)
	p.stop(t)
	wait(hypervisor.EventDown)
	if _, err := h.VMs(ctx); !errors.Is(err, hypervisor.ErrAway) {
		t.Errorf("got %v", err)
	}
	p.start(t)
	wait(hypervisor.EventUp)
	if _, err := h.VMs(ctx); err != nil {
		t.Error(err)
	}
}

func TestALibvirtThatStopsAnsweringDoesNotOutlastTheCallersContext(t *testing.T) {
	p := startPrivate(t)
	h := open(t, p.uri)
	answers(t, h)
	if err := syscall.Kill(p.libvirtd(), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := h.VMs(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	closed := make(chan error, 1)
	go func() { closed <- h.Close() }()
	select {
	case err := <-closed:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(time.Minute):
		t.Fatal("close hangs with libvirt")
	}
}

// inGuest starts a shell command through the guest agent.
func inGuest(t *testing.T, uri, name, command string) {
	t.Helper()
	q, err := json.Marshal(command)
	if err != nil {
		t.Fatal(err)
	}
	virsh(t, uri, "qemu-agent-command", name, `{"execute":"guest-exec","arguments":{"path":"/bin/sh","arg":["-c",`+string(q)+`]}}`)
}

func virsh(t *testing.T, uri string, args ...string) {
	t.Helper()
	if out, err := exec.Command("virsh", append([]string{"-q", "-c", uri}, args...)...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// TestAGuestIsFrozenForTheSwitchAndThawedAfterwards needs a guest that boots.
func TestAGuestIsFrozenForTheSwitchAndThawedAfterwards(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	cache, err := guest.CacheDir()
	if err != nil {
		t.Fatal(err)
	}
	image, err := guest.Image(ctx, cache)
	if err != nil {
		t.Fatal(err)
	}
	p := startPrivate(t)
	h := open(t, p.uri)
	answers(t, h)
	im := qemu.New(qemu.Options{Dir: filepath.Join(p.dir, "x")})
	info, err := im.Info(ctx, image)
	if err != nil {
		t.Fatal(err)
	}
	disk := filepath.Join(p.dir, "disk")
	if out, err := exec.Command("qemu-img", "convert", "-f", info.Format, "-O", "qcow2", image, disk).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	xml := domainXML("guest", "", []backstay.Disk{{Target: "vda", Source: disk, Format: "qcow2"}})
	xml = strings.Replace(xml, "<memory unit='MiB'>32<", "<memory unit='MiB'>256<", 1)
	xml = strings.Replace(xml, "</os>", "</os><features><acpi/></features><cpu mode='maximum'/>", 1)
	id, err := h.Define(ctx, xml)
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Start(ctx, id); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.Destroy(context.Background(), id) })
	for h.PingAgent(ctx, id, 2*time.Second) != nil {
		if ctx.Err() != nil {
			t.Fatal("the guest did not come up")
		}
	}
	switchTo := func(name string, o hypervisor.SwitchOptions) (hypervisor.Switched, error) {
		d, err := h.Domain(ctx, id)
		if err != nil {
			t.Fatal(err)
		}
		overlay := filepath.Join(p.dir, name)
		if err := im.CreateOverlay(ctx, hypervisor.Overlay{Path: overlay, Backing: hypervisor.Plain(d.VM.Disks[0].Source, "qcow2")}); err != nil {
			t.Fatal(err)
		}
		return h.SwitchAll(ctx, id, []hypervisor.Switch{{Target: "vda", Overlay: overlay}}, o)
	}
	thawed := func() {
		t.Helper()
		for {
			was, err := h.Thaw(ctx, id)
			if err == nil {
				if was > 0 {
					t.Error("the guest was left frozen")
				}
				return
			}
			if ctx.Err() != nil {
				t.Fatal(err)
			}
		}
	}
	if n, err := h.Freeze(ctx, id, nil, 10*time.Second); err != nil || n == 0 {
		t.Fatalf("froze %d, %v", n, err)
	}
	if _, err := h.AgentCommand(ctx, id, `{"execute":"guest-get-osinfo"}`, 5*time.Second); err == nil || errors.Is(err, hypervisor.ErrAgentSilent) {
		t.Errorf("a frozen guest's agent answered a question, or was silent: %v", err)
	}
	if _, err := switchTo("one", hypervisor.SwitchOptions{}); err != nil {
		t.Error(err)
	}
	if n, err := h.Thaw(ctx, id); err != nil || n == 0 {
		t.Errorf("thawed %d, %v", n, err)
	}
	thawed()

	// An agent that hangs: bounded, and nothing is left frozen by whoever goes on
	// asking when it wakes up and does what nobody waits for any more.
	inGuest(t, p.uri, "guest", "kill -STOP $(pidof qemu-ga); sleep 10; kill -CONT $(pidof qemu-ga)")
	time.Sleep(time.Second)
	if _, err := h.Freeze(ctx, id, nil, time.Second); !errors.Is(err, hypervisor.ErrAgentSilent) {
		t.Errorf("got %v", err)
	}
	if _, err := switchTo("three", hypervisor.SwitchOptions{}); err != nil { // crash-consistent works meanwhile
		t.Error(err)
	}
	for {
		if _, err := h.Thaw(ctx, id); err == nil || ctx.Err() != nil {
			break
		}
	}
	thawed()

	// A guest that somebody left frozen is thawed (I9).
	virsh(t, p.uri, "domfsfreeze", "guest")
	was, err := h.Thaw(ctx, id)
	if err != nil || was == 0 {
		t.Errorf("thaw of a frozen guest: %v, %v", was, err)
	}
	thawed()
}
