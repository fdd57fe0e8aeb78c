//go:build integration

package recover_test

import (
	"bytes"
	"os"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/guest/guesttest"
	"github.com/backstay/backstay/internal/guest/guesttest/recipes"
	"github.com/backstay/backstay/internal/guest/image"
	"github.com/backstay/backstay/internal/items"
	"github.com/backstay/backstay/internal/recover"
)

// TestFilesOfAnEncryptedVolumeComeOutOfAUnit in a real small machine, with the key of
// the volume; nothing is left of it.
func TestFilesOfAnEncryptedVolumeComeOutOfAUnit(t *testing.T) {
	w := newWorld(t, 1)
	disk, err := os.ReadFile(guesttest.Images(t, "luks2")[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := w.AddDisks(t.Context(), 1, map[backstay.DiskTarget][]byte{"vda": disk}); err != nil {
		t.Fatal(err)
	}
	parts, err := image.Ensure(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	v, dir := w.open(w.unit(2)), t.TempDir()
	f, err := v.OpenFiles(t.Context(), w.find(v, "web01@latest"), recover.FilesOptions{Parts: parts, Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if all := f.Volumes(); len(all) != 1 || all[0].Kind != backstay.VolumeLocked {
		t.Fatalf("volumes: %+v", all)
	}
	if err := f.Unlock(t.Context(), "vda1", backstay.KeyPassphrase, backstay.NewSecret([]byte("wrong"))); !backstay.IsCode(err, backstay.CodeVolumeKey) {
		t.Errorf("a wrong passphrase: %v", err)
	}
	if err := f.Unlock(t.Context(), "vda1", backstay.KeyPassphrase, backstay.NewSecret([]byte(recipes.Passphrase))); err != nil {
		t.Fatal(err)
	}
	at, entry, err := f.Find(t.Context(), "vda1:/", true)
	if err != nil || entry.Type != backstay.TypeFolder {
		t.Fatalf("%s: %+v, %v", at, entry, err)
	}
	stream, err := f.Take(t.Context(), at.Volume, []backstay.FilePath{at.Path})
	if err != nil {
		t.Fatal(err)
	}
	var tar bytes.Buffer
	archive := items.NewTar(&tar, items.ArchiveOptions{})
	if err := archive.Add(t.Context(), items.NewReader(stream)); err != nil {
		t.Fatal(err)
	}
	report, err := archive.Close()
	if err != nil || !report.Whole() || report.Files < 60 || !bytes.Contains(tar.Bytes(), []byte("hello\n")) || stream.Close() != nil {
		t.Errorf("taken: %+v, %v", report, err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	empty(t, dir)
}
