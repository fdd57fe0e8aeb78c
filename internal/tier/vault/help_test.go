package vault_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/blob/mem"
	"github.com/backstay/backstay/internal/blob/replica"
	"github.com/backstay/backstay/internal/tier"
	"github.com/backstay/backstay/internal/tier/vault"
)

const (
	unit    = 4096
	vaultID = "6f1d3c1e-8f0a-4a53-9c7b-0d6f0e5a7b11"
)

var created = time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)

// disk is a source in memory that counts what is read of it.
type disk struct {
	data []byte
	read atomic.Int64
	fail error
}

func (d *disk) ReadAt(b []byte, offset int64) (int, error) {
	if d.fail != nil {
		return 0, d.fail
	}
	n := copy(b, d.data[offset:])
	d.read.Add(int64(n))
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}
func (d *disk) Close() error { return nil }
func (d *disk) Size() int64  { return int64(len(d.data)) }

// Extents tells zeros from data in steps of 512 bytes: finer than a unit, as a
// raw file may.
func (d *disk) Extents(offset, length int64) ([]tier.Extent, error) {
	var out []tier.Extent
	zero := make([]byte, 512)
	for at := offset; at < offset+length; {
		n := min(512, offset+length-at)
		z := bytes.Equal(d.data[at:at+n], zero[:n])
		if k := len(out); k > 0 && out[k-1].Zero == z {
			out[k-1].Length += n
		} else {
			out = append(out, tier.Extent{Range: backstay.Range{Offset: at, Length: n}, Zero: z})
		}
		at += n
	}
	return out, nil
}

// sparse makes a disk of zeros with some runs of content, some of which
// compress.
func sparse(seed uint64, size int) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	data := make([]byte, size)
	for range 2 + size/(512<<10) {
		from := r.IntN(size)
		run := data[from:min(size, from+r.IntN(600<<10))]
		scribble(r, run)
	}
	return data
}

func scribble(r *rand.Rand, b []byte) {
	if r.IntN(2) == 0 {
		for i := range b {
			b[i] = byte(r.IntN(256))
		}
		return
	}
	for i := range b {
		b[i] = "backstay "[i%9] + byte(i>>14)
	}
}

// change writes n small runs and returns their ranges.
func change(seed uint64, data []byte, n int) []backstay.Range {
	r := rand.New(rand.NewPCG(seed, 2))
	var ranges []backstay.Range
	for range n {
		from := r.IntN(len(data))
		b := data[from:min(len(data), from+1+r.IntN(20000))]
		if r.IntN(5) == 0 {
			clear(b)
		} else {
			scribble(r, b)
		}
		ranges = append(ranges, backstay.Range{Offset: int64(from), Length: int64(len(b))})
	}
	return ranges
}

// world is a vault on three copies in memory.
type world struct {
	t      testing.TB
	ctx    context.Context
	copies []*mem.Store
	store  blob.Store
	master backstay.Secret
	owner  backstay.Secret
	vault  *vault.Vault
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, ctx: t.Context()}
	for range 3 {
		w.copies = append(w.copies, mem.New())
	}
	w.store = replica.New(w.copies[0], w.copies[1], w.copies[2])
	identity, recipient, err := vault.NewIdentity()
	w.must(err)
	w.owner = identity
	w.master, err = vault.Create(w.ctx, w.store, vault.CreateOptions{ID: vaultID, Name: "main", Redundancy: backstay.LRS,
		Recipients: vault.Recipients(backstay.ForRecovery, recipient), Created: created})
	w.must(err)
	w.vault = w.open(w.store)
	return w
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) open(s blob.Store) *vault.Vault {
	w.t.Helper()
	v, err := vault.Open(w.ctx, s, vaultID, w.master)
	w.must(err)
	return v
}

var ids struct {
	sync.Mutex
	n uint64
}

// newID returns point ids in ascending order.
func newID() backstay.PointID {
	ids.Lock()
	defer ids.Unlock()
	ids.n++
	var u ulid.ULID
	_ = u.SetTime(uint64(created.UnixMilli()) + ids.n)
	return backstay.PointID(u.String())
}

// source is one disk for a backup.
type source struct {
	target  backstay.DiskTarget
	disk    *disk
	changed []backstay.Range
	mapped  bool
}

func facts(id backstay.PointID) backstay.RecoveryPoint {
	return backstay.RecoveryPoint{ID: id, Time: created, Vault: "main", Consistency: backstay.CrashConsistent,
		VM: backstay.VMRef{Name: "web01", UUID: "0c3e1c58-20b7-4bd1-9a0b-b6b9b5a6e0a1", Host: "h1"}}
}

var definition = tier.Definition{LiveXML: "<domain>live</domain>", InactiveXML: "<domain/>", NVRAM: []byte{1, 2, 3}, TPM: map[string][]byte{"tpm2/state": {9}}}

// backup writes a point and returns what was said of its disks.
func backup(ctx context.Context, v *vault.Vault, o vault.WriteOptions, disks ...source) ([]vault.DiskStats, error) {
	w, err := v.Begin(ctx, o)
	if err != nil {
		return nil, err
	}
	defer w.Abort()
	var all []vault.DiskStats
	for _, d := range disks {
		stats, err := w.WriteDisk(ctx, vault.DiskSource{Target: d.target, Format: "qcow2", Image: d.disk, Changed: d.changed, HasMap: d.mapped})
		if err != nil {
			return all, err
		}
		all = append(all, stats)
	}
	_, err = w.Commit(ctx, facts(o.Point), definition)
	return all, err
}

func (w *world) backup(o vault.WriteOptions, disks ...source) []vault.DiskStats {
	w.t.Helper()
	all, err := backup(w.ctx, w.vault, o, disks...)
	w.must(err)
	return all
}

// restore reads a disk in both ways and demands that they agree.
func restore(ctx context.Context, v *vault.Vault, id backstay.PointID, target backstay.DiskTarget) ([]byte, error) {
	p, err := v.OpenPoint(ctx, id)
	if err != nil {
		return nil, err
	}
	img, err := p.Disk(ctx, target)
	if err != nil {
		return nil, err
	}
	bulk := make([]byte, img.Size())
	var mu sync.Mutex
	err = img.(vault.BulkReader).Chunks(ctx, 3, func(offset int64, data []byte) error {
		mu.Lock()
		defer mu.Unlock()
		for i := offset; i < offset+int64(len(data)); i++ {
			if bulk[i] != 0 {
				return fmt.Errorf("byte %d is written twice", i)
			}
		}
		copy(bulk[offset:], data)
		return nil
	})
	if err != nil {
		return nil, err
	}
	whole := make([]byte, img.Size())
	for at := 0; at < len(whole); at += 700_001 {
		b := whole[at:min(len(whole), at+700_001)]
		if _, err := img.ReadAt(b, int64(at)); err != nil {
			return nil, err
		}
	}
	if !bytes.Equal(bulk, whole) {
		return nil, fmt.Errorf("the two ways of reading differ")
	}
	return whole, nil
}

func (w *world) restored(v *vault.Vault, id backstay.PointID, target backstay.DiskTarget, want []byte) {
	w.t.Helper()
	got, err := restore(w.ctx, v, id, target)
	w.must(err)
	if !bytes.Equal(got, want) {
		w.t.Fatalf("disk %s of point %s is not what was backed up", target, id)
	}
}

// objects lists the objects of one copy with a prefix.
func (w *world) objects(prefix string) []string {
	w.t.Helper()
	var names []string
	w.must(w.copies[0].List(w.ctx, prefix, func(i blob.Info) error {
		names = append(names, i.Name)
		return nil
	}))
	return names
}

func (w *world) get(copy int, name string) []byte {
	w.t.Helper()
	data, err := w.copies[copy].Get(w.ctx, name, 0, -1)
	w.must(err)
	return data
}
