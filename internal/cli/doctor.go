package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/config"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// finding is one thing that doctor looked at.
type finding struct {
	Name   string `json:"name"`
	State  string `json:"state"` // ok, warn, fail
	Detail string `json:"detail"`
	Action string `json:"action"` // what to do, unless ok
}

// report is what doctor prints.
type report struct {
	OK       bool      `json:"ok"` // nothing failed
	Findings []finding `json:"findings"`
}

func ok(name, format string, args ...any) finding {
	return finding{Name: name, State: "ok", Detail: fmt.Sprintf(format, args...)}
}

func (f finding) warn(action string) finding { f.State, f.Action = "warn", action; return f }
func (f finding) fail(action string) finding { f.State, f.Action = "fail", action; return f }

// doctor looks at this machine. Its fields are what it looks through, so that a
// test can show it another machine.
type doctor struct {
	root    string // prefix of every absolute path; "" for the machine's own
	data    string
	command func(ctx context.Context, name string, args ...string) (string, error)
	server  func(ctx context.Context) error
	// regions are those with which the server's is paired.
	regions func(ctx context.Context) ([]backstay.Region, error)
	// boot starts a small machine and says how long that took.
	boot func(ctx context.Context) (string, error)
}

func (a *app) doctorCommand() *cobra.Command {
	data, machine := "", ""
	c := &cobra.Command{
		Use: "doctor", Short: "Check this host: libvirt, QEMU, AppArmor, space, clock, server; say what to do",
		Example: "  backstay doctor\n  backstay doctor --data /srv/backstay -o json", Args: exactly(),
		RunE: a.run(func(ctx context.Context, _ []string) error {
			d := doctor{data: first(data, config.DefaultData), command: output, server: a.reachable, regions: a.paired, boot: func(ctx context.Context) (string, error) { return a.daemons.SmallMachine(ctx, machine) }}
			r := d.examine(ctx)
			err := a.emit(r, func(w io.Writer) {
				for _, f := range r.Findings {
					row(w, f.State, f.Name, f.Detail)
					if f.Action != "" {
						row(w, " ", " ", "-> "+f.Action)
					}
				}
			})
			if err == nil && !r.OK {
				err = backstay.Errorf(backstay.CodeUnfit, "this host is not ready").Becausef("%s", failures(r.Findings))
			}
			return err
		}),
	}
	c.Flags().StringVar(&machine, "machine-dir", "", "folder of what small machines start from (default: the one that was installed)")
	c.Flags().StringVar(&data, "data", "", "the server's data folder (default "+config.DefaultData+")")
	return c
}

func failures(findings []finding) string {
	var failed []string
	for _, f := range findings {
		if f.State == "fail" {
			failed = append(failed, f.Name+": "+f.Detail)
		}
	}
	return strings.Join(failed, "; ")
}

func output(ctx context.Context, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	line, _, _ := bytes.Cut(out, []byte("\n"))
	return string(bytes.TrimSpace(line)), err
}

func (a *app) reachable(ctx context.Context) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	_, err = c.WhoAmI(ctx)
	return err
}

// paired asks the server for the regions with which its own is paired.
func (a *app) paired(ctx context.Context) ([]backstay.Region, error) {
	c, err := a.client()
	if err != nil {
		return nil, err
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return c.Regions(ctx)
}

// examine looks at everything, whatever it finds.
func (d doctor) examine(ctx context.Context) report {
	r := report{OK: true}
	r.Findings = append(r.Findings, d.user(), d.libvirt(), d.kvm())
	r.Findings = append(r.Findings, d.programs(ctx)...)
	r.Findings = append(r.Findings, d.firmware(), d.smallMachine(ctx), d.appArmor(), d.space(), d.clock(), d.reach(ctx))
	r.Findings = append(r.Findings, d.pairs(ctx)...)
	for _, f := range r.Findings {
		r.OK = r.OK && f.State != "fail"
	}
	return r
}

func (d doctor) path(p string) string { return filepath.Join("/", d.root, p) }

func (d doctor) user() finding {
	if os.Geteuid() == 0 {
		return ok("user", "root")
	}
	return ok("user", "uid %d", os.Geteuid()).warn("the server and the mover need root; as another user doctor sees less than they do")
}

func (d doctor) libvirt() finding {
	var errs []error
	for _, socket := range []string{"/run/libvirt/libvirt-sock", "/run/libvirt/virtqemud-sock"} {
		conn, err := net.DialTimeout("unix", d.path(socket), 2*time.Second)
		if err == nil {
			conn.Close()
			return ok("libvirt", "answers at %s", socket)
		}
		errs = append(errs, err)
	}
	return ok("libvirt", "%s", oneLine(errors.Join(errs...).Error())).
		fail("install and start it: apt install libvirt-daemon-system; systemctl enable --now libvirtd")
}

func (d doctor) kvm() finding {
	f, err := os.OpenFile(d.path("/dev/kvm"), os.O_RDWR, 0)
	if err != nil {
		return ok("kvm", "%s", err).warn("turn on virtualization in the machine's firmware; without it guests are slow")
	}
	f.Close()
	return ok("kvm", "/dev/kvm opens")
}

func (d doctor) programs(ctx context.Context) []finding {
	emulator := map[string]string{"amd64": "qemu-system-x86_64", "arm64": "qemu-system-aarch64"}[runtime.GOARCH]
	if emulator == "" {
		emulator = "qemu-system-" + runtime.GOARCH
	}
	var out []finding
	for _, p := range []struct{ name, need, action string }{
		{emulator, "fail", "apt install qemu-system"},
		{"qemu-img", "fail", "apt install qemu-utils"},
		{"qemu-nbd", "fail", "apt install qemu-utils"},
		{"cryptsetup", "warn", "apt install cryptsetup-bin, to read files of LUKS volumes"},
		{"swtpm", "warn", "apt install swtpm swtpm-tools, if a VM has a vTPM"},
	} {
		version, err := d.command(ctx, p.name, "--version")
		f := ok(p.name, "%s", version)
		if err != nil {
			f = ok(p.name, "%s", err)
			if p.need == "fail" {
				f = f.fail(p.action)
			} else {
				f = f.warn(p.action)
			}
		}
		out = append(out, f)
	}
	return out
}

func (d doctor) firmware() finding {
	for _, pattern := range []string{
		"/usr/share/OVMF/OVMF_CODE*.fd", "/usr/share/edk2/*/OVMF_CODE*.fd", "/usr/share/edk2/x64/OVMF_CODE*.fd",
		"/usr/share/AAVMF/AAVMF_CODE*.fd", "/usr/share/qemu/edk2-*-code.fd",
	} {
		found, err := filepath.Glob(d.path(pattern))
		if err == nil && len(found) > 0 {
			return ok("uefi firmware", "%s", found[0])
		}
	}
	return ok("uefi firmware", "none was found").warn("apt install ovmf, if a VM starts by UEFI")
}

// bootPatience is how long a small machine may take to start.
const bootPatience = 90 * time.Second

// smallMachine sees whether files can be read out of points here.
func (d doctor) smallMachine(ctx context.Context) finding {
	ctx, cancel := context.WithTimeout(ctx, bootPatience)
	defer cancel()
	detail, err := d.boot(ctx)
	if err != nil {
		e := backstay.AsError(err)
		return ok("small machine", "%s: %s; files cannot be read out of points here", oneLine(e.Message), oneLine(e.Cause)).warn(oneLine(e.Action))
	}
	return ok("small machine", "%s", detail)
}

// lowSpace and noSpace are the free bytes below which the catalogue is in danger.
const (
	lowSpace = 5 << 30
	noSpace  = 500 << 20
)

func (d doctor) space() finding {
	at := d.path(d.data)
	for {
		if _, err := os.Stat(at); err == nil || at == "/" {
			break
		}
		at = filepath.Dir(at)
	}
	var s unix.Statfs_t
	if err := unix.Statfs(at, &s); err != nil {
		return ok("space", "%s: %s", at, err).fail("make the folder readable")
	}
	free := int64(s.Bavail) * s.Bsize
	f := ok("space", "%s free for %s", size(free), d.data)
	switch {
	case free < noSpace:
		return f.fail("free space there, or put data: elsewhere")
	case free < lowSpace:
		return f.warn("free space there before it runs out")
	}
	return f
}

func (d doctor) clock() finding {
	var t unix.Timex
	state, err := unix.Adjtimex(&t)
	zone, _ := time.Now().Zone()
	switch {
	case err != nil:
		return ok("clock", "cannot be asked: %s", err).warn("see with timedatectl that it is synchronized")
	case state == unix.TIME_ERROR || t.Status&unix.STA_UNSYNC != 0:
		return ok("clock", "not synchronized; time zone %s", zone).warn("points carry this clock's time; turn on time synchronization: timedatectl set-ntp true")
	}
	return ok("clock", "synchronized; time zone %s", zone)
}

func (d doctor) reach(ctx context.Context) finding {
	if err := d.server(ctx); err != nil {
		e := backstay.AsError(err)
		return ok("server", "%s: %s", oneLine(e.Message), oneLine(e.Cause)).warn(oneLine(e.Action))
	}
	return ok("server", "answers, and knows the token")
}

// pairs says which paired regions the server reaches. A server that does not answer is
// a finding already.
func (d doctor) pairs(ctx context.Context) []finding {
	regions, err := d.regions(ctx)
	if err != nil {
		return nil
	}
	var out []finding
	for _, r := range regions {
		f := ok("region "+string(r.Name), "%s", r.State)
		switch {
		case r.State != "connected":
			f = ok("region "+string(r.Name), "%s: %s", r.State, oneLine(r.Reason)).warn("see that its server runs and that this one reaches " + first(r.Address, "it: it has no address"))
		case r.Recipient == "":
			f = f.warn("it can hold vaults of this region and restore none of them; pair anew to let it")
		}
		out = append(out, f)
	}
	return out
}
