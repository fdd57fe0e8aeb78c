//go:build integration

package libvirt_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
	"github.com/backstay/backstay/internal/hypervisor/hypervisortest"
	"github.com/backstay/backstay/internal/hypervisor/libvirt"
	"github.com/backstay/backstay/internal/nbd"
)

// private is a libvirtd of the test's own in a mount namespace. Nothing of the
// machine's libvirt is touched.
type private struct {
	dir, uri string
	cmd      *exec.Cmd
}

const qemuConf = `user = "root"
group = "root"
security_driver = "none"
dynamic_ownership = 0
remember_owner = 0
namespaces = [ ]
cgroup_controllers = [ ]
seccomp_sandbox = 0
stdio_handler = "file"
`

const enter = `set -e
mkdir -p /etc/libvirt /run/libvirt /var/lib/libvirt /var/cache/libvirt /var/log/libvirt
mount --bind "$1/etc" /etc/libvirt; mount --bind "$1/lib" /var/lib/libvirt; mount --bind "$1/run" /run/libvirt
mount --bind "$1/cache" /var/cache/libvirt; mount --bind "$1/log" /var/log/libvirt
exec taskset -c 0 /usr/sbin/libvirtd -f /etc/libvirt/libvirtd.conf -p /run/libvirt/libvirtd.pid
`

func startPrivate(t *testing.T) *private {
	t.Helper()
	dir, err := os.MkdirTemp("", "lv")
	if err != nil {
		t.Fatal(err)
	}
	p := &private{dir: dir, uri: "qemu:///system?socket=" + dir + "/run/libvirt-sock"}
	for _, d := range []string{"etc", "lib/images", "run", "cache", "log"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	conf := fmt.Sprintf("auth_unix_rw = \"none\"\nunix_sock_rw_perms = \"0700\"\nhost_uuid = %q\nlisten_tls = 0\n", uuid.NewString())
	for name, text := range map[string]string{"libvirtd.conf": conf, "qemu.conf": qemuConf} {
		if err := os.WriteFile(filepath.Join(dir, "etc", name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		p.stop(t)
		_ = os.RemoveAll(dir)
	})
	p.start(t)
	return p
}

func (p *private) start(t *testing.T) {
	t.Helper()
	p.cmd = exec.Command("unshare", "-m", "--propagation", "private", "bash", "-c", enter, "libvirtd", p.dir)
	log, err := os.OpenFile(filepath.Join(p.dir, "log/out"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	p.cmd.Stdout, p.cmd.Stderr = log, log
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
}

func (p *private) stop(t *testing.T) {
	t.Helper()
	_ = p.cmd.Process.Signal(syscall.SIGCONT)
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
	pids, _ := filepath.Glob(filepath.Join(p.dir, "run/qemu/*.pid"))
	for _, f := range pids { // VMs that a failed test left running
		b, _ := os.ReadFile(f)
		if pid, err := strconv.Atoi(strings.TrimSpace(string(b))); err == nil {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

func open(t *testing.T, uri string) *libvirt.Host {
	t.Helper()
	h, err := libvirt.Open(t.Context(), uri, libvirt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

// answers waits until libvirt is connected.
func answers(t *testing.T, h *libvirt.Host) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	up := make(chan struct{})
	watching, stop := context.WithCancel(ctx)
	go func() {
		_ = h.Watch(watching, func(e hypervisor.Event) {
			if e.Kind == hypervisor.EventUp {
				stop()
			}
		})
		close(up)
	}()
	<-up
	if ctx.Err() != nil {
		t.Fatal("libvirt did not come up")
	}
}

func connect(ctx context.Context, e hypervisor.Export) (hypervisortest.Device, error) {
	return nbd.Dial(ctx, e.Socket(), e.Name(), nbd.Options{})
}

func domainXML(name string, id backstay.VMID, disks []backstay.Disk) string {
	var b strings.Builder
	fmt.Fprintf(&b, "<domain type='qemu'><name>%s</name>", name)
	if id != "" {
		fmt.Fprintf(&b, "<uuid>%s</uuid>", id)
	}
	b.WriteString("<memory unit='MiB'>32</memory><vcpu>1</vcpu><os><type arch='x86_64' machine='q35'>hvm</type></os><devices>")
	for _, d := range disks {
		inside := ""
		if d.Secret != "" {
			inside = "<encryption format='luks'><secret type='passphrase' uuid='" + d.Secret + "'/></encryption>"
		}
		fmt.Fprintf(&b, "<disk type='file' device='disk'><driver name='qemu' type='%s' discard='unmap'/><source file='%s'>%s</source><target dev='%s' bus='virtio'/></disk>", d.Format, d.Source, inside, d.Target)
	}
	b.WriteString("<disk type='file' device='cdrom'><target dev='sda' bus='sata'/></disk>")
	b.WriteString("<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel></devices></domain>")
	return b.String()
}

func TestLibvirtKeepsThePortsContract(t *testing.T) {
	p := startPrivate(t)
	h, im := withSources(t, p)
	answers(t, h)
	p.secrets(t)
	hypervisortest.HostSuite{
		Host: h, Images: im, Connect: connect, XML: domainXML, ElementXML: elementXML,
		Secret: openSecret, PrivateSecret: privateSecret, Sources: sourcesOf(p, im),
		Save: func(t *testing.T, id backstay.VMID) { virsh(t, p.uri, "managedsave", string(id)) },
	}.Run(t)
	t.Run("the host tells which CPUs it cannot give", func(t *testing.T) { testCPUs(t, h) })
}
