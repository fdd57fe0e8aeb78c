package index

import (
	"encoding/binary"
	"math/rand/v2"
	"os"
	"runtime"
	"strconv"
	"testing"

	"github.com/oklog/ulid/v2"

	"github.com/backstay/backstay/internal/tier/vault/chunk"
	"github.com/backstay/backstay/internal/tier/vault/pack"
)

// benchChunks is how many chunks the synthetic index has: 5 million, or what
// BENCH_CHUNKS says (100000000 for the goal).
func benchChunks(b *testing.B) int {
	if s := os.Getenv("BENCH_CHUNKS"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			b.Fatal(err)
		}
		return n
	}
	return 5_000_000
}

// synthetic is a stream of names that can be started again.
type synthetic struct{ r *rand.ChaCha8 }

func newSynthetic() *synthetic { return &synthetic{rand.NewChaCha8([32]byte{1})} }

func (s *synthetic) fill(name []byte) { _, _ = s.r.Read(name) } // never fails

// fillCache adds n chunks, 256 in a pack, 64 Ki in an index object. It returns
// the largest heap seen, beyond what there was before, in bytes.
func fillCache(b *testing.B, c *Cache, n int) int64 {
	const inPack, inObject = 256, MaxChunks
	s := newSynthetic()
	packs := make([]pack.Directory, inObject/inPack)
	for i := range packs {
		packs[i].Entries = make([]pack.Entry, inPack)
	}
	before, most := heap(), int64(0)
	for done := 0; done < n; done += inObject {
		for i := range packs {
			s.fill(packs[i].ID[:])
			for j := range packs[i].Entries {
				s.fill(packs[i].Entries[j].Name[:])
			}
		}
		var id ulid.ULID
		binary.BigEndian.PutUint64(id[:], uint64(done))
		if err := c.Add(Object(id), packs); err != nil {
			b.Fatal(err)
		}
		most = max(most, heap()-before)
	}
	if err := c.Flush(); err != nil {
		b.Fatal(err)
	}
	return most
}

func heap() int64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// BenchmarkCache fills a cache, opens it and asks it: bytes for each chunk on
// disk and in memory, time to open, time of a hit and of a miss.
func BenchmarkCache(b *testing.B) {
	dir, n := b.TempDir(), benchChunks(b)
	b.Run("fill", func(b *testing.B) {
		if b.N > 1 {
			b.Fatal("run with -benchtime 1x: a fill is long, and one is enough")
		}
		for range b.N {
			c, err := OpenCache(dir)
			if err == nil {
				err = c.Reset()
			}
			if err != nil {
				b.Fatal(err)
			}
			most := fillCache(b, c, n)
			b.ReportMetric(float64(most)/(1<<20), "MiB-heap")
			b.ReportMetric(float64(c.Size())/float64(c.Len()), "B/chunk")
			b.ReportMetric(float64(c.Size())/(1<<20), "MiB-disk")
			if err := c.Close(); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("open", func(b *testing.B) {
		for b.Loop() {
			c, err := OpenCache(dir)
			if err == nil {
				err = c.Close()
			}
			if err != nil || c.Dropped() != nil {
				b.Fatal(err, c.Dropped())
			}
		}
	})
	c, err := OpenCache(dir)
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	b.Run("hit", func(b *testing.B) { benchLookup(b, c, newSynthetic(), true) })
	b.Run("miss", func(b *testing.B) { benchLookup(b, c, &synthetic{rand.NewChaCha8([32]byte{2})}, false) })
	b.ReportMetric(float64(len(c.base)+len(c.fresh)), "runs")
}

func benchLookup(b *testing.B, c *Cache, s *synthetic, want bool) {
	var names []chunk.Name
	for range 100 { // the first packs: the names lie all over the runs
		var id pack.ID
		s.fill(id[:])
		for range 256 {
			var name chunk.Name
			s.fill(name[:])
			names = append(names, name)
		}
	}
	i := 0
	for b.Loop() {
		if got := len(c.Lookup(names[i%len(names)])) > 0; got != want {
			b.Fatalf("found: %v, want %v (%v)", got, want, c.Err())
		}
		i++
	}
}
