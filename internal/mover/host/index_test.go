package host

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"hash/fnv"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/blob/mem"
	"github.com/backstay/backstay/internal/guest"
	"github.com/backstay/backstay/internal/guest/wire"
	"github.com/backstay/backstay/internal/mover"
	"github.com/backstay/backstay/internal/nbd"
)

// listingMachine is a small machine of paper whose volume vda1 holds the files of a map,
// and whose vdb is locked.
type listingMachine struct {
	*paperMachine
	files  map[backstay.FilePath]string // contents; a folder ends with "/"
	meta   map[backstay.FilePath]int64  // when the inode changed
	hashed *[]backstay.FilePath
	walked *[]wire.WalkRequest
	// system is the file system, if its inodes can be read; lie makes one of them wrong.
	system string
	lie    bool
}

func (m *listingMachine) row(p backstay.FilePath) wire.Row {
	name := strings.TrimSuffix(string(p), "/")
	h := fnv.New32a()
	_, _ = h.Write([]byte(name))
	row := wire.Row{Path: backstay.FilePath(name), Type: backstay.TypeFile, Size: int64(len(m.files[p])), ModTime: 5e17, Changed: m.meta[p], Inode: uint64(h.Sum32())}
	if name != string(p) {
		row.Type = backstay.TypeFolder
	}
	return row
}

func (m *listingMachine) Inodes(_ context.Context, q wire.InodesRequest) (io.ReadCloser, error) {
	var b bytes.Buffer
	w, err := wire.NewInodeWriter(&b, m.system)
	if err != nil {
		return nil, err
	}
	var all []wire.Inode
	for p := range m.files {
		r := m.row(p)
		all = append(all, wire.Inode{Inode: r.Inode, Type: r.Type, Size: r.Size, ModTime: r.ModTime, Changed: r.Changed})
	}
	slices.SortFunc(all, func(a, b wire.Inode) int { return cmp.Compare(a.Inode, b.Inode) })
	if m.lie {
		all = all[1:]
	}
	for _, i := range all {
		if q.System == m.system && err == nil {
			err = w.Write(i)
		}
	}
	return io.NopCloser(&b), errors.Join(err, w.Close())
}

func (m *listingMachine) Scan(context.Context) (wire.Scanned, error) {
	return wire.Scanned{Volumes: []backstay.Volume{
		{ID: "vda1", FileSystem: "ext4", Kind: backstay.VolumeFiles, MountPoint: "/srv"}, {ID: "vdb", Kind: backstay.VolumeLocked, Reason: "it is encrypted"},
	}}, nil
}

func (m *listingMachine) Walk(_ context.Context, q wire.WalkRequest) (io.ReadCloser, error) {
	*m.walked = append(*m.walked, q)
	top := strings.TrimSuffix(string(q.Path), "/") + "/"
	var b bytes.Buffer
	w := wire.NewRowWriter(&b)
	for _, p := range slices.SortedFunc(maps.Keys(m.files), wire.ComparePaths) {
		row := m.row(p)
		below, ok := strings.CutPrefix(string(row.Path), top)
		if !ok || q.Flat && strings.Contains(below, "/") {
			continue
		}
		if err := w.Write(row); err != nil {
			return nil, err
		}
	}
	return io.NopCloser(&b), w.Close()
}

func (m *listingMachine) Hash(_ context.Context, q wire.HashRequest) (wire.Hashes, error) {
	var all wire.Hashes
	for _, p := range q.Paths {
		*m.hashed = append(*m.hashed, p)
		sum := sha256.Sum256([]byte(m.files[p]))
		all.SHA256, all.Read = append(all.SHA256, sum[:]), all.Read+int64(len(m.files[p]))
	}
	return all, nil
}

// listedWorld is a world whose points hold these files.
type listedWorld struct {
	*testWorld
	files  map[backstay.FilePath]string
	meta   map[backstay.FilePath]int64
	hashed []backstay.FilePath
	walked []wire.WalkRequest
	system string
	lie    bool
	points []backstay.PointID
}

func newListedWorld(t *testing.T) *listedWorld {
	w := &listedWorld{testWorld: newTestWorld(t), files: map[backstay.FilePath]string{}, meta: map[backstay.FilePath]int64{}}
	w.host.machines = func(context.Context, guest.Need) (Machine, error) {
		paper := &paperMachine{ended: make(chan struct{}), disks: map[backstay.VolumeID]*nbd.Client{}}
		return &listingMachine{paper, maps.Clone(w.files), maps.Clone(w.meta), &w.hashed, &w.walked, w.system, w.lie}, nil
	}
	t.Cleanup(w.host.CloseAll)
	return w
}

func (w *listedWorld) set(path backstay.FilePath, content string, changed int64) {
	w.files[path], w.meta[path] = content, 1e18+changed*1e9
}

func (w *listedWorld) index(id backstay.PointID) mover.Indexed {
	w.t.Helper()
	w.points, w.hashed, w.walked = append(w.points, id), nil, nil
	done, err := w.host.IndexPoint(w.t.Context(), mover.IndexRequest{Job: "01JB0000000000000000000001", Point: id, VM: sourceVM,
		Tier: backstay.VaultTier, Vault: w.access, Exists: w.points, HashUpTo: 1 << 20}, nil)
	must(w.t, err)
	return done
}

func (w *listedWorld) find(pattern string) mover.FoundFiles {
	w.t.Helper()
	found, err := w.host.FindFiles(w.t.Context(), mover.FindRequest{VM: sourceVM, Vault: w.access, Pattern: pattern, Points: w.points, Limit: 100})
	must(w.t, err)
	return found
}

// TestListOfFilesFollowsThePoints: what changed from point to point is found with its
// versions, only that is hashed, and a damaged list is made anew.
func TestListOfFilesFollowsThePoints(t *testing.T) {
	w := newListedWorld(t)
	w.set("/etc/", "", 1)
	w.set("/etc/a.conf", "one", 1)
	w.set("/etc/b.conf", "same", 1)
	w.set("/z", "latest change", 100)
	w.snapshotOf(pointID)
	w.transfer(pointID, "")
	done := w.index(pointID)
	if done.Files != 4 || done.Changed != 4 || len(w.hashed) != 3 || len(done.Notes) != 1 || !strings.Contains(done.Notes[0], "vdb") {
		t.Errorf("first: %+v, hashed %q", done, w.hashed)
	}
	if again := w.index(pointID); again.Files != 4 || w.hashed != nil {
		t.Errorf("again: %+v", again)
	}
	w.points = w.points[:1]

	const second = backstay.PointID("01JP0000000000000000000002")
	w.set("/etc/a.conf", "two", 200)
	w.set("/etc/c.conf", "one", 200)
	delete(w.files, "/etc/b.conf")
	w.snapshotOf(second)
	w.transfer(second, pointID)
	done = w.index(second)
	// "/z" changed within the last moments of the first point: it might have changed again.
	if want := []backstay.FilePath{"/etc/a.conf", "/etc/c.conf", "/z"}; done.Changed != 3 || !slices.Equal(w.hashed, want) {
		t.Errorf("second: %+v, hashed %q", done, w.hashed)
	}
	found := w.find("/srv/etc/*.conf")
	if len(found.Files) != 3 || len(found.Files[0].Versions) != 2 || found.Files[1].Versions[0].Last != pointID || len(found.Without) != 0 {
		t.Errorf("found %+v", found)
	}
	diff, err := w.host.DiffPoints(t.Context(), mover.DiffRequest{VM: sourceVM, Before: pointID, After: second,
		BeforeTier: backstay.VaultTier, AfterTier: backstay.VaultTier, Vault: &w.access, Limit: 2}, nil)
	must(t, err)
	if len(diff.Files) != 2 || diff.More != 1 || len(diff.Disks) != 2 || diff.Disks[0].Bytes != 0 {
		t.Errorf("diff %+v", diff)
	}
	w.nothingLeft()

	w.spoil(w.head())
	_, err = w.host.FindFiles(t.Context(), mover.FindRequest{VM: sourceVM, Vault: w.access, Pattern: "x", Points: w.points, Limit: 1})
	if !backstay.IsCode(err, backstay.CodeDamaged) {
		t.Errorf("a damaged list: %v", err)
	}
	if done := w.index(second); done.Changed != 4 || len(done.Notes) != 2 {
		t.Errorf("anew: %+v", done)
	}
	w.points = w.points[:2]
	if found := w.find("*.conf"); len(found.Files) != 2 || !slices.Equal(found.Without, []backstay.PointID{pointID}) {
		t.Errorf("found in the new list %+v", found)
	}
}

// TestAVolumeIsListedByItsInodes: the next point's list takes folders that did not change
// from the list before, and gives them up when anything does not fit.
func TestAVolumeIsListedByItsInodes(t *testing.T) {
	all := wire.WalkRequest{Volume: "vda1", Path: "/"}
	top, changed := wire.WalkRequest{Volume: "vda1", Path: "/", Flat: true}, wire.WalkRequest{Volume: "vda1", Path: "/new", Flat: true}
	for name, c := range map[string]struct {
		before, after string
		lie           bool
		walks         []wire.WalkRequest
	}{
		"the same file system":            {"one", "one", false, []wire.WalkRequest{top, changed}},
		"another file system":             {"one", "two", false, []wire.WalkRequest{all}},
		"one whose inodes cannot be read": {"", "", false, []wire.WalkRequest{all}},
		"an inode that does not fit":      {"one", "one", true, []wire.WalkRequest{top, all}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newListedWorld(t)
			w.system = c.before
			w.set("/kept/", "", 1)
			w.set("/kept/a", "one", 1)
			w.set("/kept/same", "the same", 1)
			w.set("/new/", "", 1)
			w.set("/new/b", "two", 1)
			w.set("/z", "latest change", 100)
			w.snapshotOf(pointID)
			w.transfer(pointID, "")
			w.index(pointID)
			if !slices.Equal(w.walked, []wire.WalkRequest{all}) {
				t.Errorf("first: walked %v", w.walked)
			}
			const second = backstay.PointID("01JP0000000000000000000002")
			w.system, w.lie = c.after, c.lie
			w.set("/kept/a", "another", 200)
			w.set("/new/", "", 200)
			w.set("/new/c", "three", 200)
			delete(w.files, "/new/b")
			w.snapshotOf(second)
			w.transfer(second, pointID)
			done := w.index(second)
			if !slices.Equal(w.walked, c.walks) || done.Files != 6 || done.Changed != 4 {
				t.Errorf("second: walked %v, %+v", w.walked, done)
			}
			if want := []backstay.FilePath{"/kept/a", "/new/c", "/z"}; !slices.Equal(w.hashed, want) {
				t.Errorf("hashed %q", w.hashed)
			}
		})
	}
}

// TestPointsWithoutAListAreComparedThemselves by their layers and in two machines.
func TestPointsWithoutAListAreComparedThemselves(t *testing.T) {
	w := newListedWorld(t)
	const second = backstay.PointID("01JP0000000000000000000002")
	w.snapshotOf(pointID)
	w.snapshotOf(second)
	w.set("/a", "one", 1)
	diff, err := w.host.DiffPoints(t.Context(), mover.DiffRequest{VM: sourceVM, Before: pointID, After: second,
		BeforeTier: backstay.SnapshotTier, AfterTier: backstay.SnapshotTier, Limit: 10}, nil)
	must(t, err)
	if len(diff.Disks) != 2 || diff.Disks[0].Note != "" || len(diff.Notes) == 0 {
		t.Errorf("%+v", diff)
	}
	w.nothingLeft()
}

// head returns the name of the newest head of the list.
func (w *listedWorld) head() string {
	w.t.Helper()
	name := ""
	must(w.t, w.store.List(w.t.Context(), "find/", func(i blob.Info) error {
		if strings.Contains(i.Name, "/h-") {
			name = i.Name
		}
		return nil
	}))
	return name
}

// spoil makes every copy of an object wrong.
func (w *listedWorld) spoil(object string) {
	w.t.Helper()
	for _, c := range w.store.(blob.Copies).Copies() {
		c.(*mem.Store).Replace(object, []byte("nothing"))
	}
}
