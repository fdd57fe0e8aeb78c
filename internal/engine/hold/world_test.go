package hold_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
	"lukechampine.com/blake3"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/blob/mem"
	"github.com/backstay/backstay/internal/blob/replica"
	"github.com/backstay/backstay/internal/catalog"
	"github.com/backstay/backstay/internal/catalog/sqlite"
	"github.com/backstay/backstay/internal/engine/hold"
	"github.com/backstay/backstay/internal/pair"
	"github.com/backstay/backstay/internal/tier"
	"github.com/backstay/backstay/internal/tier/vault"
)

const homeID = "6f1d3c1e-8f0a-4a53-9c7b-0d6f0e5a7b11"

var day = time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)

// image is a disk in memory, all of it data.
type image []byte

func (m image) ReadAt(b []byte, at int64) (int, error) {
	n := copy(b, m[at:])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}
func (m image) Close() error { return nil }
func (m image) Size() int64  { return int64(len(m)) }
func (m image) Extents(at, length int64) ([]tier.Extent, error) {
	return []tier.Extent{{Range: backstay.Range{Offset: at, Length: length}}}, nil
}

// home is a vault in another region.
type home struct {
	t      *testing.T
	store  *mem.Store
	key    backstay.Secret
	vault  *vault.Vault
	points map[backstay.PointID][]byte // with what a restore must give
}

func newHome(t *testing.T) *home {
	t.Helper()
	h := &home{t: t, store: mem.New(), points: map[backstay.PointID][]byte{}}
	_, recipient, err := vault.NewIdentity()
	must(t, err)
	h.key, err = vault.Create(t.Context(), h.store, vault.CreateOptions{ID: homeID, Name: "main", Redundancy: backstay.LRS,
		Recipients: vault.Recipients(backstay.ForRecovery, recipient), Created: day})
	must(t, err)
	h.vault, err = vault.Open(t.Context(), h.store, homeID, h.key)
	must(t, err)
	return h
}

// backup commits a point of a VM, taken at a time.
func (h *home) backup(vm string, taken time.Time) backstay.PointID {
	h.t.Helper()
	var u ulid.ULID
	must(h.t, u.SetTime(uint64(taken.UnixMilli())))
	u[15] = byte(len(h.points))
	id := backstay.PointID(u.String())
	data := make([]byte, 256<<10)
	r := rand.New(rand.NewPCG(uint64(len(h.points)), 7))
	for i := range data {
		data[i] = byte(r.IntN(256))
	}
	w, err := h.vault.Begin(h.t.Context(), vault.WriteOptions{Point: id})
	must(h.t, err)
	_, err = w.WriteDisk(h.t.Context(), vault.DiskSource{Target: "vda", Format: "raw", Image: image(data)})
	must(h.t, err)
	_, err = w.Commit(h.t.Context(), backstay.RecoveryPoint{ID: id, Time: taken, Vault: "main",
		VM: backstay.VMRef{Name: vm, UUID: backstay.VMID(vm), Host: "h1"}}, tier.Definition{LiveXML: "<domain/>"})
	must(h.t, err)
	h.points[id] = data
	return id
}

func (h *home) offer() pair.Offer {
	h.t.Helper()
	head, err := h.vault.Head(h.t.Context())
	must(h.t, err)
	return pair.Offer{ID: homeID, Name: "main", Created: day, Head: head}
}

func (h *home) object(name string) (pair.Object, []byte) {
	h.t.Helper()
	data, err := h.store.Get(h.t.Context(), name, 0, -1)
	must(h.t, err)
	return pair.Object{Name: name, Size: int64(len(data)), Sum: blake3.Sum256(data)}, data
}

func (h *home) names(prefix string) []string {
	h.t.Helper()
	var names []string
	must(h.t, h.store.List(h.t.Context(), prefix, func(i blob.Info) error {
		names = append(names, i.Name)
		return nil
	}))
	return names
}

// push pushes what a holder lacks of the points, in the order in which it is done.
func (h *home) push(to pair.Holder, points ...backstay.PointID) error {
	ctx := h.t.Context()
	held, err := to.Offer(ctx, h.offer())
	if err != nil {
		return err
	}
	for _, prefix := range []string{"keys/", "vault.json", "headers/", "moved/", "packs/", "indexes/"} {
		for _, name := range h.names(prefix) {
			if err := h.put(ctx, to, name); err != nil {
				return err
			}
		}
	}
	for _, id := range points {
		if _, ok := held.Available[id]; ok {
			continue
		}
		_, manifest := h.object("points/" + string(id))
		if err := to.Complete(ctx, homeID, id, manifest); err != nil {
			return err
		}
	}
	for _, name := range h.names("chain/") {
		if err := h.put(ctx, to, name); err != nil {
			return err
		}
	}
	return nil
}

func (h *home) put(ctx context.Context, to pair.Holder, name string) error {
	o, data := h.object(name)
	lacks, err := to.Lacks(ctx, homeID, []pair.Object{{Name: name}})
	if err != nil || len(lacks) == 0 {
		return err
	}
	return to.Put(ctx, homeID, o, bytes.NewReader(data))
}

// place is the region that holds: its units, its catalogue, and one life of its
// server.
type place struct {
	t       *testing.T
	units   []*mem.Store
	catalog *catalog.Catalog
	now     time.Time
	quota   int64
	use     map[backstay.PointID]string
	keeper  *hold.Keeper
	life    *life
}

// life lets a number of changes through and then nothing at all, as a process that
// is killed; a negative number is one without an end.
type life struct {
	mu   sync.Mutex
	left int
}

var errKilled = errors.New("killed")

func (l *life) change() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.left == 0 {
		return errKilled
	}
	l.left--
	return nil
}

func newPlace(t *testing.T) *place {
	t.Helper()
	c, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "catalogue"))
	must(t, err)
	t.Cleanup(func() { must(t, c.Close()) })
	p := &place{t: t, catalog: c, now: day.Add(time.Hour), use: map[backstay.PointID]string{}, units: []*mem.Store{mem.New(), mem.New(), mem.New()}}
	p.live(-1)
	return p
}

// live begins another life of the server, which ends with the n-th change.
func (p *place) live(n int) {
	l := &life{left: n}
	c := *p.catalog
	c.Vaults, c.Points, c.Held = dyingVaults{c.Vaults, l}, dyingPoints{c.Points, l}, dyingHeld{c.Held, l}
	p.life = l
	p.keeper = hold.New(hold.Options{
		Catalog: &c, Now: func() time.Time { return p.now },
		Make: func(_ context.Context, entry backstay.Vault) (backstay.Vault, error) {
			for i := range p.units {
				entry.Units = append(entry.Units, backstay.StorageUnit{URL: fmt.Sprintf("mem://%s-%d", entry.ID, i), State: "ok"})
			}
			return entry, l.change()
		},
		Open: func(context.Context, backstay.Vault) (hold.Vault, error) {
			var copies []blob.Store
			for _, u := range p.units {
				copies = append(copies, dyingStore{u, l})
			}
			r, err := vault.NewReplica(replica.New(copies...), homeID)
			return adapter{r}, err
		},
		Change: func(ctx context.Context, name backstay.VaultName, change func(*backstay.Vault) bool) error {
			entry, err := c.Vaults.Vault(ctx, name)
			if err != nil || !change(&entry) {
				return err
			}
			return c.Vaults.UpdateVault(ctx, entry)
		},
		Record: func(ctx context.Context, entry backstay.Vault, point hold.Point) error {
			return c.Points.PutPoint(ctx, backstay.RecoveryPoint{ID: point.ID, Vault: entry.Name, Time: point.Time, VM: backstay.VMRef{UUID: "u", Name: "n", Host: "h1@west"}})
		},
		InUse: func(_ context.Context, id backstay.PointID) (string, error) { return p.use[id], nil },
		Quota: func(backstay.RegionName) int64 { return p.quota },
	})
}

func (p *place) from(region backstay.RegionName) pair.Holder { return p.keeper.For(region) }

// check demands that what this region offers is whole, and exactly these points if
// any are named.
func (p *place) check(h *home, want ...backstay.PointID) {
	p.t.Helper()
	points, err := p.catalog.Points.ListPoints(p.t.Context(), "")
	must(p.t, err)
	held, err := p.catalog.Held.ListHeld(p.t.Context(), "main@west")
	must(p.t, err)
	offered := map[backstay.PointID]bool{}
	for _, point := range held {
		if point.Gone == nil {
			offered[point.Point] = true
		}
	}
	for _, point := range points {
		if !offered[point.ID] {
			p.t.Errorf("point %s is listed and not held", point.ID)
		}
	}
	for id := range offered {
		p.restores(h, id)
	}
	// Whoever opens the units themselves sees whole points only, too.
	for _, i := range p.manifests() {
		p.restores(h, i)
	}
	if len(want) > 0 && len(offered) != len(want) {
		p.t.Errorf("%d points are held, want %d", len(offered), len(want))
	}
	for _, id := range want {
		if !offered[id] {
			p.t.Errorf("point %s is not held", id)
		}
	}
}

func (p *place) manifests() []backstay.PointID {
	p.t.Helper()
	seen := map[string]bool{}
	for _, u := range p.units {
		must(p.t, u.List(p.t.Context(), "points/", func(i blob.Info) error {
			seen[strings.TrimPrefix(i.Name, "points/")] = true
			return nil
		}))
	}
	var ids []backstay.PointID
	for id := range seen {
		ids = append(ids, backstay.PointID(id))
	}
	return ids
}

// restores reads a point with the vault's key out of this region's units.
func (p *place) restores(h *home, id backstay.PointID) {
	p.t.Helper()
	v, err := vault.Open(p.t.Context(), replica.New(p.units[0], p.units[1], p.units[2]), homeID, h.key, vault.AsReplica())
	must(p.t, err)
	point, err := v.OpenPoint(p.t.Context(), id)
	must(p.t, err)
	disk, err := point.Disk(p.t.Context(), "vda")
	must(p.t, err)
	got := make([]byte, disk.Size())
	_, err = disk.ReadAt(got, 0)
	must(p.t, err)
	if !bytes.Equal(got, h.points[id]) {
		p.t.Errorf("point %s restores to something else", id)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantCode(t *testing.T, err error, code backstay.Code) {
	t.Helper()
	if !backstay.IsCode(err, code) {
		t.Fatalf("error is %v, want %s", err, code)
	}
}

// dyingStore, dyingVaults, dyingPoints and dyingHeld change nothing once the life
// of their process is over.
type dyingStore struct {
	blob.Store
	l *life
}

func (s dyingStore) Put(ctx context.Context, name string, data []byte) error {
	if err := s.l.change(); err != nil {
		return err
	}
	return s.Store.Put(ctx, name, data)
}

func (s dyingStore) Delete(ctx context.Context, name string) error {
	if err := s.l.change(); err != nil {
		return err
	}
	return s.Store.Delete(ctx, name)
}

type dyingVaults struct {
	catalog.Vaults
	l *life
}

func (s dyingVaults) CreateVault(ctx context.Context, v backstay.Vault) error {
	if err := s.l.change(); err != nil {
		return err
	}
	return s.Vaults.CreateVault(ctx, v)
}

func (s dyingVaults) UpdateVault(ctx context.Context, v backstay.Vault) error {
	if err := s.l.change(); err != nil {
		return err
	}
	return s.Vaults.UpdateVault(ctx, v)
}

type dyingPoints struct {
	catalog.Points
	l *life
}

func (s dyingPoints) PutPoint(ctx context.Context, p backstay.RecoveryPoint) error {
	if err := s.l.change(); err != nil {
		return err
	}
	return s.Points.PutPoint(ctx, p)
}

func (s dyingPoints) DeletePoint(ctx context.Context, id backstay.PointID) error {
	if err := s.l.change(); err != nil {
		return err
	}
	return s.Points.DeletePoint(ctx, id)
}

type dyingHeld struct {
	catalog.Held
	l *life
}

func (s dyingHeld) PutHeld(ctx context.Context, h catalog.HeldPoint) error {
	if err := s.l.change(); err != nil {
		return err
	}
	return s.Held.PutHeld(ctx, h)
}

// adapter shows a replica's units as the engine wants to see them.
type adapter struct{ *vault.Replica }

func (v adapter) Lacks(ctx context.Context, objects []pair.Object) ([]string, error) {
	var asked []vault.ReplicaObject
	for _, o := range objects {
		asked = append(asked, vault.ReplicaObject(o))
	}
	return v.Replica.Lacks(ctx, asked)
}

func (v adapter) Put(ctx context.Context, o pair.Object, data []byte) (int64, error) {
	return v.Replica.Put(ctx, vault.ReplicaObject(o), data)
}

func (v adapter) Complete(ctx context.Context, id backstay.PointID, manifest []byte) (hold.Point, int64, error) {
	p, grown, err := v.Replica.Complete(ctx, id, manifest)
	return hold.Point{ID: p.Point, Item: p.Item, Time: p.Time, Root: p.Root, Packs: p.Packs}, grown, err
}

func (v adapter) List(ctx context.Context, fn func(pair.Object) error) error {
	return v.Replica.List(ctx, func(o vault.ReplicaObject) error { return fn(pair.Object(o)) })
}

func (v adapter) Sweep(ctx context.Context, o hold.SweepOptions) (hold.Swept, error) {
	swept, err := v.Replica.Sweep(ctx, vault.SweepOptions(o))
	return hold.Swept(swept), err
}
