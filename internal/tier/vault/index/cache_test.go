package index

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/oklog/ulid/v2"
	"pgregory.net/rapid"

	"github.com/backstay/backstay/internal/tier/vault/chunk"
	"github.com/backstay/backstay/internal/tier/vault/pack"
)

// tiny makes every kind of merge happen among some hundred chunks.
var tiny = limits{recent: 64, small: 8, fresh: 150, part: 100}

func chunkName(n int) chunk.Name {
	var seed [32]byte
	binary.BigEndian.PutUint64(seed[:], uint64(n))
	var name chunk.Name
	_, _ = rand.NewChaCha8(seed).Read(name[:]) // never fails
	return name
}

// object returns an index object with packs of the given chunks.
func object(n int, packs ...[]int) (string, []pack.Directory) {
	var list []pack.Directory
	for i, chunks := range packs {
		id := chunkName(1e9 + n*1000 + i)
		d := pack.Directory{ID: pack.ID(id[:16])}
		for j, c := range chunks {
			d.Entries = append(d.Entries, pack.Entry{Kind: chunk.Data, Name: chunkName(c), Ordinal: uint32(j)})
		}
		list = append(list, d)
	}
	var id ulid.ULID
	copy(id[:], fmt.Sprintf("%016d", n))
	return Object(id), list
}

// model is what a cache should know.
type model struct {
	objects map[string][]pack.Directory
	order   []pack.ID
	chunks  map[chunk.Name][]pack.ID
}

func newModel() *model {
	return &model{objects: map[string][]pack.Directory{}, chunks: map[chunk.Name][]pack.ID{}}
}

func (m *model) clone() *model {
	n := &model{objects: maps.Clone(m.objects), order: slices.Clone(m.order), chunks: map[chunk.Name][]pack.ID{}}
	for k, v := range m.chunks {
		n.chunks[k] = slices.Clone(v)
	}
	return n
}

func (m *model) add(name string, packs []pack.Directory) {
	m.objects[name] = packs
	for _, d := range packs {
		if !slices.Contains(m.order, d.ID) {
			m.order = append(m.order, d.ID)
		}
		for _, e := range d.Entries {
			if !slices.Contains(m.chunks[e.Name], d.ID) {
				m.chunks[e.Name] = append(m.chunks[e.Name], d.ID)
			}
		}
	}
}

type fataler interface {
	Helper()
	Fatalf(format string, args ...any)
}

// compare compares everything that the cache says with the model. exact is off
// where a crash may have left a part of an object in.
func compare(t fataler, c *Cache, m *model, exact bool) {
	t.Helper()
	if err := c.Err(); err != nil {
		t.Fatalf("the cache has an error: %v", err)
	}
	if want := slices.Sorted(maps.Keys(m.objects)); !slices.Equal(c.Objects(), want) {
		t.Fatalf("objects %v, want %v", c.Objects(), want)
	}
	for _, id := range m.order {
		if !c.HasPack(id) {
			t.Fatalf("pack %s is missing", id)
		}
	}
	age := map[pack.ID]int{}
	for i, id := range m.order {
		age[id] = i
	}
	for name, packs := range m.chunks {
		got := c.Lookup(name)
		want := slices.Clone(packs)
		slices.SortFunc(want, func(a, b pack.ID) int { return age[b] - age[a] })
		if exact && !slices.Equal(got, want) {
			t.Fatalf("chunk %s: in %v, want %v", name, got, want)
		}
		for _, id := range want {
			if !slices.Contains(got, id) {
				t.Fatalf("chunk %s: not found in pack %s", name, id)
			}
		}
	}
	for i := range 50 {
		if got := c.Lookup(chunkName(5e8 + i)); got != nil {
			t.Fatalf("a chunk that is nowhere is found in %v", got)
		}
	}
}

func mustOpen(t fataler, dir string, l limits) *Cache {
	t.Helper()
	c, err := openCache(dir, l)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	return c
}

func mustOpenLimited(t fataler, l limits) *Cache {
	t.Helper()
	c, err := openDisk(newMemory(), l)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	return c
}

// mustOpenDisk opens a cache that was not harmed.
func mustOpenDisk(t fataler, d disk) *Cache {
	t.Helper()
	c, err := openDisk(d, tiny)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	if c.Dropped() != nil {
		t.Fatalf("a cache that nobody harmed was emptied: %v", c.Dropped())
	}
	return c
}

func mustAdd(t fataler, c *Cache, m *model, n int, packs ...[]int) {
	t.Helper()
	name, list := object(n, packs...)
	if err := c.Add(name, list); err != nil {
		t.Fatalf("add %s: %v", name, err)
	}
	if m != nil && m.objects[name] == nil {
		m.add(name, list)
	}
}

func span(from, to int) []int {
	var list []int
	for i := from; i < to; i++ {
		list = append(list, i)
	}
	return list
}

func TestCacheKnowsWhatWasAddedAndNothingElse(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := newMemory()
		c, m, n := mustOpenDisk(t, d), newModel(), 0
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				n++
				var packs [][]int
				for range rapid.IntRange(0, 3).Draw(t, "packs") {
					from := rapid.IntRange(0, 2000).Draw(t, "from")
					packs = append(packs, span(from, from+rapid.IntRange(0, 120).Draw(t, "chunks")))
				}
				mustAdd(t, c, m, n, packs...)
			},
			"add again": func(t *rapid.T) {
				for name, packs := range m.objects {
					if err := c.Add(name, packs); err != nil {
						t.Fatalf("add again: %v", err)
					}
				}
			},
			"flush": func(t *rapid.T) {
				if err := c.Flush(); err != nil {
					t.Fatalf("flush: %v", err)
				}
			},
			"reset": func(t *rapid.T) {
				if err := c.Reset(); err != nil {
					t.Fatalf("reset: %v", err)
				}
				m = newModel()
			},
			"reopen": func(t *rapid.T) {
				if err := errors.Join(c.Flush(), c.Close()); err != nil {
					t.Fatalf("close: %v", err)
				}
				c = mustOpenDisk(t, d)
			},
			"": func(t *rapid.T) { compare(t, c, m, true) },
		})
	})
}

func TestCacheIsSmallAndSureAtEverySize(t *testing.T) {
	c := mustOpenLimited(t, limits{recent: 8 << 10, small: 512, fresh: 16 << 10, part: 32 << 10})
	m := newModel()
	for i := range 40 {
		mustAdd(t, c, m, i, span(i*5000, i*5000+2500), span(i*5000+2500, i*5000+5000))
	}
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	compare(t, c, m, true)
	if c.Len() != 200_000 {
		t.Errorf("%d chunks, want 200000", c.Len())
	}
	if per := float64(c.Size()) / 200_000; per > 10 {
		t.Errorf("%.2f bytes for each chunk, want at most 10", per)
	}
	if len(c.base) < 4 || len(c.fresh) > 8 {
		t.Errorf("%d parts and %d fresh runs: it was not merged as it should be", len(c.base), len(c.fresh))
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
}

// Names are spread evenly; nothing must break where they are not.
func TestCacheBearsNamesThatAreNotSpread(t *testing.T) {
	c := mustOpen(t, t.TempDir(), tiny)
	defer c.Close()
	m := newModel()
	for n := range 20 {
		name, packs := object(n, nil, nil)
		for i := range 100 {
			e := pack.Entry{Kind: chunk.Data}
			e.Name[9] = byte(i) // differ in the last bits that are kept, or not at all
			e.Name[0] = byte(n / 10)
			packs[i%2].Entries = append(packs[i%2].Entries, e)
		}
		if err := c.Add(name, packs); err != nil {
			t.Fatal(err)
		}
		m.add(name, packs)
	}
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	compare(t, c, m, false)
}

func TestLookupGoesOnWhileTheCacheGrows(t *testing.T) {
	c := mustOpenDisk(t, newMemory())
	defer c.Close()
	mustAdd(t, c, nil, 0, span(0, 50))
	done := make(chan struct{})
	var group sync.WaitGroup
	for range 2 {
		group.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-done:
					return
				default:
				}
				if len(c.Lookup(chunkName(i%50))) == 0 {
					t.Error("a chunk that was there is not found")
					return
				}
				c.Has("indexes/x")
				c.Size()
			}
		})
	}
	for n := 1; n < 40; n++ {
		mustAdd(t, c, nil, n, span(n*50, n*50+50))
		if err := c.Flush(); err != nil {
			t.Error(err)
		}
	}
	close(done)
	group.Wait()
	if err := c.Err(); err != nil {
		t.Error(err)
	}
}

// A second process borrows the folder. It is this test, started again.
func TestSecondProcessSeesWhatIsDurableAndHarmsNothing(t *testing.T) {
	if dir := os.Getenv("BACKSTAY_TEST_CACHE"); dir != "" {
		second(t, dir)
		return
	}
	dir := t.TempDir()
	c, m := mustOpen(t, dir, tiny), newModel()
	mustAdd(t, c, m, 1, span(0, 200))
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	before := contents(t, dir)
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), "BACKSTAY_TEST_CACHE="+dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("second process: %v\n%s", err, out)
	}
	if !maps.Equal(before, contents(t, dir)) {
		t.Error("the second process changed files of the first")
	}
	compare(t, c, m, true)
	mustAdd(t, c, m, 3, span(300, 500))
	if err := errors.Join(c.Flush(), c.Close()); err != nil {
		t.Fatal(err)
	}
	c = mustOpen(t, dir, tiny)
	defer c.Close()
	compare(t, c, m, true)
	if !c.owned {
		t.Error("a folder that was closed still belongs to somebody")
	}
}

func second(t *testing.T, dir string) {
	c, m := mustOpen(t, dir, tiny), newModel()
	name, packs := object(1, span(0, 200))
	m.add(name, packs)
	if c.owned {
		t.Error("two processes own one folder")
	}
	compare(t, c, m, true)
	for n := 10; n < 30; n++ {
		mustAdd(t, c, m, n, span(n*100, n*100+100))
		if err := c.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	compare(t, c, m, true)
	if err := c.Reset(); err != nil {
		t.Fatal(err)
	}
	compare(t, c, newModel(), true)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
}

// A borrower that opens while the owner replaces files gets one state or the next.
func TestBorrowedCacheIsOneState(t *testing.T) {
	d := newMemory()
	c, m := mustOpenDisk(t, d), newModel()
	defer c.Close()
	mustAdd(t, c, m, 0, span(0, 50))
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	var group sync.WaitGroup
	group.Go(func() {
		defer close(done)
		for n := 1; n < 30; n++ {
			mustAdd(t, c, nil, n, span(n*50, n*50+50))
			if err := c.Flush(); err != nil {
				t.Error(err)
			}
		}
	})
	for alive := true; alive; {
		select {
		case <-done:
			alive = false
		default:
		}
		b, err := borrow(d, tiny)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 50 {
			if len(b.Lookup(chunkName(i))) == 0 || b.Err() != nil {
				t.Fatalf("a durable chunk is not found (%v, %v)", b.Err(), b.Dropped())
			}
		}
		_ = b.Close()
	}
	group.Wait()
}

func contents(t testing.TB, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		all[e.Name()] = string(data)
	}
	return all
}

func TestRunGivesBackWhatWasWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := newMemory()
		in := scope{bits: rapid.IntRange(0, 3).Draw(t, "bits")}
		in.value = uint32(rapid.IntRange(0, 1<<in.bits-1).Draw(t, "part"))
		top := rapid.SampledFrom([]uint32{0, 1, 300, 1 << 24, 1<<32 - 1}).Draw(t, "packs")
		var all fresh
		for range rapid.IntRange(0, 2000).Draw(t, "entries") {
			e := entry{hi: rapid.Uint64().Draw(t, "hi"), lo: uint16(rapid.IntRange(0, 0xfff).Draw(t, "lo")), pack: rapid.Uint32Range(0, top).Draw(t, "pack")}
			if in.bits > 0 {
				e.hi = in.first().hi | e.hi>>in.bits
			}
			all.add(e)
		}
		w, err := writeRun(d, runID{number: 1}, in, shapeFor(len(all.entries), top, in))
		if err != nil {
			t.Fatal(err)
		}
		if err := merge([]source{all.sorted()}, w.add); err != nil {
			t.Fatal(err)
		}
		if _, err := w.finish(); err != nil {
			t.Fatal(err)
		}
		r, err := openRun(d, runID{number: 1})
		if err != nil {
			t.Fatal(err)
		}
		var got []entry
		if err := merge([]source{r.source(in)}, func(e entry) error { got = append(got, e); return nil }); err != nil {
			t.Fatal(err)
		}
		want := []entry(*all.sorted().(*sliceSource))
		if !slices.Equal(got, want) {
			t.Fatalf("%d entries came back as %d others", len(want), len(got))
		}
		for _, e := range want {
			packs, err := r.lookup(nil, e)
			if err != nil || !slices.Contains(packs, e.pack) {
				t.Fatalf("%+v: found %v, %v", e, packs, err)
			}
		}
	})
}
