//go:build integration

package hostile

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/guest"
	"github.com/backstay/backstay/internal/guest/image"
	"github.com/backstay/backstay/internal/guest/wire"
	"github.com/backstay/backstay/internal/items"
	"github.com/backstay/backstay/internal/nbd"
)

var seed uint64

func TestMain(m *testing.M) {
	seed = uint64(time.Now().UnixNano() % 1e9)
	if n, err := strconv.ParseUint(os.Getenv("BACKSTAY_SEED"), 10, 64); err == nil {
		seed = n
	}
	fmt.Printf("seed %d; BACKSTAY_SEED=%d tries the same\n", seed, seed)
	os.Exit(m.Run())
}

// The bounds of what one session may do: to the host (memory and overlay of its
// machine), and to this test.
const (
	memory    = 384 << 20
	overlay   = 64 << 20
	beside    = 512 << 20 // what a QEMU takes beside the memory of its machine
	patience  = time.Minute
	mostFiles = 400 // that are read in one volume
	mostBytes = 48 << 20
)

// lab has the neighbour, whose session must not notice anything.
type lab struct {
	t    *testing.T
	ctx  context.Context
	pool *guest.Pool
	// reads tells each time that the neighbour has read the right content.
	reads chan struct{}
}

func newLab(t *testing.T) *lab {
	t.Helper()
	parts, err := image.Ensure(t.Context(), "")
	must(t, err)
	l := &lab{t: t, ctx: t.Context(), reads: make(chan struct{}, 1)}
	l.pool, err = guest.NewPool(guest.Options{Run: t.TempDir(), Parts: parts, Memory: memory, Overlay: overlay})
	must(t, err)
	t.Cleanup(func() {
		must(t, l.pool.Close())
		if left := children(t); len(left) > 0 {
			t.Errorf("processes %v are left", left)
		}
	})
	m := newMaker(t)
	neighbour := l.open([]string{m.ext4(16*mib, m.small())})
	ctx, stop := context.WithCancel(l.ctx)
	done := make(chan struct{})
	t.Cleanup(func() { stop(); <-done; neighbour.close() })
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			got, err := neighbour.read(ctx, neighbour.volumes[0].ID, "/known")
			if ctx.Err() == nil && (err != nil || string(got) != string(known)) {
				t.Errorf("the neighbour reads %d bytes, %v", len(got), err)
				return
			}
			select {
			case l.reads <- struct{}{}:
			case <-time.After(20 * time.Millisecond):
			}
		}
	}()
	return l
}

// unharmed sees that the neighbour goes on.
func (l *lab) unharmed() {
	l.t.Helper()
	for range 2 { // the first may be of before
		select {
		case <-l.reads:
		case <-time.After(patience):
			l.t.Error("the neighbour's session reads nothing any more")
			return
		}
	}
}

// session is one machine with the disks of one point.
type session struct {
	l       *lab
	machine *guest.Machine
	volumes []backstay.Volume
	ctx     context.Context
	ends    []func()
}

// open opens disks as those of one point: vda, vdb, and so on.
func (l *lab) open(disks []string) *session {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.ctx, 5*time.Minute)
	s := &session{l: l, ctx: ctx, ends: []func(){cancel}}
	var err error
	s.machine, err = l.pool.Machine(ctx, guest.Need{})
	must(l.t, err)
	s.ends = append(s.ends, func() { must(l.t, s.machine.Close()) })
	for i, path := range disks {
		must(l.t, s.machine.Attach(ctx, s.serve(target(i), path)))
	}
	scanned, err := s.machine.Scan(ctx)
	if err != nil {
		l.t.Logf("scan: %v", err)
	}
	s.volumes = scanned.Volumes
	return s
}

// target names the n-th disk.
func target(n int) backstay.DiskTarget {
	if n >= 26 {
		return backstay.DiskTarget(fmt.Sprintf("vd%c%c", 'a'+n/26-1, 'a'+n%26))
	}
	return backstay.DiskTarget(fmt.Sprintf("vd%c", 'a'+n))
}

// serve serves a disk read-only, and sees that it stays as it is.
func (s *session) serve(target backstay.DiskTarget, path string) guest.Disk {
	t := s.l.t
	t.Helper()
	f, err := os.Open(path)
	must(t, err)
	info, err := f.Stat()
	must(t, err)
	socket := fmt.Sprintf("%s.%d.socket", path, time.Now().UnixNano())
	if len(socket) > 100 {
		dir, err := os.MkdirTemp("", "bs-")
		must(t, err)
		s.ends = append(s.ends, func() { must(t, os.RemoveAll(dir)) })
		socket = dir + "/" + string(target)
	}
	listener, err := nbd.ListenUnix(socket)
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- nbd.Serve(ctx, listener, nbd.Export{Name: "disk", Size: info.Size(), Content: f}) }()
	s.ends = append(s.ends, func() {
		cancel()
		must(t, errors.Join(<-served, f.Close()))
	})
	return guest.Disk{Target: target, Socket: socket, Export: "disk", Size: info.Size()}
}

func (s *session) close() {
	for _, end := range slices.Backward(s.ends) {
		end()
	}
}

// read reads a file, up to what a test reads.
func (s *session) read(ctx context.Context, volume backstay.VolumeID, path backstay.FilePath) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	r, err := s.machine.Read(ctx, wire.ReadRequest{PathRequest: wire.PathRequest{Volume: volume, Path: path}, Length: -1})
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(io.LimitReader(r, mostBytes))
}

// list lists a folder, up to what a test lists.
func (s *session) list(volume backstay.VolumeID, path backstay.FilePath, most int) ([]backstay.FileEntry, error) {
	ctx, cancel := context.WithTimeout(s.ctx, patience)
	defer cancel()
	var all []backstay.FileEntry
	for after := ""; ; {
		part, err := s.machine.List(ctx, wire.ListRequest{PathRequest: wire.PathRequest{Volume: volume, Path: path}, After: after})
		if err != nil {
			return all, err
		}
		if len(part.Entries) > wire.MaxEntries {
			s.l.t.Errorf("%d entries in one answer", len(part.Entries))
		}
		all, after = append(all, part.Entries...), part.Next
		if after == "" || len(all) >= most {
			return all, nil
		}
	}
}

// use reads a volume from end to end as a curious user would, whatever comes.
func (s *session) use(v backstay.Volume) {
	folders, files := []backstay.FilePath{"/"}, 0
	for len(folders) > 0 && files < mostFiles {
		folder := folders[0]
		folders = folders[1:]
		entries, err := s.list(v.ID, folder, 2*mostFiles)
		if err != nil {
			s.l.t.Logf("%s%s: %v", v.ID, folder, err)
		}
		for _, e := range entries {
			s.fitName(e.Name)
			path := folder + "/" + e.Name
			if folder == "/" {
				path = "/" + e.Name
			}
			files++
			switch {
			case files >= mostFiles:
			case e.Type == backstay.TypeFolder && len(path) < 3000:
				folders = append(folders, path)
			case e.Type == backstay.TypeFile:
				if _, err := s.read(s.ctx, v.ID, path); err != nil {
					s.l.t.Logf("%s%s: %v", v.ID, path, err)
				}
			default:
				if data, err := s.read(s.ctx, v.ID, path); err == nil {
					s.l.t.Errorf("%s%s is a %s, and %d bytes are read from it", v.ID, path, e.Type, len(data))
				}
			}
		}
	}
	s.take(v)
}

// fitName sees that a name is one.
func (s *session) fitName(name backstay.FilePath) {
	if name == "" || name == "." || name == ".." || strings.ContainsAny(string(name), "/\x00") {
		s.l.t.Errorf("a folder has the name %q", string(name))
	}
}

// take takes all of the volume, up to what a test takes.
func (s *session) take(v backstay.Volume) {
	ctx, cancel := context.WithTimeout(s.ctx, patience)
	defer cancel()
	r, err := s.machine.Take(ctx, wire.TakeRequest{Volume: v.ID, Paths: []backstay.FilePath{"/"}})
	if err != nil {
		s.l.t.Logf("take %s: %v", v.ID, err)
		return
	}
	defer r.Close()
	in := items.NewReader(io.LimitReader(r, mostBytes))
	for n := 0; ; n++ {
		item, err := in.Next()
		if err != nil {
			if err != io.EOF {
				s.l.t.Logf("take %s: after %d items: %v", v.ID, n, err)
			}
			return
		}
		if item.Error != "" && n < 30 {
			s.l.t.Logf("take %s: %s: %s", v.ID, item.Path, item.Error)
		}
	}
}

// bounded sees that the session has cost the host no more than it may.
func (l *lab) bounded() {
	l.t.Helper()
	for _, pid := range children(l.t) {
		if n := resident(pid); n > memory+beside {
			l.t.Errorf("a small machine takes %d MiB of memory", n>>20)
		}
		if n := written(pid); n > overlay+mib {
			l.t.Errorf("a small machine has written %d MiB", n>>20)
		}
	}
	if n := resident(os.Getpid()); n > 1<<30 {
		l.t.Errorf("the process that speaks with the machines takes %d MiB", n>>20)
	}
}

// TestATrickHarmsItsOwnSessionAlone opens each disk that means harm, reads all of
// it, and asks for what it must show all the same.
func TestATrickHarmsItsOwnSessionAlone(t *testing.T) {
	l := newLab(t)
	m := newMaker(t)
	of := sample(rand.New(rand.NewPCG(seed, 0)))
	var batch [][]string
	for _, c := range of {
		batch = append(batch, c.make(m))
	}
	for _, part := range parts(len(of)) {
		l.openTricks(of[part[0]:part[1]], batch[part[0]:part[1]])
	}
}

// sample returns some of the tricks, or all of them.
func sample(rng *rand.Rand) []trick {
	if whole {
		return tricks
	}
	some := slices.DeleteFunc(slices.Clone(tricks), func(c trick) bool { return c.long })
	rng.Shuffle(len(some), func(i, j int) { some[i], some[j] = some[j], some[i] })
	return some[:14]
}

// parts is how the tricks share machines: all in one, and in the soak each has its
// own besides.
func parts(n int) [][2]int {
	all := [][2]int{{0, n}}
	if whole {
		for i := range n {
			all = append(all, [2]int{i, i + 1})
		}
	}
	return all
}

func (l *lab) openTricks(of []trick, disks [][]string) {
	l.t.Helper()
	s := l.open(slices.Concat(disks...))
	defer s.close()
	n := 0
	for i, c := range of {
		var mine []backstay.DiskTarget
		for range disks[i] {
			mine = append(mine, target(n))
			n++
		}
		s.seeTrick(c, mine)
		l.bounded()
		l.unharmed()
	}
}

// seeTrick looks at what a trick's disks show.
func (s *session) seeTrick(c trick, mine []backstay.DiskTarget) {
	t := s.l.t
	t.Helper()
	shown := map[string]bool{}
	named, many := 0, 0
	for _, v := range s.volumes {
		if !slices.ContainsFunc(v.Disks, func(d backstay.DiskTarget) bool { return slices.Contains(mine, d) }) {
			continue
		}
		named++
		t.Logf("%s: %s %s %s %q on %q: %s", c.name, v.ID, v.Kind, v.FileSystem, v.Label, v.On, v.Reason)
		if v.Kind != backstay.VolumeFiles {
			if v.Kind == backstay.VolumeUnread && v.Reason == "" {
				t.Errorf("%s: volume %s cannot be read, and nothing says why", c.name, v.ID)
			}
			continue
		}
		entries, err := s.list(v.ID, "/", 2*mostFiles)
		if c.unread && err == nil {
			t.Errorf("%s: volume %s is read: %d entries", c.name, v.ID, len(entries))
		}
		for _, e := range entries {
			shown[string(e.Name)] = true
		}
		if shown["many"] {
			all, err := s.list(v.ID, "/many", 2_000_000)
			if many = len(all); err != nil {
				t.Errorf("%s: after %d entries: %v", c.name, many, err)
			}
		}
		if named <= 3 {
			s.use(v)
		}
	}
	if named == 0 {
		t.Errorf("%s: no volume is named", c.name)
	}
	for _, name := range c.names {
		if !shown[name] {
			t.Errorf("%s: its root does not show %q", c.name, name)
		}
	}
	if c.entries != many {
		t.Errorf("%s: %d entries of %d", c.name, many, c.entries)
	}
}

// TestADamagedFileSystemHarmsItsOwnSessionAlone damages file systems of every kind
// at random, and reads what is left of them.
func TestADamagedFileSystemHarmsItsOwnSessionAlone(t *testing.T) {
	l := newLab(t)
	rng := rand.New(rand.NewPCG(seed, 1))
	m := newMaker(t)
	tree := m.tree()
	sound := map[string]string{}
	var kinds []string
	for kind, f := range systems {
		sound[kind] = f(m, tree)
		kinds = append(kinds, kind)
	}
	slices.Sort(kinds)
	for round := range rounds {
		var disks []string
		for _, kind := range kinds {
			disk := m.copy(sound[kind])
			m.fuzz(disk, rng)
			disks = append(disks, disk)
		}
		t.Logf("round %d of seed %d: %q", round, seed, kinds)
		s := l.open(disks)
		for _, v := range s.volumes {
			if v.Kind == backstay.VolumeFiles {
				s.use(v)
			} else if v.Kind == backstay.VolumeUnread && v.Reason == "" {
				t.Errorf("volume %s cannot be read, and nothing says why", v.ID)
			}
		}
		l.bounded()
		s.close()
		l.unharmed()
		for _, disk := range disks {
			must(t, os.Remove(disk))
		}
		if t.Failed() {
			return
		}
	}
}
