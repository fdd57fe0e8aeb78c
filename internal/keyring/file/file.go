// Package file is a keyring in a folder: one file a key, readable by its owner
// only. It protects keys as file modes do and no further; whoever can read the
// folder has the keys.
package file

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/durable"
	"github.com/backstay/backstay/internal/keyring"
)

// maxKey bounds the size of a key file, in bytes.
const maxKey = 64 << 10

// Keyring is a keyring in a folder.
type Keyring struct{ dir string }

// New returns the keyring in a folder, which is made when the first key is.
func New(dir string) *Keyring { return &Keyring{dir: filepath.Clean(dir)} }

func (k *Keyring) path(name string) (string, error) {
	if name == "" || len(name) > 100 || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
		return "", fmt.Errorf("key name %q: want lower-case letters, digits and hyphens", name)
	}
	return filepath.Join(k.dir, name+".key"), nil
}

// Key returns the secret of this name. A file that others than its owner can
// read is refused.
func (k *Keyring) Key(ctx context.Context, name string) (backstay.Secret, error) {
	path, err := k.path(name)
	if err != nil {
		return backstay.Secret{}, err
	}
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return backstay.Secret{}, fmt.Errorf("key %s: %w", name, keyring.ErrNoKey)
	}
	if err != nil {
		return backstay.Secret{}, fmt.Errorf("read key %s: %w", name, err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return backstay.Secret{}, fmt.Errorf("read key %s: %s can be read by others (mode %04o): make it 0600", name, path, info.Mode().Perm())
	}
	if info.Size() == 0 || info.Size() > maxKey {
		return backstay.Secret{}, fmt.Errorf("read key %s: %s has %d bytes", name, path, info.Size())
	}
	value, err := os.ReadFile(path)
	if err != nil {
		return backstay.Secret{}, fmt.Errorf("read key %s: %w", name, err)
	}
	return backstay.NewSecret(value), nil
}

// Create returns the key of this name and makes it if there is none: written
// aside, synced, linked to its name, folders synced.
func (k *Keyring) Create(ctx context.Context, name string, fresh func() (backstay.Secret, error)) (backstay.Secret, error) {
	there, err := k.Key(ctx, name)
	if err == nil {
		// Whoever made it may have died before it was durable.
		return there, durable.Sync(k.dir)
	}
	if !errors.Is(err, keyring.ErrNoKey) {
		return backstay.Secret{}, err
	}
	value, err := fresh()
	if err != nil {
		return backstay.Secret{}, fmt.Errorf("make key %s: %w", name, err)
	}
	if n := len(value.Reveal()); n == 0 || n > maxKey {
		return backstay.Secret{}, fmt.Errorf("make key %s: %d bytes", name, n)
	}
	if err := k.write(name, value.Reveal()); err != nil && !errors.Is(err, fs.ErrExist) {
		return backstay.Secret{}, fmt.Errorf("write key %s: %w", name, err)
	}
	return k.Key(ctx, name)
}

func (k *Keyring) write(name string, value []byte) error {
	path, err := k.path(name)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(k.dir, 0o700); err != nil {
		return err
	}
	temp := filepath.Join(k.dir, ".new-"+rand.Text())
	f, err := os.OpenFile(temp, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer os.Remove(temp)
	_, err = f.Write(value)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	// A link fails if the name is taken: of two callers one makes the key.
	if err := os.Link(temp, path); err != nil {
		return errors.Join(err, durable.Sync(k.dir))
	}
	return errors.Join(durable.Sync(k.dir), durable.Sync(filepath.Dir(k.dir)))
}
