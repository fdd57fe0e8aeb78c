package snapshot

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor/fake"
	"github.com/backstay/backstay/internal/keyring"
	"github.com/backstay/backstay/internal/quiesce"
	"github.com/backstay/backstay/internal/tier/snapshot/record"
)

const (
	vmID     = backstay.VMID("11111111-1111-4111-8111-111111111111")
	diskSize = 64 << 10
)

// world is a host with one VM of a raw and a qcow2 disk.
type world struct {
	t     *testing.T
	dir   string
	hv    *fake.Host
	tier  *Tier
	keys  *memKeys
	seq   int
	wrote int
	// guards look after what the process of the tier freezes.
	guards *quiesce.Inside
	// crashed is set once the process of the tier is dead.
	crashed bool
}

// errCrash stands for the end of the process.
var errCrash = errors.New("the process ended here")

func newWorld(t *testing.T, running bool) *world {
	t.Helper()
	dir, err := os.MkdirTemp("", "snap")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	w := &world{t: t, dir: dir, hv: fake.New(filepath.Join(dir, "hv")), keys: &memKeys{}}
	must(t, os.Mkdir(filepath.Join(dir, "hv"), 0o700))
	must(t, os.Mkdir(filepath.Join(dir, "disks"), 0o700))
	ctx := context.Background()
	must(t, w.hv.Create(ctx, w.disk("vda.raw"), "raw", diskSize))
	must(t, w.hv.Create(ctx, w.disk("vdb.qcow2"), "qcow2", diskSize))
	_, err = w.hv.Define(ctx, fake.XML("web01", vmID,
		backstay.Disk{Target: "vda", Source: w.disk("vda.raw"), Format: "raw"},
		backstay.Disk{Target: "vdb", Source: w.disk("vdb.qcow2"), Format: "qcow2"}))
	must(t, err)
	if running {
		must(t, w.hv.Start(ctx, vmID))
	}
	w.restart()
	w.write()
	return w
}

func (w *world) disk(name string) string { return filepath.Join(w.dir, "disks", name) }

// restart is a new process on the same host.
func (w *world) restart() {
	w.t.Helper()
	if w.guards != nil {
		w.guards.Die()
	}
	w.guards = quiesce.Within(w.hv.Elsewhere(), nil)
	w.crashed = false
	w.hv.Hook = nil
	record.CutOff = func(string) error { return nil }
	tier, err := New(Options{
		Hypervisor: w.hv, Images: w.hv, Keyring: w.keys, StateDir: filepath.Join(w.dir, "state"),
		Host: "h1", Guards: w.guards, Log: slog.New(slog.DiscardHandler), Now: func() time.Time { return time.Unix(1700000000, 0) },
	})
	must(w.t, err)
	w.tier = tier
}

// crashAt lets the process end before its n-th change of anything.
func (w *world) crashAt(n int) {
	step := func(string) error {
		n--
		if n < 0 {
			w.crashed = true
		}
		if w.crashed {
			return errCrash
		}
		return nil
	}
	record.CutOff = step
	w.hv.Hook = func(call string) error { return step(call) }
	w.t.Cleanup(func() { record.CutOff = func(string) error { return nil } })
}

// write changes both disks as the guest would, in ever other places.
func (w *world) write() {
	w.t.Helper()
	for _, target := range []backstay.DiskTarget{"vda", "vdb"} {
		w.wrote++
		page := bytes.Repeat([]byte{byte(w.wrote)}, 4096)
		for _, at := range []int64{0, int64(w.wrote%15+1) * 4096} {
			must(w.t, w.hv.WriteGuest(vmID, target, at, page))
		}
	}
}

// guest is the content of all disks of the VM.
func (w *world) guest() string {
	w.t.Helper()
	return w.content(func(target backstay.DiskTarget, p []byte) error { return w.hv.ReadGuest(vmID, target, 0, p) })
}

// point is the content of all disks of a point, read through the tier.
func (w *world) point(id backstay.PointID) string {
	w.t.Helper()
	p, err := w.tier.Open(context.Background(), id)
	if err != nil {
		w.t.Fatalf("open point %s: %v", id, err)
	}
	return w.content(func(target backstay.DiskTarget, data []byte) error {
		img, err := p.OpenDisk(context.Background(), target, "reader")
		if err != nil {
			return err
		}
		_, err = img.ReadAt(data, 0)
		return errors.Join(err, img.Close())
	})
}

func (w *world) content(read func(backstay.DiskTarget, []byte) error) string {
	w.t.Helper()
	sum := sha256.New()
	for _, target := range []backstay.DiskTarget{"vda", "vdb"} {
		data := make([]byte, diskSize)
		if err := read(target, data); err != nil {
			w.t.Fatalf("read %s: %v", target, err)
		}
		sum.Write(data)
	}
	return fmt.Sprintf("%x", sum.Sum(nil))
}

func (w *world) nextPoint() backstay.PointID {
	w.seq++
	return backstay.PointID(fmt.Sprintf("01POINT%019d", w.seq))
}

func (w *world) request(id backstay.PointID) Request {
	return Request{Job: "job", Point: id, VM: vmID, Disks: []backstay.DiskTarget{"vda", "vdb"}}
}

func (w *world) takeRequest(id backstay.PointID) TakeRequest {
	return TakeRequest{Point: id, VM: vmID, Wish: backstay.FileSystemConsistent, Time: time.Unix(1700000000, 0).UTC()}
}

// take takes a point, then lets the guest write on.
func (w *world) take() (backstay.PointID, string) {
	w.t.Helper()
	id := w.nextPoint()
	_, err := w.tier.Prepare(context.Background(), w.request(id))
	must(w.t, err)
	at := w.guest()
	_, err = w.tier.Take(context.Background(), w.takeRequest(id))
	must(w.t, err)
	w.write()
	return id, at
}

// layers lists the image files beside the disks.
func (w *world) layers() []string {
	w.t.Helper()
	entries, err := os.ReadDir(w.disk(""))
	must(w.t, err)
	var names []string
	for _, e := range entries {
		if !e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names
}

// active lists the files that the VM writes to.
func (w *world) active() string {
	w.t.Helper()
	d, err := w.hv.Domain(context.Background(), vmID)
	must(w.t, err)
	var files []string
	for _, disk := range d.VM.Disks {
		files = append(files, filepath.Base(disk.Source))
	}
	return strings.Join(files, " ")
}

// clean sees that nothing half-done is left.
func (w *world) clean() {
	w.t.Helper()
	b, err := w.tier.load()
	must(w.t, err)
	if len(b.Intents) > 0 || len(b.Merges) > 0 {
		w.t.Errorf("%d intents and %d merges are left", len(b.Intents), len(b.Merges))
	}
	known := map[string]bool{"vda.raw": true, "vdb.qcow2": true}
	for _, name := range strings.Fields(w.active()) {
		known[name] = true
	}
	for _, l := range b.Layers {
		known[filepath.Base(l.File)] = true
		if len(l.Users) > 0 {
			w.t.Errorf("layer %s still has users %v", l.File, l.Users)
		}
	}
	for _, name := range w.layers() {
		if !known[name] {
			w.t.Errorf("file %s belongs to nothing", name)
		}
	}
}

func (w *world) sweep() Swept {
	w.t.Helper()
	s, err := w.tier.Sweep(context.Background(), SweepOptions{})
	must(w.t, err)
	return s
}

func (w *world) release() []string {
	w.t.Helper()
	notes, err := w.tier.Release(context.Background(), vmID, nil)
	must(w.t, err)
	return notes
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// memKeys is a keyring in memory.
type memKeys struct {
	mu   sync.Mutex
	keys map[string]backstay.Secret
}

func (k *memKeys) Key(_ context.Context, name string) (backstay.Secret, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if s, ok := k.keys[name]; ok {
		return s, nil
	}
	return backstay.Secret{}, keyring.ErrNoKey
}

func (k *memKeys) Create(ctx context.Context, name string, fresh func() (backstay.Secret, error)) (backstay.Secret, error) {
	if s, err := k.Key(ctx, name); err == nil {
		return s, nil
	}
	s, err := fresh()
	if err != nil {
		return s, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.keys == nil {
		k.keys = map[string]backstay.Secret{}
	}
	k.keys[name] = s
	return s, nil
}

func TestMain(m *testing.M) {
	record.Fsync = func(*os.File) error { return nil }
	os.Exit(m.Run())
}
