package vault_test

import (
	"bytes"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/blob/fault"
	"github.com/backstay/backstay/internal/blob/replica"
	"github.com/backstay/backstay/internal/tier"
	"github.com/backstay/backstay/internal/tier/vault"
)

// world1 is the seed of the first random world, runs how many there are.
var world1 = flag.Uint64("world", 0, "seed of the first world of TestDisksOfAnyKindKeepTheirBytes; 0: random")

var runs = flag.Int("worlds", 6, "random worlds for TestDisksOfAnyKindKeepTheirBytes")

// thin is a disk of any size of which only the units that are not zeros take
// memory.
type thin struct {
	size  int64
	units map[int64][]byte
	step  int64 // of its extents
}

func (d *thin) Size() int64  { return d.size }
func (d *thin) Close() error { return nil }

func (d *thin) ReadAt(b []byte, offset int64) (int, error) {
	for done := 0; done < len(b); {
		at := offset + int64(done)
		part := b[done:]
		part = part[:min(int64(len(part)), unit-at%unit)]
		if u, ok := d.units[at/unit]; ok {
			copy(part, u[at%unit:])
		} else {
			clear(part)
		}
		done += len(part)
	}
	return len(b), nil
}

func (d *thin) zero(at, length int64) bool {
	u, ok := d.units[at/unit]
	return !ok || !slices.ContainsFunc(u[at%unit:][:length], func(x byte) bool { return x != 0 })
}

func (d *thin) Extents(offset, length int64) ([]tier.Extent, error) {
	var out []tier.Extent
	for at := offset; at < offset+length; {
		n := min(d.step-at%d.step, offset+length-at)
		if d.units[at/unit] == nil { // the whole hole at once
			n = min(unit-at%unit, offset+length-at)
		}
		z := d.zero(at, n)
		if k := len(out); k > 0 && out[k-1].Zero == z {
			out[k-1].Length += n
		} else {
			out = append(out, tier.Extent{Range: backstay.Range{Offset: at, Length: n}, Zero: z})
		}
		at += n
	}
	return out, nil
}

func (d *thin) clone() *thin {
	c := &thin{size: d.size, units: maps.Clone(d.units), step: d.step}
	return c
}

// set changes bytes and returns the range; content repeats itself, within a disk
// and between disks, or does not compress, or is zeros.
func (d *thin) set(r *rand.Rand) backstay.Range {
	if d.size == 0 {
		return backstay.Range{}
	}
	from := r.Int64N(d.size)
	if near := r.IntN(4); near == 0 { // around a page's or a window's border, or the end
		border := []int64{256 << 20, 2 << 20, d.size, 1 << 20}[r.IntN(4)]
		from = max(0, min(d.size-1, border-int64(r.IntN(20000))))
	}
	length := min(d.size-from, int64(1+r.IntN([]int{1, 600, 5000, 40_000, 3 << 20}[r.IntN(5)])))
	kind, seed := r.IntN(4), uint64(r.IntN(5))
	if kind == 0 {
		seed = r.Uint64()
	}
	noise := rand.New(rand.NewPCG(seed, 7))
	for at := from; at < from+length; {
		n := min(unit-at%unit, from+length-at)
		u := bytes.Clone(d.units[at/unit])
		if u == nil {
			u = make([]byte, unit)
		}
		part := u[at%unit:][:n]
		switch kind {
		case 3:
			clear(part)
		case 2:
			for i := range part {
				part[i] = "row of a table "[i%15] + byte(seed)
			}
		default:
			for i := range part {
				part[i] = byte(noise.Uint32())
			}
		}
		d.units[at/unit] = u
		at += n
	}
	return backstay.Range{Offset: from, Length: length}
}

// resize cuts or grows the disk.
func (d *thin) resize(size int64) {
	d.size = size
	for u, b := range d.units {
		switch {
		case u*unit >= size:
			delete(d.units, u)
		case (u+1)*unit > size:
			b = bytes.Clone(b)
			clear(b[size-u*unit:])
			d.units[u] = b
		}
	}
}

var oddSizes = []int64{0, 1, 511, 512, 4095, 4096, 4097, 2 << 20, 2<<20 + 1, 256 << 20, 256<<20 + 512, 256<<20 - 4096, 300 << 20, 3<<20 + 77}

// taken is a point with its disks as they were.
type taken struct {
	disks  map[backstay.DiskTarget]*thin
	counts map[backstay.DiskTarget]int // of the changes that are in it
}

// zoo is a vault with disks of odd kinds.
type zoo struct {
	*world
	r      *rand.Rand
	disks  map[backstay.DiskTarget]*thin
	log    map[backstay.DiskTarget][]backstay.Range // every change there was
	points map[backstay.PointID]taken
}

func newZoo(t *testing.T, seed uint64) *zoo {
	z := &zoo{world: newWorld(t), r: rand.New(rand.NewPCG(seed, 99)), disks: map[backstay.DiskTarget]*thin{}, log: map[backstay.DiskTarget][]backstay.Range{}, points: map[backstay.PointID]taken{}}
	for i := range 1 + z.r.IntN(3) {
		z.disks[backstay.DiskTarget(fmt.Sprint("vd", string(rune('a'+i))))] = &thin{
			size: oddSizes[z.r.IntN(len(oddSizes))], units: map[int64][]byte{}, step: []int64{512, 4096}[z.r.IntN(2)]}
	}
	z.change(20)
	return z
}

func (z *zoo) change(n int) {
	for target, d := range z.disks {
		for range z.r.IntN(n + 1) {
			z.log[target] = append(z.log[target], d.set(z.r))
		}
		if z.r.IntN(12) == 0 {
			d.resize(oddSizes[z.r.IntN(len(oddSizes))])
			z.log[target] = append(z.log[target], backstay.Range{Length: d.size})
		}
	}
}

// snapshot is what a point is to hold, with how many changes it has.
func (z *zoo) snapshot() taken {
	now := taken{disks: map[backstay.DiskTarget]*thin{}, counts: map[backstay.DiskTarget]int{}}
	for target, d := range z.disks {
		now.disks[target], now.counts[target] = d.clone(), len(z.log[target])
	}
	return now
}

// transfer is one attempt, which may be cut off, or be at work while others are:
// between is what happens meanwhile.
func (z *zoo) transfer(v *vault.Vault, o vault.WriteOptions, now taken, between func()) error {
	changed := map[backstay.DiskTarget][]backstay.Range{}
	if p, ok := z.points[o.Parent]; ok {
		for target := range now.disks {
			changed[target] = slices.Clone(z.log[target][p.counts[target]:now.counts[target]])
		}
	}
	w, err := v.Begin(z.ctx, o)
	if err != nil {
		return err
	}
	defer w.Abort()
	mapped := z.r.IntN(3) > 0
	for target, d := range now.disks {
		between()
		_, err := w.WriteDisk(z.ctx, vault.DiskSource{Target: target, Format: "raw", Image: d, Changed: changed[target], HasMap: mapped && o.Parent != ""})
		if err != nil {
			return err
		}
	}
	between()
	_, err = w.Commit(z.ctx, facts(o.Point), definition)
	return err
}

func (z *zoo) any() backstay.PointID {
	if len(z.points) == 0 || z.r.IntN(8) == 0 {
		return ""
	}
	ids := slices.Sorted(maps.Keys(z.points))
	if z.r.IntN(2) == 0 {
		return ids[len(ids)-1]
	}
	return ids[z.r.IntN(len(ids))]
}

func (z *zoo) step() {
	t := z.t
	t.Helper()
	z.change(8)
	o := vault.WriteOptions{Point: newID(), Parent: z.any()}
	var packs []string
	o.OnPack = func(id string) { packs = append(packs, id) }
	now, v := z.snapshot(), z.vault
	if z.r.IntN(3) == 0 {
		v = z.open(z.store)
	}
	broken := z.r.IntN(4) == 0
	if broken {
		f := &fault.Fault{Kind: []fault.Kind{fault.Fail, fault.FailLate, fault.Cut, fault.Corrupt}[z.r.IntN(4)], Nth: 1 + z.r.IntN(6), Onwards: z.r.IntN(2) == 0}
		stores := []blob.Store{z.copies[0], z.copies[1], z.copies[2]}
		n := z.r.IntN(3)
		stores[n] = fault.Wrap(stores[n], f)
		v = z.open(replica.New(stores...))
	}
	err := z.transfer(v, o, now, func() {
		switch z.r.IntN(6) {
		case 0:
			z.drop()
		case 1:
			z.sweep()
		case 2:
			z.another()
		}
	})
	for tries := 0; err != nil && !backstay.IsCode(err, backstay.CodeExists); tries++ {
		if !broken && !backstay.IsCode(err, backstay.CodeConflict) || tries > 3 {
			t.Fatal(err)
		}
		broken = true
		o.Packs = packs
		if z.points[o.Parent].disks == nil {
			o.Parent = "" // it was dropped
		}
		err = z.transfer(z.open(z.store), o, now, func() {})
	}
	z.points[o.Point] = now
	if z.r.IntN(3) == 0 {
		z.drop()
	}
	if z.r.IntN(3) == 0 {
		z.sweep()
	}
}

// another is a transfer of a later point while one is at work.
func (z *zoo) another() {
	z.t.Helper()
	z.change(4)
	now, o := z.snapshot(), vault.WriteOptions{Point: newID(), Parent: z.any()}
	z.must(z.transfer(z.open(z.store), o, now, func() {}))
	z.points[o.Point] = now
}

func (z *zoo) drop() {
	if len(z.points) < 2 {
		return
	}
	id := z.any()
	if id == "" {
		return
	}
	z.must(z.vault.DropPoint(z.ctx, id, created))
	delete(z.points, id)
}

func (z *zoo) sweep() {
	o := vault.ReclaimOptions{LiveFraction: []float64{0.2, 0.6, 0.99}[z.r.IntN(3)], Now: created, NoRepack: z.r.IntN(3) == 0}
	_, err := z.world.reclaimAll(z.open(z.store), o)
	z.must(err)
}

// check restores every point in both ways.
func (z *zoo) check(v *vault.Vault) {
	z.t.Helper()
	for id, p := range z.points {
		opened, err := v.OpenPoint(z.ctx, id)
		z.must(err)
		for target, want := range p.disks {
			img, err := opened.Disk(z.ctx, target)
			z.must(err)
			z.compare(fmt.Sprintf("disk %s of %d bytes of point %s", target, want.size, id), img, want)
		}
	}
}

func (z *zoo) compare(what string, img tier.Image, want *thin) {
	z.t.Helper()
	if img.Size() != want.size {
		z.t.Fatalf("%s: restored with %d", what, img.Size())
	}
	got := &thin{size: want.size, units: map[int64][]byte{}}
	var mu sync.Mutex
	z.must(img.(vault.BulkReader).Chunks(z.ctx, 2, func(offset int64, data []byte) error {
		mu.Lock()
		defer mu.Unlock()
		if offset%unit != 0 || offset+int64(len(data)) > want.size {
			return fmt.Errorf("%d bytes at %d", len(data), offset)
		}
		for len(data) > 0 {
			u := make([]byte, unit)
			n := copy(u, data)
			if got.units[offset/unit] != nil {
				return fmt.Errorf("unit %d twice", offset/unit)
			}
			got.units[offset/unit] = u
			data, offset = data[n:], offset+int64(n)
		}
		return nil
	}))
	for u := int64(0); u*unit < want.size; u++ {
		a, b := got.units[u], want.units[u]
		if a == nil && b == nil {
			continue
		}
		x, y := make([]byte, unit), make([]byte, unit)
		copy(x, a)
		copy(y, b)
		if !bytes.Equal(x, y) {
			z.t.Fatalf("%s: other bytes in unit %d", what, u)
		}
		if u%7 == 0 {
			n := min(unit, want.size-u*unit)
			if _, err := img.ReadAt(x[:n], u*unit); err != nil || !bytes.Equal(x[:n], y[:n]) {
				z.t.Fatalf("%s: unit %d is read otherwise: %v", what, u, err)
			}
		}
	}
}

// TestDisksOfAnyKindKeepTheirBytes carries disks of odd sizes through transfers
// that build on any older point, with or without a map, that are cut off and go
// on, while points are dropped and reclaimed.
func TestDisksOfAnyKindKeepTheirBytes(t *testing.T) {
	first := *world1
	if first == 0 {
		first = rand.Uint64()
	}
	for n := range *runs {
		t.Run(fmt.Sprint("seed ", first+uint64(n)), func(t *testing.T) {
			z := newZoo(t, first+uint64(n))
			for range 6 {
				z.step()
				z.check(z.vault)
			}
			z.check(z.open(z.store))
		})
	}
}
