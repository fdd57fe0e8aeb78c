package main

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/oklog/ulid/v2"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/tier/vault/chunk"
	"github.com/backstay/backstay/internal/tier/vault/index"
	"github.com/backstay/backstay/internal/tier/vault/pack"
	"github.com/backstay/backstay/internal/tier/vault/point"
	"github.com/backstay/backstay/internal/tier/vault/seal"
)

const (
	planSize  = 1 << 40
	planData  = 100 * gib
	planPages = planSize / point.PageBytes
	// planChunk is how much a chunk holds, planSealed what is left of it.
	planChunk, planSealed = mib, 2 * mib / 5
	// planWrites is how many chunks of one unit lie scattered over each page, as
	// many increments leave them.
	planWrites = 16
)

// fakeName is the name of the n-th chunk of a synthetic vault: as uniform as
// a hash, and known without its content.
func fakeName(n uint64) chunk.Name {
	var name chunk.Name
	for i := range 4 {
		x := (n*4 + uint64(i) + 1) * 0x9e3779b97f4a7c15 // splitmix64
		x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
		x = (x ^ x>>27) * 0x94d049bb133111eb
		binary.LittleEndian.PutUint64(name[i*8:], x^x>>31)
	}
	return name
}

// planner makes the tables of a disk whose content does not exist.
type planner struct {
	keys    *seal.Keys
	cache   *index.Cache
	dir     pack.Directory
	at      uint32
	waiting []pack.Directory
	chunks  uint64
	said    map[string]float64
}

// place puts the next chunk into a pack.
func (p *planner) place(plain, sealed uint32) (chunk.Name, point.Place, error) {
	name := fakeName(p.chunks)
	p.chunks++
	if p.at+sealed > pack.Target-(64<<10) {
		if err := p.endPack(); err != nil {
			return name, point.Place{}, err
		}
	}
	e := pack.Entry{Kind: chunk.Data, Name: name, Ordinal: uint32(len(p.dir.Entries)), Offset: p.at, Sealed: sealed, Plain: plain}
	p.dir.Entries = append(p.dir.Entries, e)
	p.at += sealed
	return name, point.PlaceOf(p.dir.ID, p.dir.Epoch, e), nil
}

func (p *planner) endPack() error {
	if len(p.dir.Entries) > 0 {
		p.dir.Size = p.at + 64<<10
		p.waiting = append(p.waiting, p.dir)
	}
	p.dir, p.at = pack.Directory{ID: pack.NewID(), Epoch: p.keys.Epoch()}, pack.First
	n := 0
	for _, d := range p.waiting {
		n += len(d.Entries)
	}
	if n < index.MaxChunks/2 {
		return nil
	}
	return p.endIndex()
}

// endIndex encodes an index object, decodes it, and takes it into the cache.
func (p *planner) endIndex() error {
	if len(p.waiting) == 0 {
		return nil
	}
	id := ulid.Make()
	data, err := index.Encode(p.keys, id, p.keys.Epoch(), p.waiting)
	if err != nil {
		return err
	}
	p.said["indexes"]++
	p.said["indexBytes"] += float64(len(data))
	packs, err := index.Decode(p.keys, id, data)
	if err != nil {
		return err
	}
	p.waiting = nil
	return p.cache.Add(index.Object(id), packs)
}

// page makes one page: a run of bulk data, and single units after it.
func (p *planner) page() (*point.Page, error) {
	b := point.NewBuilder()
	left := uint32(point.PageBytes / chunk.Unit)
	add := func(units uint32, sealed uint32) error {
		name, at, err := p.place(units*chunk.Unit, sealed)
		b.Add(units, name, at, 0)
		left -= units
		return err
	}
	for range planData / planPages / planChunk {
		if err := add(planChunk/chunk.Unit, planSealed); err != nil {
			return nil, err
		}
	}
	for range planWrites {
		b.Add(100, chunk.Name{}, point.Place{}, 0)
		left -= 100
		if err := add(1, 1700); err != nil {
			return nil, err
		}
	}
	b.Add(left, chunk.Name{}, point.Place{}, 0)
	return b.Page(), nil
}

// planDisk makes and reads back everything that a point of a disk of 1 TiB with
// 100 GiB of data has but the data: pages, manifest, indexes, local index. It
// shows what memory they take.
func planDisk(ctx context.Context, t task) (map[string]float64, error) {
	master := make([]byte, seal.MasterSize)
	_, _ = rand.Read(master) // never fails (crypto/rand)
	keys, err := seal.NewKeys(uuid.NewString(), backstay.NewSecret(master))
	if err != nil {
		return nil, err
	}
	cache, err := index.OpenCache(t.Out)
	if err != nil {
		return nil, err
	}
	defer func() { _ = cache.Close() }()
	p := &planner{keys: keys, cache: cache, said: map[string]float64{}}
	if err := p.endPack(); err != nil {
		return nil, err
	}
	disk := point.Disk{Target: "vda", Size: planSize, Format: "qcow2", PageBytes: point.PageBytes}
	disk.MakePages()
	for i := range disk.PageCount() {
		if err := errors.Join(ctx.Err(), p.onePage(&disk, i)); err != nil {
			return nil, err
		}
	}
	if err := errors.Join(p.endPack(), p.endIndex(), cache.Flush()); err != nil {
		return nil, err
	}
	if err := p.manifest(disk); err != nil {
		return nil, err
	}
	p.said["chunks"], p.said["cacheBytes"] = float64(cache.Len()), float64(cache.Size())
	size, err := treeSize(t.Out)
	p.said["cacheFiles"] = float64(size)
	return p.said, err
}

func (p *planner) onePage(disk *point.Disk, i int) error {
	page, err := p.page()
	if err != nil {
		return err
	}
	plain := page.Encode()
	packed, err := chunk.Encode(nil, plain)
	if err != nil {
		return err
	}
	back, err := chunk.Decode(nil, packed, len(plain))
	if err == nil {
		_, err = point.DecodePage(back, page.Units)
	}
	if err != nil {
		return fmt.Errorf("page %d: %w", i, err)
	}
	p.said["pages"]++
	p.said["pageBytes"] += float64(len(packed))
	name := p.keys.Name(chunk.Table, plain)
	disk.SetPage(i, name, point.Place{Pack: p.dir.ID, Epoch: p.dir.Epoch, Offset: pack.First, Sealed: uint32(len(packed)), Plain: uint32(len(plain))})
	return nil
}

// manifest encodes and decodes the point's manifest.
func (p *planner) manifest(disk point.Disk) error {
	id := backstay.PointID(ulid.Make().String())
	h := point.Header{Epoch: p.keys.Epoch(), Time: time.Now()}
	for range int(p.chunks) / 38 {
		h.Packs = append(h.Packs, pack.NewID())
	}
	data, _, err := point.Encode(p.keys, id, h, point.Body{Facts: backstay.RecoveryPoint{ID: id}, Definition: []byte("{}"), Disks: []point.Disk{disk}})
	if err != nil {
		return err
	}
	p.said["manifestBytes"] = float64(len(data))
	_, _, err = point.Decode(p.keys, id, data)
	return err
}

// indexChunks is how many chunks the synthetic index has at last.
const indexChunks = 100_000_000

// makeIndex adds synthetic packs to a local index: chunks t.Step up to t.Bytes.
func makeIndex(ctx context.Context, t task) (map[string]float64, error) {
	cache, err := index.OpenCache(t.Out)
	if err != nil {
		return nil, err
	}
	defer func() { _ = cache.Close() }()
	const inPack = 40
	var packs []pack.Directory
	entries := make([]pack.Entry, index.MaxChunks)
	for n := int64(t.Step); n < t.Bytes; {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		packs = packs[:0]
		for used := 0; used+inPack <= len(entries) && n < t.Bytes; {
			d := pack.Directory{ID: pack.NewID(), Epoch: 1, Size: pack.Target}
			d.Entries = entries[used : used : used+inPack]
			for range min(inPack, t.Bytes-n) {
				d.Entries = append(d.Entries, pack.Entry{Kind: chunk.Data, Name: fakeName(uint64(n)), Ordinal: uint32(len(d.Entries)), Plain: mib, Sealed: planSealed})
				n++
			}
			used += len(d.Entries)
			packs = append(packs, d)
		}
		if err := cache.Add(index.Object(ulid.Make()), packs); err != nil {
			return nil, err
		}
	}
	if err := cache.Flush(); err != nil {
		return nil, err
	}
	size, err := treeSize(t.Out)
	return map[string]float64{"chunks": float64(cache.Len()), "disk": float64(size)}, err
}

// opening is the shortest of some times that it takes to open a local index.
func opening(dir string) (time.Duration, error) {
	best := time.Hour
	for range 5 {
		start := time.Now()
		cache, err := index.OpenCache(dir)
		if err != nil {
			return 0, err
		}
		best = min(best, time.Since(start))
		if err := cache.Close(); err != nil {
			return 0, err
		}
	}
	return best, nil
}

// openIndex opens a local index of t.Bytes chunks and looks chunks up that are in
// it, and some that are not. Nothing here has a store that it could read.
func openIndex(ctx context.Context, t task) (map[string]float64, error) {
	opened, err := opening(t.Out)
	if err != nil {
		return nil, err
	}
	cache, err := index.OpenCache(t.Out)
	if err != nil {
		return nil, err
	}
	defer func() { _ = cache.Close() }()
	said := map[string]float64{"open": opened.Seconds(), "chunks": float64(cache.Len())}
	for name, base := range map[string]uint64{"hits": 0, "misses": 1 << 40} {
		n, found, start := 0, 0, time.Now()
		for time.Since(start) < readTime {
			for range 256 {
				at := uint64(n) * 7_368_787 % uint64(t.Bytes)
				if len(cache.Lookup(fakeName(base+at))) > 0 {
					found++
				}
				n++
			}
		}
		said[name] = float64(n) / time.Since(start).Seconds()
		said[name+"Found"] = float64(found) / float64(n)
	}
	if said["hitsFound"] != 1 {
		return nil, fmt.Errorf("only %.4f of the chunks were found", said["hitsFound"])
	}
	if err := cache.Err(); err != nil {
		return nil, err
	}
	return said, ctx.Err()
}
