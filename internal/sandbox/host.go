package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/digitalocean/go-libvirt"
	"github.com/digitalocean/go-libvirt/socket/dialers"
	"github.com/google/uuid"
	"golang.org/x/sys/unix"
)

// Host is a machine of the world: a libvirt and a mover with folders, sockets and
// a network of their own.
type Host struct {
	Name string

	dir   string
	world *World
	// Written by the method that starts them; a host is not restarted from two
	// goroutines at once.
	keeper, virtlogd, libvirtd, mover process
}

// Images is the folder of disk images as the host sees it.
const Images = "/var/lib/libvirt/images"

// Network is the one libvirt network that each host has. It is isolated, and
// nothing hands out addresses in it.
const Network = "lan"

// keeperScript makes the host's view of the file system and stays, so that the
// view lasts when every other process of the host has ended. In a container
// /dev/kvm may have a group of the machine outside: it gets the one that Debian
// gives it, or libvirt would probe QEMU for seconds again each time that it starts a
// VM as a user who cannot open what root can.
const keeperScript = `set -e
dir=$1
umount -l -R /sys && mount -t sysfs sysfs /sys
mount --bind "$dir/etc" /etc/libvirt
mount --bind "$dir/lib" /var/lib/libvirt
mount --bind "$dir/cache" /var/cache/libvirt
mount --bind "$dir/log" /var/log
[ ! -d /var/lib/swtpm-localca ] || mount --bind "$dir/localca" /var/lib/swtpm-localca
if [ -c /dev/kvm ] && [ "$(stat -c %G /dev/kvm)" != kvm ] &&
	mknod -m 660 "$dir/kvm" c 10 232 && chgrp kvm "$dir/kvm"; then
	mount --bind "$dir/kvm" /dev/kvm
fi
mount --bind "$dir/run" /run
busybox ip link set lo up
touch /run/ready
exec sleep infinity
`

const rootQEMUConf = `user = "root"
group = "root"
swtpm_user = "root"
swtpm_group = "root"
security_driver = "none"
dynamic_ownership = 0
remember_owner = 0
namespaces = [ ]
cgroup_controllers = [ ]
seccomp_sandbox = 0
stdio_handler = "file"
`

// networkXML defines a bridge without addresses: it needs no helper processes.
const networkXML = `<network><name>` + Network + `</name><bridge name='virbr1' stp='off'/></network>`

// URI is the host's libvirt as clients outside the host name it.
func (h *Host) URI() string { return "qemu:///system?socket=" + h.socket() }

func (h *Host) socket() string { return filepath.Join(h.dir, "run/libvirt/libvirt-sock") }

// Outside returns where a path of the host below /var/lib/libvirt is for
// processes outside it.
func (h *Host) Outside(path string) string {
	return filepath.Join(h.dir, "lib", strings.TrimPrefix(path, "/var/lib/libvirt"))
}

// runPrefix begins the names of the folders in memory that are the hosts' /run, as
// it is on a real host: libvirt writes there at each step, and waits until it is
// durable.
const runPrefix = "/dev/shm/backstay-run-"

// makeRun makes the host's /run, in memory if there is such a folder.
func (h *Host) makeRun() error {
	memory, err := os.MkdirTemp(filepath.Dir(runPrefix), filepath.Base(runPrefix))
	if err != nil {
		return nil //nolint:nilerr // an ordinary folder does as well
	}
	return errors.Join(os.Chmod(memory, 0o755), os.Symlink(memory, filepath.Join(h.dir, "run")))
}

// removeRuns removes what makeRun made for the hosts of a world.
func removeRuns(dir string) error {
	runs, err := filepath.Glob(filepath.Join(dir, "*", "run"))
	for _, run := range runs {
		if memory, linkErr := os.Readlink(run); linkErr == nil && strings.HasPrefix(memory, runPrefix) {
			err = errors.Join(err, os.RemoveAll(memory))
		}
	}
	return err
}

// up makes the host's folders, its namespace and its libvirt.
func (h *Host) up(ctx context.Context) error {
	if err := errors.Join(os.MkdirAll(h.dir, 0o755), h.makeRun()); err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	for _, dir := range strings.Fields("etc/qemu etc/secrets etc/storage lib/images run/libvirt run/lock cache log/libvirt/qemu log/swtpm/libvirt localca") {
		if err := os.MkdirAll(filepath.Join(h.dir, dir), 0o755); err != nil {
			return fmt.Errorf("make folder: %w", err)
		}
	}
	if err := errors.Join(os.Chmod(h.dir, 0o711), h.configure(), h.warm(), h.ownTPMAuthority()); err != nil {
		return err
	}
	// The child is cloned into new namespaces; Go makes its mounts private.
	cmd := exec.Command("/bin/sh", "-c", keeperScript, "sandbox-host", h.dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS | unix.CLONE_NEWNET}
	var err error
	if h.keeper, err = h.world.launch(cmd, filepath.Join(h.dir, "log/keeper.log")); err != nil {
		return err
	}
	if err := h.world.save(); err != nil {
		return err
	}
	if err := h.appears(ctx, "ready", h.keeper, "keeper.log"); err != nil {
		return fmt.Errorf("make the host's namespace: %w", err)
	}
	if err := h.StartLibvirtd(ctx); err != nil {
		return err
	}
	return errors.Join(h.keepWarm(), h.defineNetwork(ctx))
}

// configure writes libvirt's configuration.
func (h *Host) configure() error {
	conf := fmt.Sprintf("auth_unix_rw = \"none\"\nauth_unix_ro = \"none\"\nunix_sock_rw_perms = \"0700\"\n"+
		"host_uuid = %q\nlog_outputs = \"3:file:/var/log/libvirtd.log\"\nlisten_tls = 0\n", uuid.NewString())
	if err := os.WriteFile(filepath.Join(h.dir, "etc/libvirtd.conf"), []byte(conf), 0o644); err != nil {
		return err
	}
	if h.world.options.QEMU == DebianQEMU {
		// Every line of the packaged file is a comment: Debian's defaults are
		// what libvirt does without one.
		return nil
	}
	return os.WriteFile(filepath.Join(h.dir, "etc/qemu.conf"), []byte(rootQEMUConf), 0o644)
}

// ownTPMAuthority gives the host's folder of the authority that certifies virtual
// TPMs to the user that the package chose for the machine's own.
func (h *Host) ownTPMAuthority() error {
	info, err := os.Stat("/var/lib/swtpm-localca")
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	own := filepath.Join(h.dir, "localca")
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		err = os.Chown(own, int(stat.Uid), int(stat.Gid))
	}
	return errors.Join(err, os.Chmod(own, info.Mode().Perm()))
}

// StartLibvirtd starts the host's libvirtd, after a crash too, and waits until it
// answers. Its guests are found again by it.
func (h *Host) StartLibvirtd(ctx context.Context) error {
	if h.world.options.QEMU == DebianQEMU && !h.virtlogd.alive() {
		cmd := h.Command(context.Background(), "/usr/sbin/virtlogd")
		var err error
		if h.virtlogd, err = h.world.launch(cmd, filepath.Join(h.dir, "log/virtlogd.log")); err != nil {
			return err
		}
		if err := h.appears(ctx, "libvirt/virtlogd-sock", h.virtlogd, "virtlogd.log"); err != nil {
			return err
		}
	}
	// On one core: libvirt throws its cache of QEMU's capabilities away when a
	// CPU identifies itself otherwise, and each core does.
	core, err := firstCore()
	if err != nil {
		return err
	}
	cmd := h.Command(context.Background(), "taskset", "-c", core, "/usr/sbin/libvirtd",
		"-f", "/etc/libvirt/libvirtd.conf", "-p", "/run/libvirt/libvirtd.pid")
	if h.libvirtd, err = h.world.launch(cmd, filepath.Join(h.dir, "log/libvirtd.out")); err != nil {
		return err
	}
	if err := h.world.save(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	err = poll(ctx, 20*time.Millisecond, func() error {
		if !h.libvirtd.alive() {
			return permanent{errors.New("it ended: " + tail(filepath.Join(h.dir, "log/libvirtd.out")))}
		}
		return h.libvirt(ctx, func(l *libvirt.Libvirt) error {
			_, err := l.ConnectGetDomainCapabilities(nil, libvirt.OptString{"x86_64"}, libvirt.OptString{"q35"}, libvirt.OptString{"qemu"}, 0)
			return err
		})
	})
	if err != nil {
		return fmt.Errorf("start libvirtd of host %s: %w", h.Name, err)
	}
	return nil
}

// appears waits for a file below the host's /run.
func (h *Host) appears(ctx context.Context, name string, p process, logName string) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	return poll(ctx, 5*time.Millisecond, func() error {
		_, err := os.Stat(filepath.Join(h.dir, "run", name))
		if err != nil && !p.alive() {
			return permanent{errors.New("it ended: " + tail(filepath.Join(h.dir, "log", logName)))}
		}
		return err
	})
}

// Command returns a command that runs on the host.
func (h *Host) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	enter := []string{"-t", strconv.Itoa(h.keeper.PID), "--mount", "--net", "--", name}
	return exec.CommandContext(ctx, "nsenter", append(enter, args...)...)
}

// StartMover starts the host's mover and waits for its socket.
func (h *Host) StartMover(ctx context.Context) error {
	state := "/var/lib/libvirt/backstay"
	binary := h.world.options.Binary
	args := append(binary[1:len(binary):len(binary)], "agent",
		"--listen", h.MoverAddress(), "--libvirt", "qemu:///system", "--state", state, "--layer-dir", state+"-layers")
	if h.world.options.Machine != "" {
		args = append(args, "--machine-dir", h.world.options.Machine)
	}
	cmd := h.Command(context.Background(), binary[0], args...)
	cmd.Env = h.world.environment()
	logPath := filepath.Join(h.dir, "log/mover.log")
	var err error
	if h.mover, err = h.world.launch(cmd, logPath); err != nil {
		return err
	}
	if err := h.world.save(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	err = poll(ctx, 10*time.Millisecond, func() error {
		if !h.mover.alive() {
			return permanent{errors.New("it ended: " + tail(logPath))}
		}
		return dial(h.moverSocket())
	})
	if err != nil {
		return fmt.Errorf("start mover of host %s: %w", h.Name, err)
	}
	return nil
}

// MoverAddress is where the host's mover listens.
func (h *Host) MoverAddress() string { return "unix://" + h.moverSocket() }

func (h *Host) moverSocket() string { return filepath.Join(h.dir, "mover.sock") }

// KillLibvirtd ends libvirtd as a crash does. Guests run on.
func (h *Host) KillLibvirtd(ctx context.Context) error { return h.libvirtd.kill(ctx) }

// KillMover ends the mover as a crash does.
func (h *Host) KillMover(ctx context.Context) error { return h.mover.kill(ctx) }

// libvirt runs f with a connection to the host's libvirt. A call that does not
// return is given up when ctx ends.
func (h *Host) libvirt(ctx context.Context, f func(*libvirt.Libvirt) error) error {
	l := libvirt.NewWithDialer(dialers.NewLocal(dialers.WithSocket(h.socket()), dialers.WithLocalTimeout(2*time.Second)))
	done := make(chan error, 1)
	go func() {
		if err := l.Connect(); err != nil {
			done <- fmt.Errorf("connect to libvirt of host %s: %w", h.Name, err)
			return
		}
		err := f(l)
		_ = l.Disconnect() // the answer is in hand
		done <- err
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (h *Host) defineNetwork(ctx context.Context) error {
	return h.libvirt(ctx, func(l *libvirt.Libvirt) error {
		network, err := l.NetworkDefineXML(networkXML)
		if err != nil {
			return fmt.Errorf("define network: %w", err)
		}
		if err := l.NetworkSetAutostart(network, 1); err != nil {
			return fmt.Errorf("define network: %w", err)
		}
		if err := l.NetworkCreate(network); err != nil {
			return fmt.Errorf("start network: %w", err)
		}
		return nil
	})
}

// firstCore returns a CPU on which this process may run.
func firstCore() (string, error) {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return "", fmt.Errorf("find a core: %w", err)
	}
	for core := range 1024 {
		if set.IsSet(core) {
			return strconv.Itoa(core), nil
		}
	}
	return "", errors.New("find a core: there is none")
}

// MoverPID is the process of the mover, for looking at its memory.
func (h *Host) MoverPID() int { return h.mover.PID }

// MoverRuns tells whether the mover's process is there.
func (h *Host) MoverRuns() bool { return h.mover.alive() }

// LibvirtdRuns tells whether libvirtd's process is there.
func (h *Host) LibvirtdRuns() bool { return h.libvirtd.alive() }
