package recover_test

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/guest"
	"github.com/backstay/backstay/internal/guest/wire"
	"github.com/backstay/backstay/internal/nbd"
	"github.com/backstay/backstay/internal/recover"
)

// paperMachine takes each disk for a volume that holds one file, "disk", with what the
// disk holds. The first is locked until a key comes, if that is said.
type paperMachine struct {
	disks   map[backstay.VolumeID]*nbd.Client
	sockets []string
	locked  bool
	given   []wire.UnlockRequest
}

func (m *paperMachine) Attach(ctx context.Context, d guest.Disk) error {
	client, err := nbd.Dial(ctx, d.Socket, d.Export, nbd.Options{})
	if err != nil {
		return err
	}
	if m.disks == nil {
		m.disks = map[backstay.VolumeID]*nbd.Client{}
	}
	m.disks[backstay.VolumeID(d.Target)] = client
	m.sockets = append(m.sockets, d.Socket)
	return nil
}

func (m *paperMachine) Scan(context.Context) (s wire.Scanned, err error) {
	for id, client := range m.disks {
		v := backstay.Volume{ID: id, Kind: backstay.VolumeFiles, Size: client.Size()}
		if m.locked && id == "vda" {
			v.Kind = backstay.VolumeLocked
		}
		s.Volumes = append(s.Volumes, v)
	}
	slices.SortFunc(s.Volumes, func(a, b backstay.Volume) int { return strings.Compare(string(a.ID), string(b.ID)) })
	return s, nil
}

func (m *paperMachine) Unlock(ctx context.Context, q wire.UnlockRequest) (wire.Scanned, error) {
	m.given = append(m.given, q)
	if string(q.Passphrase) != "sesame" {
		return wire.Scanned{}, backstay.Errorf(backstay.CodeVolumeKey, "the passphrase does not open volume %s", q.Volume)
	}
	m.locked = false
	return m.Scan(ctx)
}

func (m *paperMachine) List(context.Context, wire.ListRequest) (wire.Folder, error) {
	return wire.Folder{Entries: []backstay.FileEntry{{Name: "disk", Type: backstay.TypeFile}}}, nil
}

func (m *paperMachine) Stat(_ context.Context, q wire.PathRequest) (backstay.FileEntry, error) {
	switch q.Path {
	case "/":
		return backstay.FileEntry{Type: backstay.TypeFolder}, nil
	case "/disk":
		return backstay.FileEntry{Name: "disk", Type: backstay.TypeFile}, nil
	case "/link":
		return backstay.FileEntry{Name: "link", Type: backstay.TypeLink, Target: "disk"}, nil
	}
	return backstay.FileEntry{}, backstay.UnknownFile(backstay.FileLocation(q))
}

func (m *paperMachine) Take(_ context.Context, q wire.TakeRequest) (io.ReadCloser, error) {
	data := make([]byte, m.disks[q.Volume].Size())
	if _, err := m.disks[q.Volume].ReadAt(data, 0); err != nil {
		return nil, backstay.Errorf(backstay.CodeVolumeUnread, "input/output error")
	}
	return io.NopCloser(bytes.NewReader(data)), nil
}

func (m *paperMachine) Close() error { return nil }

func (m *paperMachine) end() error {
	for _, client := range m.disks {
		_ = client.Close()
	}
	return nil
}

func (w *world) files(v *recover.Vault, m *paperMachine) (*recover.Files, string) {
	w.Helper()
	dir, err := os.MkdirTemp("", "f") // whose path is short enough for a socket
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { _ = os.RemoveAll(dir) })
	f, err := v.OpenFiles(w.Context(), w.find(v, "web01@latest"), recover.FilesOptions{Dir: dir}.WithMachine(m, m.end))
	if err != nil {
		w.Fatal(err)
	}
	return f, dir
}

func empty(t *testing.T, dir string) {
	t.Helper()
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left in %s: %v (%v)", dir, left, err)
	}
}

// TestFilesComeOutOfOneCopyAlone: with a storage unit and the key, in a machine that
// this user alone serves; nothing is left of it.
func TestFilesComeOutOfOneCopyAlone(t *testing.T) {
	w := newWorld(t, 2)
	m := &paperMachine{locked: true}
	f, dir := w.files(w.open(w.unit(1)), m)
	for _, socket := range m.sockets {
		if s, err := os.Stat(socket); err != nil || s.Mode().Perm()&0o077 != 0 {
			t.Errorf("others can connect to %s: %v, %v", socket, s, err)
		}
		if s, err := os.Stat(filepath.Dir(socket)); err != nil || s.Mode().Perm()&0o077 != 0 {
			t.Errorf("others can look into the folder of %s: %v, %v", socket, s, err)
		}
	}
	if _, _, err := f.Find(t.Context(), "vda:/disk", true); !backstay.IsCode(err, backstay.CodeVolumeLocked) {
		t.Errorf("a locked volume: %v", err)
	}
	if err := f.Unlock(t.Context(), "vda", backstay.KeyPassphrase, backstay.NewSecret([]byte("abracadabra"))); !backstay.IsCode(err, backstay.CodeVolumeKey) {
		t.Errorf("a wrong key: %v", err)
	}
	if err := f.Unlock(t.Context(), "vda", backstay.KeyPassphrase, backstay.NewSecret([]byte("sesame"))); err != nil {
		t.Fatal(err)
	}
	for volume, want := range w.Disks[1] {
		at, entry, err := f.Find(t.Context(), backstay.FilePath(volume+":/link"), true)
		if err != nil || at.Path != "/disk" || entry.Type != backstay.TypeFile {
			t.Fatalf("%s: %v, %v", at, entry, err)
		}
		stream, err := f.Take(t.Context(), at.Volume, []backstay.FilePath{at.Path})
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(stream)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes of %d, %v", at, len(got), len(want), err)
		}
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	empty(t, dir)
}

// TestAFileOnADamagedPackSaysWhatIsDamaged (I4): inside the machine that was but an
// error of some disk.
func TestAFileOnADamagedPackSaysWhatIsDamaged(t *testing.T) {
	w := newWorld(t, 1)
	for _, name := range w.names(0, "packs/") {
		w.change(0, name, func(b []byte) []byte {
			for at := len(b) / 10; at < len(b)*9/10; at += 64 {
				b[at] ^= 1
			}
			return b
		})
	}
	f, dir := w.files(w.open(w.unit(0)), &paperMachine{})
	_, err := f.Take(t.Context(), "vda", []backstay.FilePath{"/disk"})
	wantCode(t, err, backstay.CodeDamaged, "packs/")
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	empty(t, dir)
}

// TestWithoutTheMachinesPartsItIsSaidWhatToInstall, and nothing is left of the try.
func TestWithoutTheMachinesPartsItIsSaidWhatToInstall(t *testing.T) {
	w := newWorld(t, 1)
	v, dir := w.open(w.unit(0)), t.TempDir()
	t.Setenv("PATH", dir) // no QEMU either
	p := w.find(v, "web01@latest")
	for parts, word := range map[string]string{"": "qemu-system-x86", filepath.Join(dir, "none"): "make build"} {
		_, err := v.OpenFiles(t.Context(), p, recover.FilesOptions{Dir: dir, Parts: parts})
		wantCode(t, err, backstay.CodeMachineFailed, word)
		empty(t, dir)
	}
}
