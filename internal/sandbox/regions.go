package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/backstay/backstay/internal/sandbox/link"
)

// Regions are two worlds, each with a region, hosts and storage units of its own,
// and nothing but a link between them. The server of each is in a network namespace
// of its own. A wire leads from there to the link, which carries connections to the
// other region's pair address and can be slow, cut or bad. No packet is routed: there
// is no other way across.
type Regions struct {
	Dir    string
	Worlds []*World

	base    *World // the folder's, for what is of no region
	keeper  process
	carrier process
}

// wire is where a region is on the link.
type wire struct {
	Name  string  // of the region
	Index int     // 0 or 1
	Link  process // keeps the namespace of the link
}

const (
	wirePort = 7443 // of the listener for the paired region
	apiPort  = 7070 // of the API inside the region
)

// own is the region's address on its wire, and far the link's there.
func own(index int) string { return fmt.Sprintf("10.77.%d.1", index) }
func far(index int) string { return fmt.Sprintf("10.77.%d.254", index) }

// Name is the region's name; empty in a world without a pair.
func (r *Region) Name() string {
	if r.Wire == nil {
		return ""
	}
	return r.Wire.Name
}

// PairListen is where a server of two regions listens for the other one, and PairAddress
// where the other one finds it: at the link. Both are empty in a world without a pair.
func (r *Region) PairListen() string {
	if r.Wire == nil {
		return ""
	}
	return fmt.Sprintf("%s:%d", own(r.Wire.Index), wirePort)
}

// PairAddress is where the other region finds this one.
func (r *Region) PairAddress() string {
	if r.Wire == nil {
		return ""
	}
	return fmt.Sprintf("%s:%d", far(1-r.Wire.Index), wirePort)
}

// UpRegions makes two worlds and the link between them. The hosts of region west
// are west1, west2 and so on, as many as o names. On error nothing is left.
func UpRegions(ctx context.Context, o Options, names ...string) (*Regions, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("the sandbox needs root: it makes namespaces")
	}
	if len(names) != 2 || names[0] == names[1] || len(o.LinkBinary) == 0 || o.NoRegion {
		return nil, errors.New("say the names of two regions, and what carries connections between them")
	}
	dir, err := makeDir(o.Dir)
	if err != nil {
		return nil, err
	}
	o.Dir = dir
	r := newRegions(o)
	if err := r.start(ctx, names); err != nil {
		return nil, errors.Join(err, Down(context.WithoutCancel(ctx), dir))
	}
	return r, nil
}

func newRegions(o Options) *Regions {
	base := &World{Dir: o.Dir, options: o, log: o.Log}
	return &Regions{Dir: o.Dir, base: base}
}

// start brings the link up, then the regions at the same time.
func (r *Regions) start(ctx context.Context, names []string) error {
	if err := errors.Join(os.Mkdir(filepath.Join(r.Dir, "link"), 0o700), r.save(names)); err != nil {
		return err
	}
	var err error
	if r.keeper, err = r.base.keepNetwork(ctx, filepath.Join(r.Dir, "link")); err != nil {
		return fmt.Errorf("make the network of the link: %w", err)
	}
	r.Worlds = make([]*World, len(names))
	failed := make([]error, len(names))
	var all sync.WaitGroup
	for i, name := range names {
		all.Go(func() { r.Worlds[i], failed[i] = r.raise(ctx, i, name) })
	}
	all.Wait()
	if err := errors.Join(failed...); err != nil {
		return err
	}
	if err := r.carry(ctx); err != nil {
		return err
	}
	return r.save(names)
}

// raise makes one region on its wire.
func (r *Regions) raise(ctx context.Context, index int, name string) (*World, error) {
	o := r.base.options
	o.Dir = filepath.Join(r.Dir, name)
	o.Hosts = nil
	for i := range max(1, len(r.base.options.Hosts)) {
		o.Hosts = append(o.Hosts, fmt.Sprintf("%s%d", name, i+1))
	}
	w, err := prepare(o)
	if err != nil {
		return nil, err
	}
	w.wire = &wire{Name: name, Index: index, Link: r.keeper}
	if err := w.start(ctx); err != nil {
		return nil, fmt.Errorf("bring region %s up: %w", name, err)
	}
	return w, nil
}

// carry starts what carries connections between the wires.
func (r *Regions) carry(ctx context.Context) error {
	var c link.Config
	for i := range r.Worlds {
		c.Routes = append(c.Routes, link.Route{
			Listen: fmt.Sprintf("%s:%d", far(1-i), wirePort), To: fmt.Sprintf("%s:%d", own(i), wirePort),
		})
	}
	c.Control = r.control()
	var err error
	r.carrier, err = r.base.carrier(ctx, c, filepath.Join(r.Dir, "link"), r.keeper)
	return err
}

func (r *Regions) control() string { return filepath.Join(r.Dir, "link/control.sock") }

// Carry is the process that carries connections between two regions, or into one, by
// the configuration in a file, until ctx ends.
func Carry(ctx context.Context, config string, out io.Writer) error {
	text, err := os.ReadFile(config)
	if err != nil {
		return fmt.Errorf("read the configuration of the link: %w", err)
	}
	var c link.Config
	if err := json.Unmarshal(text, &c); err != nil {
		return fmt.Errorf("read the configuration of the link %s: %w", config, err)
	}
	return link.Run(ctx, c, out)
}

// carrier starts a process that carries connections, in the namespace of the keeper
// if there is one, and waits until it takes them.
func (w *World) carrier(ctx context.Context, c link.Config, dir string, keeper process) (process, error) {
	text, err := json.Marshal(c)
	if err != nil {
		return process{}, err
	}
	config, log := filepath.Join(dir, "link.json"), filepath.Join(dir, "link.log")
	if err := os.WriteFile(config, text, 0o600); err != nil {
		return process{}, fmt.Errorf("configure the link: %w", err)
	}
	if err := os.RemoveAll(log); err != nil {
		return process{}, err
	}
	args := append(append([]string(nil), w.options.LinkBinary...), config)
	if keeper.PID != 0 {
		args = append([]string{"nsenter", "-t", strconv.Itoa(keeper.PID), "--net", "--"}, args...)
	}
	p, err := w.launch(exec.Command(args[0], args[1:]...), log)
	if err != nil {
		return p, err
	}
	return p, w.says(ctx, p, log, link.Ready)
}

// keepNetwork makes a network namespace that lasts as long as the process that it
// returns.
func (w *World) keepNetwork(ctx context.Context, dir string) (process, error) {
	log := filepath.Join(dir, "network.log")
	if err := os.RemoveAll(log); err != nil {
		return process{}, err
	}
	cmd := exec.Command("/bin/sh", "-c", "ip link set lo up && echo network is up && exec sleep infinity")
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNET}
	p, err := w.launch(cmd, log)
	if err != nil {
		return p, err
	}
	return p, w.says(ctx, p, log, "network is up")
}

// says waits until a process has written a line to its log.
func (w *World) says(ctx context.Context, p process, log, line string) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	return poll(ctx, 5*time.Millisecond, func() error {
		text, err := os.ReadFile(log)
		switch {
		case err == nil && strings.Contains(string(text), line+"\n"):
			return nil
		case !p.alive():
			return permanent{errors.New("it ended: " + tail(log))}
		}
		return errors.Join(err, fmt.Errorf("it has not said %q", line))
	})
}

// plug gives the region its network and the wire to the link, and a door through
// which clients outside reach its API at the address that it returns.
func (w *World) plug(ctx context.Context, r *Region, dir string) (door string, err error) {
	r.Wire = w.wire
	if r.Network, err = w.keepNetwork(ctx, dir); err != nil {
		return "", err
	}
	i := w.wire.Index
	inside, outside := strconv.Itoa(r.Network.PID), strconv.Itoa(w.wire.Link.PID)
	ends := fmt.Sprintf("wire%d", i)
	// The kernel may still be taking the wire of a region away that was here before.
	script := fmt.Sprintf(`set -e
nsenter -t %[2]s --net -- ip link del %[3]s 2>/dev/null || true
ip link add name pair netns %[1]s type veth peer name %[3]s netns %[2]s
nsenter -t %[1]s --net -- sh -ec 'ip addr add %[4]s/24 dev pair; ip link set pair up'
nsenter -t %[2]s --net -- sh -ec 'ip addr add %[5]s/24 dev %[3]s; ip link set %[3]s up'`, inside, outside, ends, own(i), far(i))
	if err := host(ctx, "sh", "-c", script); err != nil {
		return "", fmt.Errorf("plug the region in: %w", err)
	}
	if door, err = freeAddress(); err != nil {
		return "", err
	}
	c := link.Config{Routes: []link.Route{{
		Listen: door, To: fmt.Sprintf("127.0.0.1:%d", apiPort), Namespace: fmt.Sprintf("/proc/%s/ns/net", inside),
	}}}
	r.Door, err = w.carrier(ctx, c, dir, process{})
	return door, err
}

// World returns the world of a region by its name; "" is the first.
func (r *Regions) World(name string) (*World, error) {
	for _, w := range r.Worlds {
		if w.wire.Name == name || name == "" {
			return w, nil
		}
	}
	return nil, fmt.Errorf("there is no region %q", name)
}

// Link puts rules for the link into force.
func (r *Regions) Link(ctx context.Context, rules link.Rules) error {
	_, err := link.Ask(ctx, r.control(), &rules)
	return err
}

// Passed returns what passed the link.
func (r *Regions) Passed(ctx context.Context) (link.Stats, error) {
	return link.Ask(ctx, r.control(), nil)
}

// Unplug pulls the wire of a region out, so that what is sent there vanishes without
// an answer; Plug puts it back.
func (r *Regions) Unplug(ctx context.Context, name string) error {
	return r.wireState(ctx, name, "down")
}

// Plug puts the wire of a region back.
func (r *Regions) Plug(ctx context.Context, name string) error { return r.wireState(ctx, name, "up") }

func (r *Regions) wireState(ctx context.Context, name, state string) error {
	w, err := r.World(name)
	if err != nil {
		return err
	}
	return r.inLink(ctx, "ip", "link", "set", fmt.Sprintf("wire%d", w.wire.Index), state)
}

func (r *Regions) inLink(ctx context.Context, args ...string) error {
	return host(ctx, "nsenter", append([]string{"-t", strconv.Itoa(r.keeper.PID), "--net", "--"}, args...)...)
}

// Speed bounds what the link carries to each region, in bytes a second, as a slow
// line does; 0 takes the bound away.
func (r *Regions) Speed(ctx context.Context, rate int64) error {
	for _, w := range r.Worlds {
		dev := fmt.Sprintf("wire%d", w.wire.Index)
		if rate == 0 {
			// There is nothing to take away where no bound was set.
			_ = r.inLink(ctx, "tc", "qdisc", "del", "dev", dev, "root")
			continue
		}
		err := r.inLink(ctx, "tc", "qdisc", "replace", "dev", dev, "root", "tbf",
			"rate", fmt.Sprintf("%dbit", 8*rate), "burst", "256kb", "latency", "100ms")
		if err != nil {
			return fmt.Errorf("bound the speed of the link: %w", err)
		}
	}
	return nil
}

// Burn ends every process of a region at once, with its guests and its network, as
// a fire does. What is on its disks stays.
func (r *Regions) Burn(ctx context.Context, name string) error {
	w, err := r.World(name)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	var killed []process
	return poll(ctx, 20*time.Millisecond, func() error { return killAll(w.Dir, &killed) })
}

// Rebuild removes all of a region and makes a new one of that name in its place: new
// machines, with nothing on them.
func (r *Regions) Rebuild(ctx context.Context, name string) error {
	w, err := r.World(name)
	if err != nil {
		return err
	}
	index := w.wire.Index
	if err := Down(ctx, w.Dir); err != nil {
		return fmt.Errorf("remove region %s: %w", name, err)
	}
	made, err := r.raise(ctx, index, name)
	if err != nil {
		return err
	}
	r.Worlds[index] = made
	return nil
}

// Down ends both worlds and the link and removes all of it.
func (r *Regions) Down(ctx context.Context) error { return Down(ctx, r.Dir) }

// regionsState lets another process work with two regions.
type regionsState struct {
	Options         Options
	Names           []string
	Keeper, Carrier process
}

// regionsFile tells the folder of two regions from that of a world.
const regionsFile = "regions.json"

func (r *Regions) save(names []string) error {
	s := regionsState{Options: r.base.options, Names: names, Keeper: r.keeper, Carrier: r.carrier}
	s.Options.Log = nil
	text, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("write the state of the regions: %w", err)
	}
	path := filepath.Join(r.Dir, regionsFile)
	if err := os.WriteFile(path+".new", text, 0o600); err != nil {
		return fmt.Errorf("write the state of the regions: %w", err)
	}
	return os.Rename(path+".new", path)
}

// OpenRegions returns two regions that another process brought up.
func OpenRegions(dir string) (*Regions, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(filepath.Join(dir, regionsFile))
	if err != nil {
		return nil, fmt.Errorf("open the regions: %w", err)
	}
	var s regionsState
	if err := json.Unmarshal(text, &s); err != nil {
		return nil, fmt.Errorf("open the regions %s: %w", dir, err)
	}
	r := newRegions(s.Options)
	r.keeper, r.carrier = s.Keeper, s.Carrier
	for _, name := range s.Names {
		w, err := Open(filepath.Join(dir, name))
		if err != nil {
			return nil, err
		}
		r.Worlds = append(r.Worlds, w)
	}
	return r, nil
}

// SetLink changes the link by a word: mend, cut, stall, corrupt, slow, pull or plug.
// The value is a number of bytes after which it happens, a rate in bytes a second, or
// the name of a region.
func (r *Regions) SetLink(ctx context.Context, word, value string) error {
	switch word {
	case "pull":
		return r.Unplug(ctx, value)
	case "plug":
		return r.Plug(ctx, value)
	}
	var n int64
	if value != "" {
		var err error
		if n, err = strconv.ParseInt(value, 10, 64); err != nil || n < 0 {
			return fmt.Errorf("link %s %s: say a number of bytes", word, value)
		}
	}
	switch word {
	case "mend":
		return r.Link(ctx, link.Rules{})
	case "cut":
		return r.Link(ctx, link.Rules{Closed: n == 0, CutAfter: n})
	case "stall":
		return r.Link(ctx, link.Rules{Stalled: true})
	case "corrupt":
		return r.Link(ctx, link.Rules{CorruptAfter: max(n, 1)})
	case "slow":
		return r.Speed(ctx, n)
	}
	return fmt.Errorf("link %s: say mend, cut, stall, corrupt, slow, pull or plug", word)
}
