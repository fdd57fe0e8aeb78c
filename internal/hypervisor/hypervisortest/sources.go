package hypervisortest

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
)

// SourceSize is how many bytes a disk of a Source shows its guest.
const SourceSize = 4 << 20

// Source is a kind of disk that is no plain file.
type Source struct {
	Name string
	// Make makes an empty disk of SourceSize bytes: Source, Format, Kind and Secret
	// as a definition must have them, and the element if it is to be another than
	// HostSuite.XML makes of these.
	Make func(t *testing.T) (d backstay.Disk, element string)
}

// sources runs the life of a layer on every kind of disk.
func (s HostSuite) sources(t *testing.T) {
	for _, source := range s.Sources {
		t.Run(source.Name+", while the VM runs", func(t *testing.T) { s.sourceRunning(t, source) })
		t.Run(source.Name+", while the VM is shut off", func(t *testing.T) { s.sourceShutOff(t, source) })
	}
}

// sourceWorld is a VM with one disk of a kind, and what the disk must show.
type sourceWorld struct {
	*world
	disk    backstay.Disk
	image   hypervisor.Image
	element string
	want    []byte
}

func (s HostSuite) source(t *testing.T, source Source) *sourceWorld {
	t.Helper()
	w := &sourceWorld{world: &world{HostSuite: s, dir: t.TempDir()}}
	must(t, os.Chmod(w.dir, 0o755))
	disk, element := source.Make(t)
	disk.Target = "vda"
	w.want = pattern(1, SourceSize)
	xml := s.XML
	if element != "" {
		xml = s.ElementXML(element)
	}
	vmCount++
	id, err := s.Host.Define(testContext(t), xml(fmt.Sprintf("suite-%d-%d", os.Getpid(), vmCount), "", []backstay.Disk{disk}))
	must(t, err)
	w.id = id
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		_ = s.Host.Destroy(ctx, id)
		if err := s.Host.Undefine(ctx, id); err != nil {
			t.Error(err)
		}
	})
	d := w.domain(t)
	w.disk = d.VM.Disks[0]
	w.element = d.Elements["vda"]
	if w.disk.Reason != "" || w.disk.Size != SourceSize || w.disk.Kind != disk.Kind || w.disk.Secret != disk.Secret || w.element == "" {
		t.Fatalf("the disk is %+v, element %q", w.disk, w.element)
	}
	w.image = hypervisor.ImageOf(w.disk)
	w.put(t, w.image, 0, w.want, false)
	return w
}

func (w *sourceWorld) put(t *testing.T, image hypervisor.Image, off int64, p []byte, alone bool) {
	t.Helper()
	o := hypervisor.ExportOptions{Format: image.Format, Secret: image.Secret, Writable: true, Alone: alone}
	w.images().with(t, image.Location, o, func(d Device) {
		_, err := d.WriteAt(p, off)
		must(t, err)
		must(t, d.Flush())
	})
	copy(w.want[off:], p)
}

func (w *sourceWorld) expectContent(t *testing.T, image hypervisor.Image, want []byte) {
	t.Helper()
	w.images().expect(t, image.Location, hypervisor.ExportOptions{Format: image.Format, Secret: image.Secret}, 0, want)
}

// next puts the VM on a new layer with content of its own, and returns it.
func (w *sourceWorld) next(t *testing.T) hypervisor.Image {
	t.Helper()
	active := hypervisor.ImageOf(w.domain(t).VM.Disks[0])
	w.n++
	layer := hypervisor.Image{Location: filepath.Join(w.dir, fmt.Sprintf("layer%d", w.n)), Format: "qcow2", Secret: active.Secret}
	must(t, w.Images.CreateOverlay(testContext(t), hypervisor.Overlay{Path: layer.Location, Backing: active}))
	content := pattern(byte(100+w.n), 64*kib)
	w.put(t, layer, int64(w.n)*256*kib, content, true)
	if file, err := os.ReadFile(layer.Location); err != nil || bytes.Contains(file, content[:512]) != (layer.Secret == "") {
		t.Errorf("the layer's file holds the plain content: %v, and its secret is %q (%v)", layer.Secret != "", layer.Secret, err)
	}
	held, err := w.Images.Allocated(testContext(t), layer)
	must(t, err)
	if len(held) != 1 || held[0] != (backstay.Range{Offset: int64(w.n) * 256 * kib, Length: 64 * kib}) {
		t.Errorf("the layer holds %v", held)
	}
	info, err := w.Images.Info(testContext(t), layer.Location)
	must(t, err)
	if info.Backing != active.Location || info.VirtualSize != SourceSize || info.Encrypted != (layer.Secret != "") {
		t.Errorf("the layer is %+v", info)
	}
	w.switchTo(t, hypervisor.Switch{Target: "vda", Overlay: layer.Location})
	return layer
}

// home checks that the VM is on its own disk again, in its owner's words (I15).
func (w *sourceWorld) home(t *testing.T) {
	t.Helper()
	must(t, w.Host.Retarget(testContext(t), w.id, "vda", hypervisor.Source{Image: w.image, Element: w.element}))
	d := w.domain(t)
	if d.Elements["vda"] != w.element {
		t.Errorf("the disk's element is\n%s, and was\n%s", d.Elements["vda"], w.element)
	}
	w.wantChain(t, "vda", w.image.Location)
	_ = w.Host.Destroy(testContext(t), w.id)
	w.start(t)
	w.stop(t)
	w.expectContent(t, w.image, w.want)
}

func (w *sourceWorld) wantChain(t *testing.T, target backstay.DiskTarget, want ...string) {
	t.Helper()
	got := w.domain(t).Chains[target]
	if len(got) != len(want) {
		t.Fatalf("chain of %s is\n%v, want\n%v", target, got, want)
	}
	for i := range got {
		if hypervisor.Location(got[i]) != hypervisor.Location(want[i]) {
			t.Fatalf("chain of %s is\n%v, want\n%v", target, got, want)
		}
	}
}

func (s HostSuite) sourceRunning(t *testing.T, source Source) {
	w := s.source(t, source)
	base := append([]byte(nil), w.want...)
	w.start(t)
	first := w.next(t)
	w.expectContent(t, w.image, base)
	below := append([]byte(nil), w.want...)
	second := w.next(t)
	w.expectContent(t, first, below)
	w.wantChain(t, "vda", second.Location, first.Location, w.image.Location)
	must(t, s.Host.MergeLive(testContext(t), w.id, hypervisor.Merge{Target: "vda", Top: first.Location, Base: w.image.Location}, nil))
	w.wantChain(t, "vda", second.Location, w.image.Location)
	must(t, os.Remove(first.Location))
	info, err := s.Images.Info(testContext(t), second.Location)
	must(t, err)
	if info.Backing != w.image.Location {
		t.Errorf("the layer above the merged one stands on %s", info.Backing)
	}
	w.stop(t)
	w.start(t) // by what the definition says now
	w.wantChain(t, "vda", second.Location, w.image.Location)
	must(t, s.Host.MergeLive(testContext(t), w.id, hypervisor.Merge{Target: "vda", Top: second.Location, Base: w.image.Location}, nil))
	w.wantChain(t, "vda", w.image.Location)
	w.home(t)
}

func (s HostSuite) sourceShutOff(t *testing.T, source Source) {
	w := s.source(t, source)
	first := w.next(t)
	second := w.next(t)
	w.wantChain(t, "vda", second.Location, first.Location, w.image.Location)
	w.start(t)
	w.wantChain(t, "vda", second.Location, first.Location, w.image.Location)
	w.stop(t)
	w.expectContent(t, second, w.want)
	must(t, s.Images.Commit(testContext(t), first, hypervisor.CommitOptions{}))
	must(t, s.Images.Rebase(testContext(t), second, w.image))
	must(t, os.Remove(first.Location))
	must(t, s.Host.Retarget(testContext(t), w.id, "vda", hypervisor.Source{Image: second}))
	w.start(t)
	w.wantChain(t, "vda", second.Location, w.image.Location)
	third := w.next(t) // of a VM that runs on a chain which its definition spells out
	w.stop(t)
	w.start(t)
	w.wantChain(t, "vda", third.Location, second.Location, w.image.Location)
	w.stop(t)
	must(t, s.Images.Commit(testContext(t), second, hypervisor.CommitOptions{}))
	must(t, s.Images.Rebase(testContext(t), third, w.image))
	must(t, s.Images.Commit(testContext(t), third, hypervisor.CommitOptions{}))
	w.home(t)
}

// secrets checks what a secret answers.
func (s HostSuite) secrets(t *testing.T) {
	if s.Secret == "" {
		t.Fatal("the suite was given no secret")
	}
	value, err := s.Host.Secret(testContext(t), s.Secret)
	must(t, err)
	if len(value.Reveal()) == 0 {
		t.Error("the secret is empty")
	}
	if text := fmt.Sprintf("%v %+v %s", value, value, value); bytes.Contains([]byte(text), value.Reveal()) {
		t.Error("a secret prints itself")
	}
	_, err = s.Host.Secret(testContext(t), s.PrivateSecret)
	wantError(t, err, hypervisor.ErrPrivateSecret)
	_, err = s.Host.Secret(testContext(t), "11111111-2222-4333-8444-000000000000")
	wantError(t, err, hypervisor.ErrNoSecret)
}

// makeSecrets checks that a secret is made once, never overwritten, and removed.
func (s HostSuite) makeSecrets(t *testing.T) {
	ctx := testContext(t)
	info := hypervisor.SecretInfo{
		UUID: "11111111-2222-4333-8444-0000000000aa", Usage: "volume", UsageID: "/suite/secret.qcow2", Description: "of the suite <&>",
	}
	rival := info
	rival.UUID = "11111111-2222-4333-8444-0000000000ab"
	t.Cleanup(func() {
		for _, uuid := range []string{info.UUID, rival.UUID} {
			if err := s.Host.UndefineSecret(context.Background(), uuid); err != nil {
				t.Error(err)
			}
		}
	})
	_, err := s.Host.SecretInfo(ctx, info.UUID)
	wantError(t, err, hypervisor.ErrNoSecret)
	must(t, s.Host.DefineSecret(ctx, info, backstay.NewSecret([]byte("first"))))
	got, err := s.Host.SecretInfo(ctx, info.UUID)
	must(t, err)
	if got != info {
		t.Errorf("made %+v, and it is %+v", info, got)
	}
	wantError(t, s.Host.DefineSecret(ctx, info, backstay.NewSecret([]byte("second"))), hypervisor.ErrExists)
	value, err := s.Host.Secret(ctx, info.UUID)
	must(t, err)
	if string(value.Reveal()) != "first" {
		t.Error("a secret that was there has another value now")
	}
	// Of two for one use the second has none: disks name secrets by UUID.
	must(t, s.Host.DefineSecret(ctx, rival, backstay.NewSecret([]byte("third"))))
	got, err = s.Host.SecretInfo(ctx, rival.UUID)
	must(t, err)
	if got.Usage != "" {
		t.Errorf("two secrets for one use: %+v", got)
	}
	wantError(t, s.Host.DefineSecret(ctx, hypervisor.SecretInfo{UUID: s.PrivateSecret}, backstay.NewSecret([]byte("x"))), hypervisor.ErrExists)
	must(t, s.Host.UndefineSecret(ctx, info.UUID))
	must(t, s.Host.UndefineSecret(ctx, info.UUID))
	_, err = s.Host.Secret(ctx, info.UUID)
	wantError(t, err, hypervisor.ErrNoSecret)
}
