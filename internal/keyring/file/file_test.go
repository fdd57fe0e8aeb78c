package file_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/keyring"
	"github.com/backstay/backstay/internal/keyring/file"
	"github.com/backstay/backstay/internal/keyring/keyringtest"
)

func TestConformance(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	keyringtest.Run(t, func() keyring.Keyring { return file.New(dir) })
}

func TestKeysAreReadableByTheirOwnerOnly(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	k := file.New(dir)
	if _, err := k.Create(t.Context(), "host-key", func() (backstay.Secret, error) { return backstay.NewSecret([]byte("x")), nil }); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]os.FileMode{dir: 0o700, filepath.Join(dir, "host-key.key"): 0o600} {
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v %v", path, info.Mode(), err)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("%d files are left: %v", len(entries), err)
	}
	if err := os.Chmod(filepath.Join(dir, "host-key.key"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Key(t.Context(), "host-key"); err == nil || errors.Is(err, keyring.ErrNoKey) {
		t.Errorf("a key that others can read is used: %v", err)
	}
}
