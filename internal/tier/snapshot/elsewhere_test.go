package snapshot

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
	"github.com/backstay/backstay/internal/hypervisor/fake"
)

const diskSecret = "5ec2e700-0000-4000-8000-000000000001"

// newStrangeWorld is newWorld with a VM whose disks are no plain files: vda is a
// block device, vdb a qcow2 image that is encrypted on the host.
func newStrangeWorld(t *testing.T, running bool) *world {
	t.Helper()
	dir, err := os.MkdirTemp("", "snap")
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	for _, sub := range []string{"hv", "disks", "dev"} {
		must(t, os.Mkdir(filepath.Join(dir, sub), 0o700))
	}
	w := &world{t: t, dir: dir, hv: fake.New(filepath.Join(dir, "hv")), keys: &memKeys{}}
	w.hv.SetSecret(diskSecret, []byte("open sesame"), false)
	ctx := context.Background()
	device := filepath.Join(dir, "dev", "vda")
	must(t, w.hv.Create(ctx, device, "raw", diskSize))
	must(t, w.hv.CreateEncrypted(ctx, hypervisor.Image{Location: w.disk("vdb.qcow2"), Format: "qcow2", Secret: diskSecret}, diskSize))
	_, err = w.hv.Define(ctx, fake.XML("web01", vmID,
		backstay.Disk{Target: "vda", Source: device, Format: "raw", Kind: backstay.BlockDisk},
		backstay.Disk{Target: "vdb", Source: w.disk("vdb.qcow2"), Format: "qcow2", Secret: diskSecret}))
	must(t, err)
	if running {
		must(t, w.hv.Start(ctx, vmID))
	}
	w.restart()
	w.write()
	return w
}

func (w *world) elements() string {
	w.t.Helper()
	d, err := w.hv.Domain(background, vmID)
	must(w.t, err)
	return fmt.Sprint(d.Elements["vda"], d.Elements["vdb"])
}

func (w *world) layerFolder() string { return filepath.Join(w.dir, "state", "layers") }

// noPlainPage checks that none of what the guest wrote lies in the clear in a
// layer of the encrypted disk.
func (w *world) noPlainPage() {
	w.t.Helper()
	for _, name := range w.layers() {
		content, err := os.ReadFile(w.disk(name))
		must(w.t, err)
		for b := 1; b <= w.wrote; b++ {
			if bytes.Contains(content, bytes.Repeat([]byte{byte(b)}, 512)) {
				w.t.Fatalf("%s holds in the clear what the guest wrote", name)
			}
		}
	}
}

// TestLayersOfADeviceLieInTheLayerFolder: nothing is made beside a device, and
// everything else holds as for files; at the end the VM is on the device again,
// in its owner's words (I15).
func TestLayersOfADeviceLieInTheLayerFolder(t *testing.T) {
	for _, running := range []bool{true, false} {
		w := newStrangeWorld(t, running)
		before := w.elements()
		var ids []backstay.PointID
		at := map[backstay.PointID]string{}
		for range 3 {
			id, content := w.take()
			ids, at[id] = append(ids, id), content
		}
		if entries, err := os.ReadDir(filepath.Join(w.dir, "dev")); err != nil || len(entries) != 1 {
			t.Errorf("beside the device lies %v, %v", entries, err)
		}
		made, err := filepath.Glob(filepath.Join(w.layerFolder(), "web01-vda.*.qcow2"))
		if err != nil || len(made) != 3 {
			t.Errorf("the layer folder holds %v, %v", made, err)
		}
		for _, id := range ids {
			if w.point(id) != at[id] {
				t.Errorf("point %s does not show what the guest had", id)
			}
		}
		for _, target := range []backstay.DiskTarget{"vda", "vdb"} {
			ranges, ok, why, err := w.tier.Changes(background, ids[2], ids[0], target)
			if err != nil || !ok || len(ranges) == 0 {
				t.Errorf("changes of %s: %v, %v %s, %v", target, ranges, ok, why, err)
			}
		}
		w.noPlainPage()
		must(t, w.tier.Drop(background, ids[1], nil))
		must(t, w.tier.Drop(background, ids[0], nil))
		if w.point(ids[2]) != at[ids[2]] {
			t.Error("a point changed when others were dropped")
		}
		now := w.guest()
		_, err = w.tier.Release(background, vmID, nil)
		must(t, err)
		if w.guest() != now {
			t.Error("the guest has other disks after its protection ended")
		}
		if got := w.elements(); got != before {
			t.Errorf("the definition says\n%s, and said\n%s", got, before)
		}
		w.noPlainPage()
		if left, err := filepath.Glob(filepath.Join(w.layerFolder(), "*.qcow2")); err != nil || len(left) > 0 {
			t.Errorf("layers are left: %v, %v", left, err)
		}
	}
}

// TestNoRecordHoldsASecret: only its UUID (I10).
func TestNoRecordHoldsASecret(t *testing.T) {
	w := newStrangeWorld(t, true)
	w.take()
	seen := false
	err := filepath.WalkDir(w.dir, func(path string, e os.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".json") {
			return err
		}
		content, err := os.ReadFile(path)
		seen = seen || bytes.Contains(content, []byte(diskSecret))
		if bytes.Contains(content, []byte("open sesame")) {
			t.Errorf("%s holds the secret", path)
		}
		return err
	})
	if err != nil || !seen {
		t.Errorf("no record names the secret by its UUID (%v)", err)
	}
}

// TestASecretThatIsGoneStopsTheSnapshotAndNothingElse: no layer is made without.
func TestASecretThatIsGoneStopsTheSnapshotAndNothingElse(t *testing.T) {
	w := newStrangeWorld(t, true)
	files := w.layers()
	w.hv.SetSecret(diskSecret, nil, false)
	if _, err := w.tier.Prepare(background, w.request(w.nextPoint())); err == nil {
		t.Fatal("a layer was made without the secret")
	}
	if got := w.layers(); fmt.Sprint(got) != fmt.Sprint(files) {
		t.Errorf("left is %v, and there was %v", got, files)
	}
}

// TestACrashAtAnyInstantLeavesStrangeDisksWhole: as for plain files.
func TestACrashAtAnyInstantLeavesStrangeDisksWhole(t *testing.T) {
	for _, running := range []bool{true, false} {
		for n := 0; ; n += stride(5) {
			w := newStrangeWorld(t, running)
			before := w.elements()
			first, _ := w.take()
			second, at := w.take()
			w.crashAt(n)
			err := w.tier.Drop(background, first, nil)
			if err == nil {
				_, err = w.tier.Release(background, vmID, nil)
			}
			crashed := w.crashed
			now := w.guest()
			w.restart()
			if _, err := w.tier.Sweep(background, SweepOptions{}); err != nil {
				t.Fatalf("cut off at %d: sweep: %v", n, err)
			}
			if p, err := w.tier.Open(background, second); err == nil && p != nil && w.point(second) != at {
				t.Fatalf("cut off at %d: the other point changed", n)
			}
			if _, err := w.tier.Release(background, vmID, nil); err != nil {
				t.Fatalf("cut off at %d: release: %v", n, err)
			}
			if w.guest() != now || w.elements() != before {
				t.Fatalf("cut off at %d: the VM has other disks, or its definition says\n%s", n, w.elements())
			}
			w.noPlainPage()
			if !crashed {
				if err != nil {
					t.Fatal(err)
				}
				break
			}
		}
	}
}
