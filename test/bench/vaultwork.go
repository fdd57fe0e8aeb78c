package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/oklog/ulid/v2"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/blob/file"
	"github.com/backstay/backstay/internal/blob/replica"
	"github.com/backstay/backstay/internal/hypervisor"
	"github.com/backstay/backstay/internal/hypervisor/qemu"
	"github.com/backstay/backstay/internal/nbd"
	"github.com/backstay/backstay/internal/tier"
	"github.com/backstay/backstay/internal/tier/raw"
	"github.com/backstay/backstay/internal/tier/vault"
)

// benchVault is what a worker leaves to the next one beside a vault's storage
// units. The key lies there in the clear: the vault holds nothing but this
// machine's own files.
type benchVault struct {
	ID     string                      `json:"id"`
	Master []byte                      `json:"master"`
	Copies int                         `json:"copies"`
	Points map[string]backstay.PointID `json:"points"`
}

func (v *benchVault) save(dir string) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "bench.json"), data, 0o600)
}

func loadVault(dir string) (*benchVault, error) {
	data, err := os.ReadFile(filepath.Join(dir, "bench.json"))
	if err != nil {
		return nil, err
	}
	var v benchVault
	return &v, json.Unmarshal(data, &v)
}

func unitDir(dir string, i int) string { return filepath.Join(dir, fmt.Sprintf("unit%d", i+1)) }

// metered counts what a storage unit is asked for.
type metered struct {
	blob.Store
	puts, gets, others  atomic.Int64
	putBytes, readBytes atomic.Int64
	kinds               sync.Map // *atomic.Int64 by folder: requests
}

// note counts a request for an object, or for a list of them.
func (m *metered) note(name string) {
	kind, _, _ := strings.Cut(name, "/")
	n, ok := m.kinds.Load(kind)
	if !ok {
		n, _ = m.kinds.LoadOrStore(kind, new(atomic.Int64))
	}
	n.(*atomic.Int64).Add(1)
}

// byKind returns the requests so far, by folder.
func (m *metered) byKind() map[string]int64 {
	counts := map[string]int64{}
	m.kinds.Range(func(kind, n any) bool {
		counts[kind.(string)] = n.(*atomic.Int64).Load()
		return true
	})
	return counts
}

func (m *metered) Put(ctx context.Context, name string, data []byte) error {
	m.note(name)
	m.puts.Add(1)
	m.putBytes.Add(int64(len(data)))
	return m.Store.Put(ctx, name, data)
}

func (m *metered) Get(ctx context.Context, name string, offset, length int64) ([]byte, error) {
	m.note(name)
	m.gets.Add(1)
	data, err := m.Store.Get(ctx, name, offset, length)
	m.readBytes.Add(int64(len(data)))
	return data, err
}

func (m *metered) Stat(ctx context.Context, name string) (blob.Info, error) {
	m.note(name)
	m.others.Add(1)
	return m.Store.Stat(ctx, name)
}

func (m *metered) List(ctx context.Context, prefix string, fn func(blob.Info) error) error {
	m.note(prefix)
	m.others.Add(1)
	return m.Store.List(ctx, prefix, fn)
}

func (m *metered) Delete(ctx context.Context, name string) error {
	m.note(name)
	m.others.Add(1)
	return m.Store.Delete(ctx, name)
}

// requests is the number of all requests so far.
func (m *metered) requests() int64 { return m.puts.Load() + m.gets.Load() + m.others.Load() }

func (m *metered) say(said map[string]float64) {
	said["puts"], said["gets"], said["others"] = float64(m.puts.Load()), float64(m.gets.Load()), float64(m.others.Load())
	said["putBytes"], said["getBytes"] = float64(m.putBytes.Load()), float64(m.readBytes.Load())
}

// units opens a vault's storage units, and the meter of the first one.
func units(dir string, copies int) (blob.Store, *metered) {
	first := &metered{Store: file.New(unitDir(dir, 0))}
	if copies == 1 {
		return first, first
	}
	all := []blob.Store{first}
	for i := 1; i < copies; i++ {
		all = append(all, file.New(unitDir(dir, i)))
	}
	return replica.New(all...), first
}

func createVault(ctx context.Context, t task) (map[string]float64, error) {
	for i := range t.Copies {
		if err := file.Init(unitDir(t.Vault, i)); err != nil {
			return nil, err
		}
	}
	_, recipient, err := vault.NewIdentity()
	if err != nil {
		return nil, err
	}
	v := &benchVault{ID: uuid.NewString(), Copies: t.Copies, Points: map[string]backstay.PointID{}}
	store, _ := units(t.Vault, t.Copies)
	master, err := vault.Create(ctx, store, vault.CreateOptions{ID: v.ID, Name: "bench", Redundancy: backstay.LRS,
		Recipients: vault.Recipients(backstay.ForRecovery, recipient), Created: time.Now()})
	if err != nil {
		return nil, err
	}
	v.Master = master.Reveal()
	return nil, v.save(t.Vault)
}

// open opens the vault of a task.
func (t task) open(ctx context.Context, options ...vault.OpenOption) (*benchVault, *vault.Vault, *metered, error) {
	bv, err := loadVault(t.Vault)
	if err != nil {
		return nil, nil, nil, err
	}
	store, meter := units(t.Vault, bv.Copies)
	v, err := vault.Open(ctx, store, bv.ID, backstay.NewSecret(bv.Master), options...)
	return bv, v, meter, err
}

// source opens what is to be backed up: a raw image, or an overlay by way of
// QEMU's reader together with its change map, as the snapshot tier does.
func (t task) source(ctx context.Context) (d vault.DiskSource, closer func() error, err error) {
	d = vault.DiskSource{Target: "vda", Format: "raw"}
	if t.Ranges != "" {
		if d.Changed, err = loadRanges(t.Ranges); err != nil {
			return d, nil, err
		}
		d.HasMap = true
	}
	if t.Overlay == "" {
		m, err := raw.Open(t.Image)
		if err != nil {
			return d, nil, err
		}
		d.Image = m
		return d, m.Close, nil
	}
	images := qemu.New(qemu.Options{})
	if d.Changed, err = images.Allocated(ctx, hypervisor.Plain(t.Overlay, "qcow2")); err != nil {
		return d, nil, err
	}
	d.HasMap, d.Format = true, "qcow2"
	m, err := exported(ctx, images, t.Overlay, hypervisor.ExportOptions{Format: "qcow2"})
	if err != nil {
		return d, nil, err
	}
	d.Image = m
	return d, m.Close, nil
}

// exportedImage is an image that qemu-nbd serves.
type exportedImage struct {
	*nbd.Client
	ctx    context.Context
	export hypervisor.Export
}

func exported(ctx context.Context, images *qemu.Images, path string, o hypervisor.ExportOptions) (*exportedImage, error) {
	e, err := images.Export(ctx, path, o)
	if err != nil {
		return nil, err
	}
	c, err := nbd.Dial(ctx, e.Socket(), e.Name(), nbd.Options{})
	if err != nil {
		return nil, errors.Join(err, e.Close())
	}
	return &exportedImage{Client: c, ctx: ctx, export: e}, nil
}

func (m *exportedImage) Extents(offset, length int64) ([]tier.Extent, error) {
	status, err := m.BlockStatus(m.ctx, nbd.BaseAllocation, offset, length)
	if err != nil {
		return nil, err
	}
	out := make([]tier.Extent, len(status))
	for i, s := range status {
		out[i] = tier.Extent{Range: backstay.Range{Offset: s.Offset, Length: s.Length}, Zero: s.Flags&nbd.Zero != 0}
	}
	return out, nil
}

func (m *exportedImage) Close() error { return errors.Join(m.Client.Close(), m.export.Close()) }

// backupImage writes one point: the whole of what is measured of a backup.
func backupImage(ctx context.Context, t task) (map[string]float64, error) {
	src, closer, err := t.source(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { _ = closer() }()
	bv, v, meter, err := t.open(ctx)
	if err != nil {
		return nil, err
	}
	id := backstay.PointID(ulid.Make().String())
	w, err := v.Begin(ctx, vault.WriteOptions{Point: id, Parent: bv.Points[t.Parent]})
	if err != nil {
		return nil, err
	}
	defer w.Abort()
	stats, err := w.WriteDisk(ctx, src)
	if err != nil {
		return nil, err
	}
	written := time.Now()
	done, err := w.Commit(ctx, backstay.RecoveryPoint{ID: id, Time: time.Now(), Vault: "bench", Consistency: backstay.CrashConsistent,
		VM: backstay.VMRef{Name: "bench", UUID: "5f0d8c0e-7a0c-4d7c-9c7e-3a3b9f1d2e11", Host: "bench"}}, tier.Definition{InactiveXML: "<domain/>"})
	if err != nil {
		return nil, err
	}
	said := map[string]float64{"commit": time.Since(written).Seconds(), "read": float64(stats.BytesRead), "changed": float64(stats.BytesChanged),
		"new": float64(stats.BytesNew), "chunks": float64(stats.ChunksNew), "packs": float64(done.Packs), "mapped": 0}
	if stats.Mode == "changed layers" {
		said["mapped"] = 1
	}
	meter.say(said)
	said["added"] = said["putBytes"]
	bv.Points[t.Point] = id
	if err := bv.save(t.Vault); err != nil {
		return nil, err
	}
	stored, err := treeSize(unitDir(t.Vault, 0))
	said["stored"] = float64(stored)
	return said, err
}

// restorePoint writes a point's disk into a sparse raw file.
func restorePoint(ctx context.Context, t task) (map[string]float64, error) {
	bv, v, meter, err := t.open(ctx)
	if err != nil {
		return nil, err
	}
	p, err := v.OpenPoint(ctx, bv.Points[t.Point])
	if err != nil {
		return nil, err
	}
	m, err := p.Disk(ctx, "vda")
	if err != nil {
		return nil, err
	}
	defer func() { _ = m.Close() }()
	bulk, ok := m.(vault.BulkReader)
	if !ok {
		return nil, errors.New("the disk is no bulk reader")
	}
	out, err := raw.Create(t.Out, m.Size())
	if err != nil {
		return nil, err
	}
	var written atomic.Int64
	err = bulk.Chunks(ctx, runtime.GOMAXPROCS(0)+2, func(offset int64, data []byte) error {
		written.Add(int64(len(data)))
		_, err := out.WriteAt(data, offset)
		return err
	})
	if err := errors.Join(err, out.Sync(), out.Close()); err != nil {
		return nil, err
	}
	said := map[string]float64{"written": float64(written.Load())}
	meter.say(said)
	return said, nil
}
