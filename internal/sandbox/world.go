package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"

	"github.com/backstay/backstay/internal/sandbox/guest"
)

// QEMU says as whom the hosts of a world run QEMU.
type QEMU string

// The ways to run QEMU.
const (
	// RootQEMU runs it as root without confinement. Fast, and the default.
	RootQEMU QEMU = ""
	// DebianQEMU runs it as Debian's packaged qemu.conf does: as libvirt-qemu,
	// with dynamic ownership of disk files, in a mount namespace of its own.
	DebianQEMU QEMU = "debian"
)

// Options say what world to make. The zero value is one host and a region.
type Options struct {
	// Dir is the world's folder; it must not exist or be empty. Its path must be
	// short, as sockets are below it. Empty means a new folder in /tmp.
	Dir string
	// Hosts are the names of the hosts. Empty means one, "east".
	Hosts []string
	QEMU  QEMU
	// NoRegion leaves out the server and the movers.
	NoRegion bool
	// Binary is the command that acts as `backstay`; its init, server and agent
	// are run. Empty means this program itself.
	Binary []string
	// LinkBinary is the command that carries connections between two regions: it calls
	// Carry with its last argument.
	LinkBinary []string
	// Machine is the folder of what small machines start from; see image.Ensure. Empty
	// means the one that was installed, if any.
	Machine string
	// Env is added to the environment of server and movers.
	Env []string
	// CacheDir keeps guest images between worlds. Empty means guest.CacheDir.
	CacheDir string
	// Log gets what is done, step by step. Nil means silence.
	Log *slog.Logger
}

// World is a world that is up. Its methods may be called concurrently.
type World struct {
	Dir    string
	Hosts  []*Host
	Region *Region // nil without a region

	options Options
	log     *slog.Logger
	accel   string // libvirt domain type: kvm or qemu
	wire    *wire  // of one of two regions; nil else

	mu    sync.Mutex
	image string // guest image, guarded by mu
}

var nameForm = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,30}$`)

// longestDir bounds a world's path: a socket address has at most 107 bytes, and
// libvirt's own path below the folder takes up to 60 of them.
const longestDir = 45

// Up makes a world and returns when its hosts and its region answer. On error
// nothing of it is left. It needs root.
func Up(ctx context.Context, o Options) (*World, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("the sandbox needs root: it makes mount namespaces and runs libvirtd in them")
	}
	w, err := prepare(o)
	if err != nil {
		return nil, err
	}
	if err := w.start(ctx); err != nil {
		return nil, errors.Join(err, Down(context.WithoutCancel(ctx), w.Dir))
	}
	return w, nil
}

// prepare checks the options and makes the world's folder.
func prepare(o Options) (*World, error) {
	var err error
	if o.CacheDir == "" {
		if o.CacheDir, err = guest.CacheDir(); err != nil {
			return nil, err
		}
	}
	if len(o.Binary) == 0 {
		self, err := os.Executable()
		if err != nil {
			return nil, fmt.Errorf("find this program: %w", err)
		}
		o.Binary = []string{self}
	}
	if len(o.Hosts) == 0 {
		o.Hosts = []string{"east"}
	}
	w := &World{options: o, log: o.Log}
	if w.log == nil {
		w.log = slog.New(slog.DiscardHandler)
	}
	for _, name := range o.Hosts {
		if !nameForm.MatchString(name) {
			return nil, fmt.Errorf("host name %q: use lower-case letters, digits and dashes", name)
		}
	}
	if w.Dir, err = makeDir(o.Dir); err != nil {
		return nil, err
	}
	for _, name := range o.Hosts {
		w.Hosts = append(w.Hosts, &Host{Name: name, dir: filepath.Join(w.Dir, name), world: w})
	}
	return w, nil
}

// makeDir makes the world's folder, which others may pass but not list: QEMU may
// run as another user.
func makeDir(dir string) (string, error) {
	if dir == "" {
		made, err := os.MkdirTemp("/tmp", "backstay-")
		if err != nil {
			return "", fmt.Errorf("make the world's folder: %w", err)
		}
		return made, os.Chmod(made, 0o711)
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	for _, hidden := range []string{"/run/", "/var/run/", "/var/log/", "/var/lib/libvirt/", "/sys/"} {
		if strings.HasPrefix(dir+"/", hidden) {
			return "", fmt.Errorf("world folder %s: hosts cannot see what is in %s; use one in /tmp", dir, hidden)
		}
	}
	if len(dir) > longestDir {
		return "", fmt.Errorf("world folder %s: the path has more than %d bytes, too many for the sockets in it", dir, longestDir)
	}
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return "", fmt.Errorf("make the world's folder: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", fmt.Errorf("read the world's folder: %w", err)
	}
	if len(entries) > 0 {
		return "", fmt.Errorf("world folder %s is not empty: is a world up there?", dir)
	}
	return dir, os.Chmod(dir, 0o711)
}

func (w *World) start(ctx context.Context) error {
	if err := errors.Join(w.save(), os.Mkdir(w.faultsFolder(), 0o700)); err != nil {
		return err
	}
	for _, h := range w.Hosts {
		if err := h.up(ctx); err != nil {
			return fmt.Errorf("bring host %s up: %w", h.Name, err)
		}
	}
	if w.options.NoRegion {
		return w.save()
	}
	for _, h := range w.Hosts {
		if err := h.StartMover(ctx); err != nil {
			return err
		}
	}
	if err := w.makeRegion(ctx); err != nil {
		return fmt.Errorf("bring the region up: %w", err)
	}
	return w.save()
}

// Host returns a host by name; "" is the first.
func (w *World) Host(name string) (*Host, error) {
	for _, h := range w.Hosts {
		if h.Name == name || name == "" {
			return h, nil
		}
	}
	return nil, fmt.Errorf("the world has no host %q", name)
}

// environment is that of the server and the movers: the one of this process
// without what names another region.
func (w *World) environment() []string {
	var env []string
	for _, variable := range os.Environ() {
		if !strings.HasPrefix(variable, "BACKSTAY_") {
			env = append(env, variable)
		}
	}
	return append(append(env, w.options.Env...), FaultsEnv+"="+w.faultsFolder())
}

// Down ends the world and removes all of it.
func (w *World) Down(ctx context.Context) error { return Down(ctx, w.Dir) }

// state is the file that lets another process work with a world.
type state struct {
	Options Options
	Hosts   []hostState
	Region  *Region
}

type hostState struct {
	Name                              string
	Keeper, Virtlogd, Libvirtd, Mover process
}

// worldFile is in the folder of a world.
const worldFile = "world.json"

func (w *World) statePath() string { return filepath.Join(w.Dir, worldFile) }

// save writes the state, whole or not at all.
func (w *World) save() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := state{Options: w.options, Region: w.Region}
	s.Options.Log = nil
	for _, h := range w.Hosts {
		s.Hosts = append(s.Hosts, hostState{h.Name, h.keeper, h.virtlogd, h.libvirtd, h.mover})
	}
	text, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("write the world's state: %w", err)
	}
	if err := os.WriteFile(w.statePath()+".new", text, 0o600); err != nil {
		return fmt.Errorf("write the world's state: %w", err)
	}
	return os.Rename(w.statePath()+".new", w.statePath())
}

// Open returns a world that another process brought up.
func Open(dir string) (*World, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	w := &World{Dir: dir, log: slog.New(slog.DiscardHandler)}
	text, err := os.ReadFile(w.statePath())
	if err != nil {
		return nil, fmt.Errorf("open the world: %w", err)
	}
	var s state
	if err := json.Unmarshal(text, &s); err != nil {
		return nil, fmt.Errorf("open the world %s: %w", dir, err)
	}
	w.options, w.Region = s.Options, s.Region
	if w.Region != nil {
		w.Region.world, w.wire = w, w.Region.Wire
	}
	for _, h := range s.Hosts {
		w.Hosts = append(w.Hosts, &Host{
			Name: h.Name, dir: filepath.Join(dir, h.Name), world: w,
			keeper: h.Keeper, virtlogd: h.Virtlogd, libvirtd: h.Libvirtd, mover: h.Mover,
		})
	}
	return w, nil
}

// The parts of a world that can be killed and started.
const (
	Server   = "server"
	Mover    = "mover"
	Libvirtd = "libvirtd"
)

// Kill ends a part of the world as a crash does; host matters for those of a
// host, and "" is the first.
func (w *World) Kill(ctx context.Context, part, host string) error {
	if part == Server && w.Region != nil {
		return w.Region.KillServer(ctx)
	}
	h, err := w.Host(host)
	if err != nil {
		return err
	}
	switch part {
	case Mover:
		return h.KillMover(ctx)
	case Libvirtd:
		return h.KillLibvirtd(ctx)
	}
	return fmt.Errorf("the world has no %s", part)
}

// Start starts a part of the world and waits until it answers. It is an error if
// it runs already.
func (w *World) Start(ctx context.Context, part, host string) error {
	if part == Server && w.Region != nil {
		return w.Region.StartServer(ctx)
	}
	h, err := w.Host(host)
	if err != nil {
		return err
	}
	switch part {
	case Mover:
		return h.StartMover(ctx)
	case Libvirtd:
		return h.StartLibvirtd(ctx)
	}
	return fmt.Errorf("the world has no %s", part)
}
