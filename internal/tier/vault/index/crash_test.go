package index

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
)

var errPower = errors.New("no power")

// crashDisk counts what changes it. One of these steps fails, and from another
// one on all do, as when power is lost. It knows what of it is durable.
type crashDisk struct {
	live                 *memory
	steps, failAt, dieAt int                 // 0: never
	names                map[string]*memFile // durable
	content              map[*memFile][]byte // durable
	pending              []func(map[string]*memFile)
}

func newCrashDisk(failAt, dieAt int) *crashDisk {
	return &crashDisk{live: newMemory(), failAt: failAt, dieAt: dieAt, names: map[string]*memFile{}, content: map[*memFile][]byte{}}
}

func (d *crashDisk) step() error {
	d.steps++
	if d.steps == d.failAt || d.dieAt > 0 && d.steps >= d.dieAt {
		return errPower
	}
	return nil
}

func (d *crashDisk) Create(name string) (file, error) {
	if err := d.step(); err != nil {
		return nil, err
	}
	f, err := d.live.Create(name)
	if err == nil {
		mf := f.(*memFile)
		d.pending = append(d.pending, func(names map[string]*memFile) { names[name] = mf })
		f = &crashFile{memFile: mf, disk: d}
	}
	return f, err
}

func (d *crashDisk) Open(name string) (file, error) {
	f, err := d.live.Open(name)
	if err != nil {
		return nil, err
	}
	return &crashFile{memFile: f.(*memFile), disk: d}, nil
}

func (d *crashDisk) Rename(from, to string) error {
	if err := d.step(); err != nil {
		return err
	}
	d.pending = append(d.pending, func(names map[string]*memFile) {
		if f, ok := names[from]; ok {
			delete(names, from)
			names[to] = f
		}
	})
	return d.live.Rename(from, to)
}

func (d *crashDisk) Remove(name string) error {
	if err := d.step(); err != nil {
		return err
	}
	d.pending = append(d.pending, func(names map[string]*memFile) { delete(names, name) })
	return d.live.Remove(name)
}

func (d *crashDisk) List() ([]string, error) { return d.live.List() }

func (d *crashDisk) Sync() error {
	if err := d.step(); err != nil {
		return err
	}
	for _, change := range d.pending {
		change(d.names)
	}
	d.pending = nil
	return nil
}

type crashFile struct {
	*memFile
	disk *crashDisk
}

func (f *crashFile) WriteAt(b []byte, at int64) (int, error) {
	if err := f.disk.step(); err != nil {
		// A write that fails has written some of it.
		n, _ := f.memFile.WriteAt(b[:len(b)/2], at)
		return n, err
	}
	return f.memFile.WriteAt(b, at)
}

func (f *crashFile) Sync() error {
	if err := f.disk.step(); err != nil {
		return err
	}
	f.disk.content[f.memFile] = bytes.Clone(f.data)
	return nil
}

// after returns the disk as the next start finds it: what was not synced is
// there, or not, or in part.
func (d *crashDisk) after(seed uint64) *memory {
	r := rand.New(rand.NewPCG(seed, 3))
	names := maps.Clone(d.names)
	for _, change := range d.pending {
		if r.IntN(2) == 0 {
			change(names)
		}
	}
	out := newMemory()
	for name, f := range names {
		out.files[name] = &memFile{data: d.torn(f, r)}
	}
	return out
}

func (d *crashDisk) torn(f *memFile, r *rand.Rand) []byte {
	old := d.content[f]
	switch r.IntN(3) {
	case 0:
		return bytes.Clone(old)
	case 1:
		return bytes.Clone(f.data)
	}
	data := bytes.Clone(f.data[:len(old)+r.IntN(len(f.data)-len(old)+1)])
	for at := 0; at < len(data); at += 512 { // sectors go out in any order
		end := min(at+512, len(data))
		if r.IntN(2) == 0 {
			n := 0
			if at < len(old) {
				n = copy(data[at:end], old[at:])
			}
			if at+n < end && end > len(old) {
				clear(data[at+n : end])
			}
		}
	}
	return data
}

// history fills a cache with every kind of merge. It returns what was durable
// and what was begun when an error stopped it.
func history(d disk, goOn bool) (durable, begun *model, err error) {
	durable, begun = newModel(), newModel()
	c, err := openDisk(d, tiny)
	if err != nil && goOn {
		c, err = openDisk(d, tiny)
	}
	if err != nil {
		return durable, begun, err
	}
	for n := range 8 {
		from := n * 35
		name, packs := object(n, span(from, from+30), span(from+15, from+50))
		begun.add(name, packs)
		err := c.Add(name, packs)
		if err != nil && goOn {
			err = c.Add(name, packs)
		}
		if err == nil && n%2 == 1 {
			if err = c.Flush(); err != nil && goOn {
				err = c.Flush()
			}
			if err == nil {
				durable = begun.clone()
			}
		}
		if err != nil {
			return durable, begun, err
		}
	}
	if goOn {
		return durable, begun, checked(c, begun)
	}
	return durable, begun, c.Close()
}

// failure turns what compare finds into an error.
type failure struct{ err error }

func (f *failure) Helper() {}
func (f *failure) Fatalf(format string, args ...any) {
	f.err = fmt.Errorf(format, args...)
	panic(f)
}

func checked(c *Cache, m *model) (err error) {
	defer func() {
		if f, ok := recover().(*failure); ok {
			err = f.err
		}
	}()
	compare(&failure{}, c, m, true)
	return nil
}

func steps(t *testing.T) int {
	t.Helper()
	d := newCrashDisk(0, 0)
	if _, _, err := history(d, false); err != nil {
		t.Fatal(err)
	}
	if s, err := readState(d); err != nil || len(s.Base) < 4 || len(s.Fresh) == 0 {
		t.Fatalf("%d parts, %d fresh runs: the history does not do enough (%v)", len(s.Base), len(s.Fresh), err)
	}
	return d.steps
}

func TestCrashAtAnyStepLosesOnlyWhatWasNotFlushed(t *testing.T) {
	for at := range steps(t) {
		at++
		for seed := range uint64(5) {
			// The last ones try again after a failed step, and are killed soon after it.
			d, again := newCrashDisk(0, at), seed >= 3
			if again {
				d = newCrashDisk(at, at+1+int(seed))
			}
			durable, begun, err := history(d, again)
			if err != nil && !errors.Is(err, errPower) {
				t.Fatalf("step %d: %v", at, err)
			}
			disk := d.after(seed)
			c := mustOpenDisk(t, disk)
			have := newModel()
			for _, name := range c.Objects() {
				packs, ok := begun.objects[name]
				if !ok {
					t.Fatalf("step %d: %s was never added", at, name)
				}
				have.add(name, packs)
			}
			for name := range durable.objects {
				if have.objects[name] == nil {
					t.Fatalf("step %d, seed %d: %s was flushed and is gone", at, seed, name)
				}
			}
			compare(t, c, have, false)
			within(t, c, begun)
			// And it goes on from there.
			for _, name := range slices.Sorted(maps.Keys(begun.objects)) {
				if err := c.Add(name, begun.objects[name]); err != nil {
					t.Fatal(err)
				}
			}
			if err := errors.Join(c.Flush(), c.Close()); err != nil {
				t.Fatal(err)
			}
			compare(t, mustOpenDisk(t, disk), begun, false)
			for name := range disk.files {
				if name == stateNew {
					t.Fatalf("step %d: %s was left", at, name)
				}
			}
		}
	}
}

// within checks that a cache says nothing that was never added.
func within(t fataler, c *Cache, all *model) {
	t.Helper()
	for name, packs := range all.chunks {
		for _, id := range c.Lookup(name) {
			if !slices.Contains(packs, id) {
				t.Fatalf("chunk %s: said to be in pack %s", name, id)
			}
		}
	}
}

func TestFailedStepIsDoneAgainByTheNext(t *testing.T) {
	for at := range steps(t) {
		at++
		d := newCrashDisk(at, 0)
		_, begun, err := history(d, true)
		if err != nil {
			t.Fatalf("step %d failed once: %v", at, err)
		}
		c := mustOpenDisk(t, d)
		compare(t, c, begun, false)
		named := 2 + 1 + len(c.base) + len(c.fresh)
		if files, _ := d.List(); len(files) != named {
			t.Fatalf("step %d: %d files, of which the state names %d: %v", at, len(files), named, files)
		}
	}
}

func TestDamagedCacheSaysSoAndIsMadeAgain(t *testing.T) {
	d := newMemory()
	c, m := mustOpenDisk(t, d), newModel()
	for n := range 12 {
		mustAdd(t, c, m, n, span(n*60, n*60+30), span(n*60+30, n*60+60))
	}
	if err := errors.Join(c.Flush(), c.Close()); err != nil {
		t.Fatal(err)
	}
	for name, f := range d.files {
		for i, harm := range harms(f.data) {
			if !useDamaged(t, with(d, name, harm), m) {
				t.Errorf("harm %d to %s was not noticed", i, name)
			}
		}
		gone := with(d, name, nil)
		delete(gone.files, name)
		// Without a state there is no cache, so there is nothing to notice.
		if !useDamaged(t, gone, m) && name != stateFile {
			t.Errorf("%s is missing: not noticed", name)
		}
	}
}

func TestFilesOfAnotherCacheAreNotTaken(t *testing.T) {
	make2 := func(from int) (*memory, *model) {
		d := newMemory()
		c, m := mustOpenDisk(t, d), newModel()
		for n := range 4 {
			mustAdd(t, c, m, n, span(from+n*30, from+n*30+30))
		}
		if err := errors.Join(c.Flush(), c.Close()); err != nil {
			t.Fatal(err)
		}
		return d, m
	}
	a, m := make2(0)
	b, _ := make2(1000)
	swapped := 0
	for name := range a.files {
		if _, ok := b.files[name]; ok && name[:4] == "run-" {
			swapped++
			if !useDamaged(t, with(a, name, b.files[name].data), m) {
				t.Errorf("%s of another cache is taken", name)
			}
		}
	}
	if swapped == 0 {
		t.Error("nothing was tried")
	}
}

func with(d *memory, name string, data []byte) *memory {
	out := newMemory()
	for n, f := range d.files {
		out.files[n] = &memFile{data: bytes.Clone(f.data)}
	}
	out.files[name] = &memFile{data: bytes.Clone(data)}
	return out
}

// harms returns damaged forms of a file.
func harms(data []byte) [][]byte {
	var all [][]byte
	for i := range 40 {
		b := bytes.Clone(data)
		b[len(b)*i/40] ^= 1 << (i % 8)
		all = append(all, b)
	}
	b := bytes.Clone(data)
	b[len(b)-1] ^= 1
	return append(all, b, data[:len(data)-1], data[:len(data)/2], nil, make([]byte, len(data)))
}

// useDamaged uses a damaged cache as its owner does, and tells whether the
// damage was noticed. Whatever the cache says, it must not invent a pack.
func useDamaged(t *testing.T, d disk, m *model) bool {
	t.Helper()
	c, err := openDisk(d, tiny)
	if err != nil {
		t.Fatal(err)
	}
	noticed := errors.Is(c.Dropped(), ErrDamaged) || errors.Is(c.Dropped(), os.ErrNotExist)
	within(t, c, m)
	for _, id := range m.order {
		c.HasPack(id)
	}
	if c.Err() != nil {
		if !errors.Is(c.Err(), ErrDamaged) {
			t.Fatalf("not named as damage: %v", c.Err())
		}
		noticed = true
		name, packs := object(999, span(0, 9))
		if c.Add(name, packs) == nil || c.Flush() == nil {
			t.Fatal("a damaged cache takes more in")
		}
		if err := c.Reset(); err != nil {
			t.Fatal(err)
		}
	}
	if !noticed {
		return false
	}
	for _, name := range slices.Sorted(maps.Keys(m.objects)) {
		if err := c.Add(name, m.objects[name]); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	compare(t, c, m, true)
	return true
}

var errIO = fmt.Errorf("input/output error")

// deafFile is a file that cannot be read any more.
type deafFile struct{ file }

func (deafFile) ReadAt([]byte, int64) (int, error) { return 0, errIO }

// "Could not read" is not "damaged" (I5).
func TestUnreadableCacheIsNotCalledDamaged(t *testing.T) {
	d := newMemory()
	c, m := mustOpenDisk(t, d), newModel()
	mustAdd(t, c, m, 1, span(0, 100))
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	c.fresh[0].file = deafFile{c.fresh[0].file}
	c.Lookup(chunkName(1))
	if err := c.Err(); !errors.Is(err, errIO) || errors.Is(err, ErrDamaged) {
		t.Errorf("it says: %v", err)
	}
	if err := c.Reset(); err != nil || c.Err() != nil {
		t.Errorf("reset does not help: %v, %v", err, c.Err())
	}
}
