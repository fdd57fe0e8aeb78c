package fileindex

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"testing"

	"pgregory.net/rapid"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/guest/wire"
)

// kept is a store of segments.
type kept struct {
	segments map[string][]byte
	put      int64 // bytes
	got      int64
}

func newKept() *kept { return &kept{segments: map[string][]byte{}} }

func (k *kept) Get(_ context.Context, name string) ([]byte, error) {
	data, ok := k.segments[name]
	if !ok {
		return nil, fmt.Errorf("no segment %s", name)
	}
	k.got += int64(len(data))
	return data, nil
}

func (k *kept) Put(_ context.Context, data []byte) (string, error) {
	name := strconv.Itoa(len(k.segments))
	k.segments[name] = data
	k.put += int64(len(data))
	return name, nil
}

func pointID(n int) backstay.PointID { return backstay.PointID(fmt.Sprintf("%026d", n)) }

// tree is a volume in one point.
type tree map[backstay.FilePath]Version

func (f tree) rows() iter.Seq2[wire.Row, error] {
	return func(yield func(wire.Row, error) bool) {
		for _, p := range slices.SortedFunc(maps.Keys(f), wire.ComparePaths) {
			v := f[p]
			row := wire.Row{Path: p, Type: v.Type, Size: v.Size, ModTime: v.ModTime, Changed: v.Changed, Inode: v.Inode}
			if !yield(row, nil) {
				return
			}
		}
	}
}

// index adds a point as a host does; hash is what reading the file's content gives.
func index(t rapid.TB, k *kept, h Head, id backstay.PointID, exists []backstay.PointID, volumes map[backstay.VolumeID]tree) Head {
	ctx := context.Background()
	point := &Point{ID: id}
	changes := func(yield func(Event, error) bool) {
		for _, v := range slices.Sorted(maps.Keys(volumes)) {
			newest := int64(0)
			before, _, _ := h.Volume(v)
			c := Compared{Volume: v, Point: id, Until: before.Newest - Racy, HashUpTo: 1 << 40, Saw: func(r wire.Row) { newest = max(newest, r.Changed) }}
			for change, err := range c.Changes(State(h.Events(ctx, k), v), volumes[v].rows()) {
				if err != nil {
					t.Fatal(err)
				}
				if change.Hash {
					change.SHA256 = volumes[v][change.Path].SHA256
				}
				if change.Version != change.Before && !yield(change.Event, nil) {
					return
				}
			}
			point.Volumes = append(point.Volumes, Volume{ID: v, Newest: newest})
		}
	}
	next, err := h.Add(ctx, k, point, exists, changes)
	if err != nil {
		t.Fatal(err)
	}
	data, err := next.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if next, err = DecodeHead(data); err != nil {
		t.Fatal(err)
	}
	return next
}

// model is every point with all that is in it.
type model map[backstay.PointID]map[backstay.VolumeID]tree

// find is Find done the plain way.
func (m model) find(pattern Pattern) []backstay.FoundFile {
	found := map[[2]string]*backstay.FoundFile{}
	ids := slices.Sorted(maps.Keys(m))
	last := map[[2]string]Version{}
	for _, id := range ids {
		for volume, files := range m[id] {
			for key := range found {
				if key[0] == string(volume) {
					if _, ok := files[backstay.FilePath(key[1])]; !ok {
						delete(last, key)
					}
				}
			}
			for path, v := range files {
				if !pattern.Match("", path) {
					continue
				}
				key := [2]string{string(volume), string(path)}
				f := found[key]
				if f == nil {
					f = &backstay.FoundFile{Volume: volume, Path: path}
					found[key] = f
				}
				if before, ok := last[key]; ok && before.sameContent(v) {
					f.Versions[0].Last = id
					f.Versions[0].Points++
				} else {
					f.Versions = slices.Insert(f.Versions, 0, v.public(id))
					f.Type = v.Type
				}
				last[key] = v
			}
		}
	}
	var all []backstay.FoundFile
	for _, f := range found {
		all = append(all, *f)
	}
	slices.SortFunc(all, func(a, b backstay.FoundFile) int {
		return comparePaths(Event{Volume: a.Volume, Path: a.Path}, Event{Volume: b.Volume, Path: b.Path})
	})
	return all
}

// TestListSaysWhatEveryPointHeld compares the list with plain maps while points come,
// expire and cannot be read.
func TestListSaysWhatEveryPointHeld(t *testing.T) {
	any, err := ParsePattern("/**", false)
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		ctx := context.Background()
		k, m, h := newKept(), model{}, Head{}
		now := map[backstay.VolumeID]tree{"vda1": {}, "vdb": {}}
		clock := int64(1e18)
		for n := range rapid.IntRange(1, 25).Draw(t, "points") {
			for range rapid.IntRange(0, 6).Draw(t, "changes") {
				clock += 3e9
				v := now[rapid.SampledFrom([]backstay.VolumeID{"vda1", "vdb"}).Draw(t, "volume")]
				path := backstay.FilePath(rapid.SampledFrom([]string{"/a", "/a/b", "/a.b", "/a/b/c", "/d", "/e\xff"}).Draw(t, "path"))
				if rapid.Bool().Draw(t, "gone") {
					delete(v, path)
					continue
				}
				f := Version{Type: backstay.TypeFile, Size: int64(rapid.IntRange(1, 3).Draw(t, "size")), ModTime: 5, Changed: clock, Inode: 9}
				f.SHA256[0] = byte(rapid.IntRange(1, 3).Draw(t, "content"))
				v[path] = f
			}
			clock += 3e9
			id := pointID(n)
			m[id] = map[backstay.VolumeID]tree{}
			for v, files := range now {
				if rapid.IntRange(0, 9).Draw(t, "unread") > 0 {
					m[id][v] = maps.Clone(files)
				}
			}
			h = index(t, k, h, id, slices.Sorted(maps.Keys(m)), m[id])
			for id := range m {
				if rapid.IntRange(0, 9).Draw(t, "expires") == 0 {
					delete(m, id)
				}
			}
			got, more, err := Search{Pattern: any, Exists: slices.Sorted(maps.Keys(m)), Limit: 1000}.Find(h, h.Events(ctx, k))
			if want := m.find(any); err != nil || more || !reflect.DeepEqual(got, want) {
				t.Fatalf("%v %v\n got %+v\nwant %+v", err, more, got, want)
			}
		}
	})
}

// many is a volume of n files, of which some change from point to point.
func many(n int) tree {
	f := tree{}
	for i := range n {
		v := Version{Type: backstay.TypeFile, Size: int64(i + 1), ModTime: int64(1e18 + i), Changed: 1e18, Inode: uint64(i + 10)}
		v.SHA256[0], v.SHA256[1] = 1, byte(i)
		f[backstay.FilePath(fmt.Sprintf("/usr/share/d%03d/file%d", i/100, i))] = v
	}
	return f
}

func (f tree) touch(seed, n int) {
	paths := slices.SortedFunc(maps.Keys(f), wire.ComparePaths)
	for i := range n {
		p := paths[(seed*7919+i*104729)%len(paths)]
		v := f[p]
		v.Size, v.Changed = v.Size+1, 1e18+int64(seed)*1e10
		v.SHA256[2] = byte(seed)
		f[p] = v
	}
}

// TestAHundredPointsAreSearchedLikeOne counts what a search decodes.
func TestAHundredPointsAreSearchedLikeOne(t *testing.T) {
	const files = 2000
	k, h, f := newKept(), Head{}, many(files)
	var ids []backstay.PointID
	var first, added int64
	for n := range 100 {
		ids = append(ids, pointID(n))
		before := k.put
		h = index(t, k, h, pointID(n), ids, map[backstay.VolumeID]tree{"vda1": f})
		if n == 0 {
			first = k.put
		} else {
			added += k.put - before
		}
		f.touch(n, 10)
	}
	events, segments := int64(0), 0
	for _, l := range h.Layers {
		events += l.Events
		segments += len(l.Segments)
	}
	if events > 2*files || segments > 8 || len(h.Points) != 100 {
		t.Errorf("%d events in %d segments for %d files", events, segments, files)
	}
	if added/99 > first/4 {
		t.Errorf("a point adds %d bytes, the first had %d", added/99, first)
	}
}

func TestWhatOnlyExpiredPointsHadIsForgotten(t *testing.T) {
	k, h, f := newKept(), Head{}, many(50)
	var ids []backstay.PointID
	for n := range 60 {
		if ids = append(ids, pointID(n)); len(ids) > 5 {
			ids = ids[1:]
		}
		h = index(t, k, h, pointID(n), ids, map[backstay.VolumeID]tree{"vda1": f})
		f.touch(n, 25)
	}
	events := int64(0)
	for _, l := range h.Layers {
		events += l.Events
	}
	if len(h.Points) != 5 || events > 50+9*25 {
		t.Errorf("%d points, %d events", len(h.Points), events)
	}
}

func TestHashesAreKeptOfWhatSurelyDidNotChange(t *testing.T) {
	was := Version{Type: backstay.TypeFile, Size: 5, ModTime: 7, Changed: 100, Inode: 3, SHA256: [32]byte{1}}
	same := was
	same.SHA256 = [32]byte{}
	if !Unchanged(was, same, 101) {
		t.Error("the same inode with the same times is not known again")
	}
	for name, change := range map[string]func(*Version){
		"inode":   func(v *Version) { v.Inode++ },
		"size":    func(v *Version) { v.Size++ },
		"time":    func(v *Version) { v.ModTime++ },
		"changed": func(v *Version) { v.Changed-- },
		"type":    func(v *Version) { v.Type = backstay.TypeLink },
	} {
		other := same
		if change(&other); Unchanged(was, other, 101) {
			t.Errorf("another %s was not noticed", name)
		}
	}
	if Unchanged(was, same, 100) {
		t.Error("a file that changed just before the point was trusted")
	}
	was.Changed, same.Changed = 0, 0
	if Unchanged(was, same, 101) {
		t.Error("a file system without inode times was trusted")
	}
}

func TestFolderThatCannotBeReadKeepsWhatWasInIt(t *testing.T) {
	ctx := context.Background()
	k := newKept()
	f := tree{"/a": {Type: backstay.TypeFolder}, "/a/x": {Type: backstay.TypeLink}, "/b": {Type: backstay.TypeLink}}
	h := index(t, k, Head{}, pointID(1), nil, map[backstay.VolumeID]tree{"vda1": f})
	rows := func(yield func(wire.Row, error) bool) {
		yield(wire.Row{Path: "/a", Type: backstay.TypeFolder, Unread: true}, nil)
	}
	c := Compared{Volume: "vda1", Point: pointID(2), Saw: func(wire.Row) {}}
	var paths []backstay.FilePath
	for change, err := range c.Changes(State(h.Events(ctx, k), "vda1"), rows) {
		if err != nil || !change.Gone() {
			t.Fatal(change, err)
		}
		paths = append(paths, change.Path)
	}
	if !slices.Equal(paths, []backstay.FilePath{"/b"}) {
		t.Errorf("gone: %q", paths)
	}
}

func TestPointsAreComparedByTheirLists(t *testing.T) {
	ctx := context.Background()
	k := newKept()
	file := func(size int64, hash byte) Version {
		return Version{Type: backstay.TypeFile, Size: size, Changed: 1, Inode: 1, SHA256: [32]byte{hash}}
	}
	first := tree{"/same": file(1, 1), "/content": file(2, 2), "/gone": file(3, 3), "/dir": {Type: backstay.TypeFolder, Size: 1}}
	second := tree{"/same": file(1, 1), "/content": file(2, 9), "/new": file(4, 4), "/dir": {Type: backstay.TypeFolder, Size: 2}}
	h := index(t, k, Head{}, pointID(1), nil, map[backstay.VolumeID]tree{"vda1": first})
	h = index(t, k, h, pointID(2), []backstay.PointID{pointID(1)}, map[backstay.VolumeID]tree{"vda1": second})
	want := []backstay.FileChange{
		{Change: backstay.FileChanged, Volume: "vda1", Path: "/content", Type: backstay.TypeFile, Before: 2, After: 2},
		{Change: backstay.FileRemoved, Volume: "vda1", Path: "/gone", Type: backstay.TypeFile, Before: 3},
		{Change: backstay.FileAdded, Volume: "vda1", Path: "/new", Type: backstay.TypeFile, After: 4},
	}
	d := Diff{Limit: 10}
	if err := d.Points(h.Events(ctx, k), h.Points[0], h.Points[1]); err != nil || !reflect.DeepEqual(d.Changes, want) {
		t.Errorf("%v: %+v", err, d.Changes)
	}
	d = Diff{Limit: 1}
	one := func(f tree) iter.Seq2[Event, error] {
		return func(yield func(Event, error) bool) {
			for row := range f.rows() {
				if !yield(Event{Volume: "vda1", Path: row.Path, Version: f[row.Path]}, nil) {
					return
				}
			}
		}
	}
	if err := d.Streams(one(first), one(second)); err != nil || !reflect.DeepEqual(d.Changes, want[:1]) || d.More != 2 {
		t.Errorf("%v: %+v and %d more", err, d.Changes, d.More)
	}
}

// FuzzEvents: whatever decodes is in order, and encodes to what decodes to the same.
func FuzzEvents(f *testing.F) {
	var b Builder
	for i, p := range []backstay.FilePath{"/a", "/a/b", "/a/b\xff", "/c"} {
		v := Version{Type: backstay.TypeFile, Size: int64(i), ModTime: 7, Inode: 4}
		if i == 2 {
			v = Version{}
		}
		if err := b.Add(Event{"vda1", p, pointID(i), v}); err != nil {
			f.Fatal(err)
		}
	}
	seed, err := b.Finish()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Fuzz(func(t *testing.T, data []byte) {
		var all []Event
		var b Builder
		for e, err := range Events(data) {
			if err != nil {
				return
			}
			if all = append(all, e); validPoint(e.Point) {
				if err := b.Add(e); err != nil {
					t.Fatal(err)
				}
			}
		}
		if b.Len() != len(all) {
			return
		}
		again, err := b.Finish()
		if err != nil {
			t.Fatal(err)
		}
		i := 0
		for e, err := range Events(again) {
			if err != nil || e != all[i] {
				t.Fatalf("%v: %+v became %+v", err, all[i], e)
			}
			i++
		}
	})
}

func TestALinkThatLeadsElsewhereIsADifference(t *testing.T) {
	was := Version{Type: backstay.TypeLink, ModTime: 7, Changed: 7, Inode: 3}
	now := was
	now.ModTime, now.Changed, now.Inode = 9, 9, 4 // a link's target cannot be written to, only be replaced
	if kind, ok := Differs(was, now); !ok || kind != backstay.FileChanged {
		t.Errorf("%q, %v", kind, ok)
	}
	if _, ok := Differs(was, was); ok {
		t.Error("a link that stayed is shown as changed")
	}
}
