package vault_test

import (
	"bytes"
	"reflect"
	"slices"
	"strings"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/blob/mem"
	"github.com/backstay/backstay/internal/tier/vault"
)

func TestPointRestoresToItsBytes(t *testing.T) {
	w := newWorld(t)
	sizes := map[backstay.DiskTarget]int{"vda": 20 << 20, "vdb": 5<<20 + 512, "vdc": 512, "vdd": 0, "vde": 258 << 20}
	contents := map[backstay.DiskTarget][]byte{}
	var disks []source
	for target, size := range sizes {
		if size > 0 && size < 100<<20 {
			contents[target] = sparse(uint64(size), size)
		} else {
			contents[target] = make([]byte, size)
		}
		disks = append(disks, source{target: target, disk: &disk{data: contents[target]}})
	}
	copy(contents["vde"][257<<20:], sparse(7, 1<<20)) // in the second page
	contents["vdc"][511] = 1
	id := newID()
	w.backup(vault.WriteOptions{Point: id}, disks...)
	v := w.open(w.store)
	for target := range sizes {
		w.restored(v, id, target, contents[target])
	}
	p, err := v.OpenPoint(w.ctx, id)
	w.must(err)
	if !reflect.DeepEqual(p.Definition(), definition) || p.Facts().VM.Name != "web01" || p.Facts().ID != id {
		t.Errorf("facts or definition changed: %+v %+v", p.Facts(), p.Definition())
	}
	headers, err := v.Points(w.ctx)
	w.must(err)
	if len(headers) != 1 || headers[0].Point != id || headers[0].Copies != 3 || headers[0].Damage != nil || !headers[0].Time.Equal(created) {
		t.Errorf("points: %+v", headers)
	}
	if _, err := p.Disk(w.ctx, "vdz"); !backstay.IsCode(err, backstay.CodeUnknownPoint) {
		t.Errorf("disk that is not there: %v", err)
	}
}

func TestImageTellsDataFromZeros(t *testing.T) {
	w := newWorld(t)
	data := sparse(3, 8<<20)
	id := newID()
	w.backup(vault.WriteOptions{Point: id}, source{target: "vda", disk: &disk{data: data}})
	p, err := w.vault.OpenPoint(w.ctx, id)
	w.must(err)
	img, err := p.Disk(w.ctx, "vda")
	w.must(err)
	for _, r := range []backstay.Range{{Offset: 0, Length: 8 << 20}, {Offset: 12345, Length: 3<<20 + 77}, {Offset: 8<<20 - 1, Length: 1}} {
		extents, err := img.Extents(r.Offset, r.Length)
		w.must(err)
		at := r.Offset
		for _, e := range extents {
			if e.Offset != at || e.Length <= 0 {
				t.Fatalf("gap at %d in %+v", at, extents)
			}
			if e.Zero && !bytes.Equal(data[e.Offset:e.End()], make([]byte, e.Length)) {
				t.Errorf("data called zeros: %+v", e)
			}
			at = e.End()
		}
		if at != r.End() {
			t.Errorf("extents end at %d, want %d", at, r.End())
		}
	}
}

func TestIncrementalReadsAndStoresOnlyWhatChanged(t *testing.T) {
	w := newWorld(t)
	data := sparse(1, 24<<20)
	first, second := newID(), newID()
	w.backup(vault.WriteOptions{Point: first}, source{target: "vda", disk: &disk{data: data}})
	before := slices.Clone(data)
	changed := change(2, data, 50)
	d := &disk{data: data}
	stats := w.backup(vault.WriteOptions{Point: second, Parent: first}, source{target: "vda", disk: d, changed: changed, mapped: true})[0]
	var limit int64
	for _, r := range changed {
		limit += r.Length + 2*unit
	}
	if stats.Mode != "changed layers" || d.read.Load() > limit || stats.BytesRead != d.read.Load() || stats.BytesNew > limit+10000 {
		t.Errorf("read %d, at most %d expected: %+v", d.read.Load(), limit, stats)
	}
	v := w.open(w.store)
	w.restored(v, first, "vda", before)
	w.restored(v, second, "vda", data)

	// I3: the parent's going does not touch the child.
	w.must(v.DropPoint(w.ctx, first, created))
	w.must(v.DropPoint(w.ctx, first, created))
	v = w.open(w.store)
	w.restored(v, second, "vda", data)
	if _, err := v.OpenPoint(w.ctx, first); !backstay.IsCode(err, backstay.CodeUnknownPoint) {
		t.Errorf("dropped point: %v", err)
	}
}

func TestWithoutAMapOnlyWhatIsNewIsStored(t *testing.T) {
	w := newWorld(t)
	data := sparse(4, 32<<20)
	parent := newID()
	w.backup(vault.WriteOptions{Point: parent}, source{target: "vda", disk: &disk{data: data}})
	for round := range uint64(4) {
		changed := change(10+round, data, 10)
		id := newID()
		stats := w.backup(vault.WriteOptions{Point: id, Parent: parent}, source{target: "vda", disk: &disk{data: data}})[0]
		var limit int64
		for _, r := range changed {
			limit += r.Length + 2*unit
		}
		if stats.BytesChanged > limit || stats.BytesNew > limit+10000 || !strings.HasPrefix(stats.Mode, "full compare") {
			t.Errorf("round %d: at most %d expected: %+v", round, limit, stats)
		}
		w.restored(w.open(w.store), id, "vda", data)
		parent = id
	}
	stats := w.backup(vault.WriteOptions{Point: newID(), Parent: parent}, source{target: "vda", disk: &disk{data: data}})[0]
	if stats.BytesNew != 0 || stats.BytesChanged != 0 {
		t.Errorf("nothing changed: %+v", stats)
	}
}

func TestSameContentIsStoredOnce(t *testing.T) {
	w := newWorld(t)
	data := sparse(5, 16<<20)
	all := w.backup(vault.WriteOptions{Point: newID()}, source{target: "vda", disk: &disk{data: data}}, source{target: "vdb", disk: &disk{data: data}})
	if all[0].ChunksNew == 0 || all[1].ChunksNew != 0 {
		t.Errorf("two equal disks: %+v", all)
	}
	id := newID()
	again := w.backup(vault.WriteOptions{Point: id}, source{target: "sda", disk: &disk{data: data}})
	if again[0].ChunksNew != 0 || again[0].BytesNew != 0 {
		t.Errorf("another VM's equal disk: %+v", again)
	}
	w.restored(w.open(w.store), id, "sda", data)
}

func TestDoubtfulMapMeansFullCompare(t *testing.T) {
	w := newWorld(t)
	data := sparse(6, 8<<20)
	parent := newID()
	w.backup(vault.WriteOptions{Point: parent}, source{target: "vda", disk: &disk{data: data}})
	grown := append(slices.Clone(data), sparse(8, 1<<20)...)
	for name, c := range map[string]struct {
		parent backstay.PointID
		target backstay.DiskTarget
		data   []byte
	}{
		"unknown parent": {newID(), "vda", data},
		"new disk":       {parent, "vdb", data},
		"grown disk":     {parent, "vda", grown},
		"shrunk disk":    {parent, "vda", data[:5<<20]},
	} {
		id := newID()
		// The map lies: it says that nothing changed.
		stats := w.backup(vault.WriteOptions{Point: id, Parent: c.parent}, source{target: c.target, disk: &disk{data: c.data}, mapped: true})[0]
		if !strings.HasPrefix(stats.Mode, "full compare: ") {
			t.Errorf("%s: mode %q", name, stats.Mode)
		}
		w.restored(w.open(w.store), id, c.target, c.data)
	}
}

func TestOnlyRecipientsOpenAVault(t *testing.T) {
	w := newWorld(t)
	id, master, err := vault.Unwrap(w.ctx, w.store, w.owner)
	w.must(err)
	if id != vaultID || !bytes.Equal(master.Reveal(), w.master.Reveal()) {
		t.Errorf("unwrapped another key")
	}
	stranger, _, err := vault.NewIdentity()
	w.must(err)
	if _, _, err := vault.Unwrap(w.ctx, w.store, stranger); !backstay.IsCode(err, backstay.CodeVaultKey) {
		t.Errorf("a stranger: %v", err)
	}
	if _, _, err := vault.Unwrap(w.ctx, w.store, backstay.NewSecret([]byte("AGE-SECRET-KEY-1NONSENSE"))); !backstay.IsCode(err, backstay.CodeVaultKey) || strings.Contains(err.Error(), "NONSENSE") {
		t.Errorf("nonsense: %v", err)
	}
	wrong := slices.Clone(w.master.Reveal())
	wrong[0] ^= 1
	if _, err := vault.Open(w.ctx, w.store, vaultID, backstay.NewSecret(wrong)); !backstay.IsCode(err, backstay.CodeVaultKey) {
		t.Errorf("wrong key: %v", err)
	}
	if _, err := vault.Open(w.ctx, w.store, "6f1d3c1e-8f0a-4a53-9c7b-0d6f0e5a7b12", w.master); !backstay.IsCode(err, backstay.CodeVaultKey) {
		t.Errorf("another id: %v", err)
	}
	if _, _, err := vault.Unwrap(w.ctx, mem.New(), w.owner); !backstay.IsCode(err, backstay.CodeUnknownVault) {
		t.Errorf("empty store: %v", err)
	}
}

func TestVaultIsMadeOnce(t *testing.T) {
	w := newWorld(t)
	_, recipient, err := vault.NewIdentity()
	w.must(err)
	o := vault.CreateOptions{ID: vaultID, Name: "main", Recipients: vault.Recipients(backstay.ForRecovery, recipient), Created: created}
	if _, err := vault.Create(w.ctx, w.store, o); !backstay.IsCode(err, backstay.CodeExists) {
		t.Errorf("second vault in one place: %v", err)
	}
	o.Recipients = nil
	if _, err := vault.Create(w.ctx, mem.New(), o); !backstay.IsCode(err, backstay.CodeUsage) {
		t.Errorf("vault that nobody can open: %v", err)
	}
}

func TestUsageCountsWhatIsThere(t *testing.T) {
	w := newWorld(t)
	w.backup(vault.WriteOptions{Point: newID()}, source{target: "vda", disk: &disk{data: sparse(1, 4<<20)}})
	u, err := w.vault.Usage(w.ctx)
	w.must(err)
	var bytes int64
	for _, name := range w.objects("") {
		bytes += int64(len(w.get(0, name)))
	}
	if u.Vault != "main" || u.Points != 1 || u.LogicalBytes != 4<<20 || u.StoredBytes != bytes || u.Objects != int64(len(w.objects(""))) {
		t.Errorf("usage: %+v", u)
	}
}
