// Package hypervisortest is the conformance suite of the hypervisor port: each
// sentence of its contract that a test can check, run by every adapter and by
// the fake.
//
// It imports the port alone. What it needs beyond, a client of the block
// protocol and a way to make a small VM, the adapter's own test hands in.
package hypervisortest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"sync"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
)

const (
	kib = int64(1) << 10
	mib = int64(1) << 20
)

// Device is an open export.
type Device interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	WriteZeroes(off, length int64) error
	Flush() error
	Size() int64
}

// Connect opens an export.
type Connect func(ctx context.Context, e hypervisor.Export) (Device, error)

// ImagesSuite checks hypervisor.Images.
type ImagesSuite struct {
	Images  hypervisor.Images
	Connect Connect
}

// Run runs every check in a folder of its own.
func (s ImagesSuite) Run(t *testing.T) {
	for _, check := range []struct {
		rule string
		fn   func(*testing.T)
	}{
		{"a new image has its size and reads as zeros", s.create},
		{"an image is never made over a file", s.createOverFile},
		{"an image of the caller's alone has mode 0600", s.mode},
		{"an overlay has the size of its backing and shows its content", s.overlay},
		{"a layer alone shows only what it holds", s.alone},
		{"what a layer holds is known in steps of 4 KiB, zeros included", s.allocated},
		{"a raw layer holds everything", s.allocatedRaw},
		{"a backing file can be read while its overlay is written", s.readBelow},
		{"an image that is being written cannot be written by another", s.locked},
		{"several clients read one export at once", s.concurrent},
		{"a merged layer leaves the content of both in the backing", s.commit},
		{"a rebased layer stands on another file of the same content", s.rebase},
		{"a copy shows what the image showed, has mode 0600, and is never made over a file", s.convert},
		{"closing an export ends its server and removes its socket", s.closeExport},
		{"a read-only export cannot be written to", s.readOnly},
		{"a missing file is an error that says so", s.missing},
		{"an unknown format is refused, never probed", s.unknownFormat},
		{"a foreign image holds what was written to it, at any size, and nothing else", s.foreign},
		{"a foreign image is never made a VM's, nor taken for another format", s.foreignOnly},
		{"a cancelled call returns", s.cancelled},
	} {
		t.Run(check.rule, check.fn)
	}
}

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantError(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("got error %v, want %v", err, want)
	}
}

// pattern is content that tells its seed and its place.
func pattern(seed byte, length int64) []byte {
	p := make([]byte, length)
	for i := range p {
		p[i] = seed ^ byte(i>>12) ^ byte(i)
		if p[i] == 0 {
			p[i] = seed
		}
	}
	return p
}

func (s ImagesSuite) image(t *testing.T, format string, size int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "base."+format)
	must(t, s.Images.Create(testContext(t), path, format, size))
	return path
}

func (s ImagesSuite) overlayOn(t *testing.T, backing, format string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "layer.qcow2")
	must(t, s.Images.CreateOverlay(testContext(t), hypervisor.Overlay{Path: path, Backing: hypervisor.Plain(backing, format)}))
	return path
}

// with runs fn on an open export of the image and closes both.
func (s ImagesSuite) with(t *testing.T, path string, o hypervisor.ExportOptions, fn func(Device)) {
	t.Helper()
	e, err := s.Images.Export(testContext(t), path, o)
	must(t, err)
	defer func() { must(t, e.Close()) }()
	d, err := s.Connect(testContext(t), e)
	must(t, err)
	defer d.Close()
	fn(d)
}

func (s ImagesSuite) write(t *testing.T, path, format string, off int64, p []byte) {
	t.Helper()
	s.with(t, path, hypervisor.ExportOptions{Format: format, Writable: true}, func(d Device) {
		_, err := d.WriteAt(p, off)
		must(t, err)
		must(t, d.Flush())
	})
}

func (s ImagesSuite) expect(t *testing.T, path string, o hypervisor.ExportOptions, off int64, want []byte) {
	t.Helper()
	s.with(t, path, o, func(d Device) { expectDevice(t, d, off, want) })
}

func expectDevice(t *testing.T, d Device, off int64, want []byte) {
	t.Helper()
	got := make([]byte, len(want))
	if _, err := d.ReadAt(got, off); err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Fatalf("%d bytes at %d are not what was written", len(want), off)
	}
}

func (s ImagesSuite) create(t *testing.T) {
	for _, format := range []string{"qcow2", "raw"} {
		path := s.image(t, format, 8*mib)
		info, err := s.Images.Info(testContext(t), path)
		must(t, err)
		if info.Format != format || info.VirtualSize != 8*mib || info.Backing != "" || info.Encrypted || info.Path != path {
			t.Errorf("%s: info %+v", format, info)
		}
		s.with(t, path, hypervisor.ExportOptions{Format: format}, func(d Device) {
			if d.Size() != 8*mib {
				t.Errorf("%s: export has %d bytes", format, d.Size())
			}
			expectDevice(t, d, 3*mib, make([]byte, mib))
		})
	}
}

func (s ImagesSuite) createOverFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "taken")
	must(t, os.WriteFile(path, []byte("precious"), 0o644))
	wantError(t, s.Images.Create(testContext(t), path, "qcow2", mib), hypervisor.ErrExists)
	backing := s.image(t, "qcow2", mib)
	wantError(t, s.Images.CreateOverlay(testContext(t), hypervisor.Overlay{Path: path, Backing: hypervisor.Plain(backing, "qcow2")}), hypervisor.ErrExists)
	if b, err := os.ReadFile(path); err != nil || string(b) != "precious" {
		t.Errorf("the file is now %q, %v", b, err)
	}
}

func (s ImagesSuite) mode(t *testing.T) {
	base := s.image(t, "raw", mib)
	for _, path := range []string{base, s.image(t, "qcow2", mib), s.overlayOn(t, base, "raw")} {
		info, err := os.Stat(path)
		must(t, err)
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
	}
}

func (s ImagesSuite) overlay(t *testing.T) {
	for _, format := range []string{"qcow2", "raw"} {
		base := s.image(t, format, 4*mib)
		s.write(t, base, format, mib, pattern(1, 256*kib))
		layer := s.overlayOn(t, base, format)
		info, err := s.Images.Info(testContext(t), layer)
		must(t, err)
		if info.Format != "qcow2" || info.VirtualSize != 4*mib || info.Backing != base {
			t.Errorf("info %+v", info)
		}
		s.expect(t, layer, hypervisor.ExportOptions{Format: "qcow2"}, mib, pattern(1, 256*kib))
		s.write(t, layer, "qcow2", mib, pattern(2, 64*kib))
		s.expect(t, layer, hypervisor.ExportOptions{Format: "qcow2"}, mib+64*kib, pattern(1, 256*kib)[64*kib:])
		s.expect(t, base, hypervisor.ExportOptions{Format: format}, mib, pattern(1, 256*kib))
	}
}

func (s ImagesSuite) alone(t *testing.T) {
	base := s.image(t, "qcow2", 4*mib)
	s.write(t, base, "qcow2", 0, pattern(1, mib))
	layer := s.overlayOn(t, base, "qcow2")
	s.write(t, layer, "qcow2", 2*mib, pattern(2, 4*kib))
	s.with(t, layer, hypervisor.ExportOptions{Format: "qcow2", Alone: true}, func(d Device) {
		expectDevice(t, d, 0, make([]byte, mib))
		expectDevice(t, d, 2*mib, pattern(2, 4*kib))
	})
}

func (s ImagesSuite) allocated(t *testing.T) {
	base := s.image(t, "qcow2", 16*mib)
	s.write(t, base, "qcow2", 0, pattern(1, 8*mib))
	layer := s.overlayOn(t, base, "qcow2")
	none, err := s.Images.Allocated(testContext(t), hypervisor.Plain(layer, "qcow2"))
	must(t, err)
	if len(none) != 0 {
		t.Fatalf("an empty layer holds %v", none)
	}
	s.with(t, layer, hypervisor.ExportOptions{Format: "qcow2", Writable: true}, func(d Device) {
		for _, off := range []int64{4 * kib, 8 * kib, 5 * mib, 12 * mib} {
			_, err := d.WriteAt(pattern(3, 4*kib), off)
			must(t, err)
		}
		must(t, d.WriteZeroes(3*mib, 128*kib)) // hides data below: a change
		must(t, d.WriteZeroes(6*mib+8*kib, 4*kib))
		must(t, d.Flush())
	})
	got, err := s.Images.Allocated(testContext(t), hypervisor.Plain(layer, "qcow2"))
	must(t, err)
	want := []backstay.Range{
		{Offset: 4 * kib, Length: 8 * kib}, {Offset: 3 * mib, Length: 128 * kib}, {Offset: 5 * mib, Length: 4 * kib},
		{Offset: 6*mib + 8*kib, Length: 4 * kib}, {Offset: 12 * mib, Length: 4 * kib},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("layer holds\n%v, want\n%v", got, want)
	}
	s.expect(t, layer, hypervisor.ExportOptions{Format: "qcow2"}, 3*mib, make([]byte, 128*kib))
}

func (s ImagesSuite) allocatedRaw(t *testing.T) {
	got, err := s.Images.Allocated(testContext(t), hypervisor.Plain(s.image(t, "raw", 3*mib), "raw"))
	must(t, err)
	if want := []backstay.Range{{Offset: 0, Length: 3 * mib}}; !reflect.DeepEqual(got, want) {
		t.Errorf("raw holds %v, want %v", got, want)
	}
}

func (s ImagesSuite) readBelow(t *testing.T) {
	base := s.image(t, "qcow2", 4*mib)
	s.write(t, base, "qcow2", 0, pattern(1, mib))
	layer := s.overlayOn(t, base, "qcow2")
	s.with(t, layer, hypervisor.ExportOptions{Format: "qcow2", Writable: true}, func(d Device) {
		_, err := d.WriteAt(pattern(2, mib), 0)
		must(t, err)
		s.expect(t, base, hypervisor.ExportOptions{Format: "qcow2"}, 0, pattern(1, mib))
		_, err = s.Images.Allocated(testContext(t), hypervisor.Plain(base, "qcow2"))
		must(t, err)
		must(t, s.Images.CreateOverlay(testContext(t), hypervisor.Overlay{Path: filepath.Join(t.TempDir(), "second"), Backing: hypervisor.Plain(base, "qcow2")}))
	})
}

func (s ImagesSuite) locked(t *testing.T) {
	base := s.image(t, "qcow2", 4*mib)
	layer := s.overlayOn(t, base, "qcow2")
	s.with(t, layer, hypervisor.ExportOptions{Format: "qcow2", Writable: true}, func(Device) {
		_, err := s.Images.Export(testContext(t), layer, hypervisor.ExportOptions{Format: "qcow2", Writable: true})
		wantError(t, err, hypervisor.ErrLocked)
		wantError(t, s.Images.Commit(testContext(t), hypervisor.Plain(layer, "qcow2"), hypervisor.CommitOptions{}), hypervisor.ErrLocked)
		wantError(t, s.Images.Rebase(testContext(t), hypervisor.Plain(layer, "qcow2"), hypervisor.Plain(base, "qcow2")), hypervisor.ErrLocked)
		_, err = s.Images.Export(testContext(t), base, hypervisor.ExportOptions{Format: "qcow2", Writable: true})
		wantError(t, err, hypervisor.ErrLocked)
	})
}

func (s ImagesSuite) concurrent(t *testing.T) {
	base := s.image(t, "qcow2", 8*mib)
	content := pattern(5, 8*mib)
	s.write(t, base, "qcow2", 0, content)
	e, err := s.Images.Export(testContext(t), base, hypervisor.ExportOptions{Format: "qcow2", Connections: 3})
	must(t, err)
	defer e.Close()
	var wg sync.WaitGroup
	for range 3 {
		d, err := s.Connect(testContext(t), e)
		must(t, err)
		defer d.Close()
		for i := range int64(8) {
			wg.Go(func() {
				got := make([]byte, mib)
				if _, err := d.ReadAt(got, i*mib); (err != nil && !errors.Is(err, io.EOF)) || !bytes.Equal(got, content[i*mib:(i+1)*mib]) {
					t.Errorf("MiB %d: wrong content or %v", i, err)
				}
			})
		}
	}
	wg.Wait()
}

func (s ImagesSuite) commit(t *testing.T) {
	for _, format := range []string{"qcow2", "raw"} {
		base := s.image(t, format, 8*mib)
		s.write(t, base, format, 0, pattern(1, 4*mib))
		layer := s.overlayOn(t, base, format)
		s.with(t, layer, hypervisor.ExportOptions{Format: "qcow2", Writable: true}, func(d Device) {
			_, err := d.WriteAt(pattern(2, mib), 5*mib)
			must(t, err)
			must(t, d.WriteZeroes(mib, mib))
			must(t, d.Flush())
		})
		must(t, s.Images.Commit(testContext(t), hypervisor.Plain(layer, "qcow2"), hypervisor.CommitOptions{}))
		must(t, s.Images.Commit(testContext(t), hypervisor.Plain(layer, "qcow2"), hypervisor.CommitOptions{})) // a repeat after a crash
		want := append(pattern(1, 4*mib), make([]byte, 4*mib)...)
		clear(want[mib : 2*mib])
		copy(want[5*mib:], pattern(2, mib))
		s.expect(t, base, hypervisor.ExportOptions{Format: format}, 0, want)
		s.expect(t, layer, hypervisor.ExportOptions{Format: "qcow2"}, 0, want)
	}
}

func (s ImagesSuite) rebase(t *testing.T) {
	base := s.image(t, "raw", 4*mib)
	s.write(t, base, "raw", 0, pattern(1, mib))
	layer := s.overlayOn(t, base, "raw")
	s.write(t, layer, "qcow2", 2*mib, pattern(2, mib))
	same := s.image(t, "qcow2", 4*mib)
	s.write(t, same, "qcow2", 0, pattern(1, mib))
	must(t, s.Images.Rebase(testContext(t), hypervisor.Plain(layer, "qcow2"), hypervisor.Plain(same, "qcow2")))
	must(t, os.Remove(base))
	info, err := s.Images.Info(testContext(t), layer)
	must(t, err)
	if info.Backing != same {
		t.Errorf("backing is %s", info.Backing)
	}
	s.expect(t, layer, hypervisor.ExportOptions{Format: "qcow2"}, 0, pattern(1, mib))
	s.expect(t, layer, hypervisor.ExportOptions{Format: "qcow2"}, 2*mib, pattern(2, mib))
}

func (s ImagesSuite) convert(t *testing.T) {
	for _, format := range []string{"qcow2", "raw"} {
		base := s.image(t, format, 8*mib)
		s.write(t, base, format, 0, pattern(1, 4*mib))
		layer := s.overlayOn(t, base, format)
		s.write(t, layer, "qcow2", mib, pattern(2, mib))
		want := append(pattern(1, 4*mib), make([]byte, 4*mib)...)
		copy(want[mib:], pattern(2, mib))
		c := hypervisor.Conversion{From: hypervisor.Plain(layer, "qcow2"), To: hypervisor.Plain(filepath.Join(t.TempDir(), "copy"), format)}
		var last int64
		must(t, s.Images.Convert(testContext(t), c, func(done, total int64) { last = done * 100 / total }))
		if last != 100 {
			t.Errorf("progress ended at %d %%", last)
		}
		s.expect(t, c.To.Location, hypervisor.ExportOptions{Format: format}, 0, want)
		s.expect(t, layer, hypervisor.ExportOptions{Format: "qcow2"}, 0, want)
		info, err := os.Stat(c.To.Location)
		must(t, err)
		if info.Mode().Perm() != 0o600 {
			t.Errorf("mode is %v", info.Mode())
		}
		wantError(t, s.Images.Convert(testContext(t), c, nil), hypervisor.ErrExists)
		c.From.Location, c.To.Location = filepath.Join(t.TempDir(), "none"), filepath.Join(t.TempDir(), "copy")
		if err := s.Images.Convert(testContext(t), c, nil); err == nil {
			t.Error("a file that is not there was copied")
		}
		if _, err := os.Stat(c.To.Location); err == nil {
			t.Error("a copy that failed left a file")
		}
	}
}

func (s ImagesSuite) closeExport(t *testing.T) {
	base := s.image(t, "qcow2", mib)
	e, err := s.Images.Export(testContext(t), base, hypervisor.ExportOptions{Format: "qcow2", Writable: true})
	must(t, err)
	if _, err := os.Stat(e.Socket()); err != nil {
		t.Error(err)
	}
	must(t, e.Close())
	must(t, e.Close())
	if _, err := os.Stat(e.Socket()); !os.IsNotExist(err) {
		t.Errorf("socket after close: %v", err)
	}
	s.write(t, base, "qcow2", 0, pattern(1, kib)) // its lock is gone too
}

func (s ImagesSuite) readOnly(t *testing.T) {
	base := s.image(t, "raw", mib)
	s.with(t, base, hypervisor.ExportOptions{Format: "raw"}, func(d Device) {
		if _, err := d.WriteAt([]byte{1}, 0); err == nil {
			t.Error("a read-only export took a write")
		}
	})
}

func (s ImagesSuite) missing(t *testing.T) {
	ctx, none := testContext(t), filepath.Join(t.TempDir(), "none")
	_, err := s.Images.Info(ctx, none)
	wantError(t, err, os.ErrNotExist)
	_, err = s.Images.Allocated(ctx, hypervisor.Plain(none, "qcow2"))
	wantError(t, err, os.ErrNotExist)
	_, err = s.Images.Export(ctx, none, hypervisor.ExportOptions{Format: "raw"})
	wantError(t, err, os.ErrNotExist)
	wantError(t, s.Images.CreateOverlay(ctx, hypervisor.Overlay{Path: none + "2", Backing: hypervisor.Plain(none, "raw")}), os.ErrNotExist)
	if _, err := os.Stat(none + "2"); !os.IsNotExist(err) {
		t.Errorf("a failed overlay left its file: %v", err)
	}
}

func (s ImagesSuite) unknownFormat(t *testing.T) {
	ctx, base := testContext(t), s.image(t, "qcow2", mib)
	for _, format := range []string{"", "vdi"} {
		if _, err := s.Images.Export(ctx, base, hypervisor.ExportOptions{Format: format}); err == nil {
			t.Errorf("exported as %q", format)
		}
		if err := s.Images.CreateOverlay(ctx, hypervisor.Overlay{Path: base + ".o", Backing: hypervisor.Plain(base, format)}); err == nil {
			t.Errorf("made an overlay on %q", format)
		}
		if _, err := s.Images.Allocated(ctx, hypervisor.Plain(base, format)); err == nil {
			t.Errorf("mapped as %q", format)
		}
	}
}

// foreign writes what a restore writes: data here and there, the last sector too.
func (s ImagesSuite) foreign(t *testing.T) {
	for _, format := range []string{"vmdk", "vhdx"} {
		for _, size := range []int64{512, 4*kib + 512, 3*mib + 512, 40 * mib, 5<<30 + 7*512} {
			path := s.image(t, format, size)
			info, err := s.Images.Info(testContext(t), path)
			must(t, err)
			if info.Format != format || info.VirtualSize != size || info.Backing != "" || info.Encrypted {
				t.Errorf("%s of %d bytes: info %+v", format, size, info)
			}
			last := size - 512
			s.write(t, path, format, last, pattern(7, 512))
			if size > 3*mib {
				s.write(t, path, format, mib, pattern(8, mib+4*kib))
			}
			s.with(t, path, hypervisor.ExportOptions{Format: format}, func(d Device) {
				if d.Size() != size {
					t.Errorf("%s: export has %d bytes and not %d", format, d.Size(), size)
				}
				expectDevice(t, d, last, pattern(7, 512))
				if size > 3*mib {
					expectDevice(t, d, 0, make([]byte, mib))
					expectDevice(t, d, mib, pattern(8, mib+4*kib))
					expectDevice(t, d, 2*mib+4*kib, make([]byte, 64*kib))
				}
			})
			if info, err = s.Images.Info(testContext(t), path); err != nil || info.DiskSize > 64*mib {
				t.Errorf("%s of %d bytes takes %d: %v", format, size, info.DiskSize, err)
			}
		}
	}
}

func (s ImagesSuite) foreignOnly(t *testing.T) {
	ctx := testContext(t)
	for _, format := range []string{"vmdk", "vhdx"} {
		path := s.image(t, format, mib)
		if err := s.Images.CreateOverlay(ctx, hypervisor.Overlay{Path: path + ".o", Backing: hypervisor.Plain(path, format)}); err == nil {
			t.Errorf("made an overlay on a %s", format)
		}
		if _, err := s.Images.Allocated(ctx, hypervisor.Plain(path, format)); err == nil {
			t.Errorf("mapped a %s", format)
		}
		if _, err := s.Images.Export(ctx, path, hypervisor.ExportOptions{Format: "qcow2"}); err == nil {
			t.Errorf("exported a %s as qcow2", format)
		}
		if _, err := s.Images.Export(ctx, s.image(t, "qcow2", mib), hypervisor.ExportOptions{Format: format}); err == nil {
			t.Errorf("exported a qcow2 as %s", format)
		}
	}
}

func (s ImagesSuite) cancelled(t *testing.T) {
	base := s.image(t, "qcow2", mib)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := s.Images.Info(ctx, base)
	wantError(t, err, context.Canceled)
	_, err = s.Images.Export(ctx, base, hypervisor.ExportOptions{Format: "qcow2"})
	wantError(t, err, context.Canceled)
}
