// Package folder is a key service in a folder, meant to be a mount of another
// machine or a medium that is put away: one file of 32 random bytes for each
// version of a key, KEY.1.key, KEY.2.key and so on. The newest version wraps.
//
// It is as safe as the folder: whoever can read it has the keys.
package folder

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/keyring"
)

// keyBytes is the length of a key.
const keyBytes = 32

// prefix begins all that this service wrapped; the version and the payload follow.
const prefix = "folder:v"

// Service is a key service in a folder.
type Service struct{ dir, key string }

var _ keyring.Service = (*Service)(nil)

// New returns the service with the key of this name in a folder.
func New(dir, key string) (*Service, error) {
	if !filepath.IsAbs(dir) {
		return nil, fmt.Errorf("key folder %q: want an absolute path", dir)
	}
	if key == "" || strings.Trim(key, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") != "" {
		return nil, fmt.Errorf("key name %q: want letters, digits, hyphens and underscores", key)
	}
	return &Service{dir: filepath.Clean(dir), key: key}, nil
}

func (s *Service) path(version int) string {
	return filepath.Join(s.dir, s.key+"."+strconv.Itoa(version)+".key")
}

// Check wraps and unwraps a probe.
func (s *Service) Check(ctx context.Context) error { return keyring.Probe(ctx, s) }

// Wrap encrypts a value with the newest version of the key: AES-256-GCM, with a
// random nonce in front.
func (s *Service) Wrap(ctx context.Context, value backstay.Secret, about string) (string, error) {
	version, err := s.newest(ctx)
	if err != nil {
		return "", fmt.Errorf("wrap: %w", err)
	}
	gcm, err := s.open(version)
	if err != nil {
		return "", fmt.Errorf("wrap: %w", err)
	}
	nonce := make([]byte, gcm.NonceSize())
	if _, err := rand.Read(nonce); err != nil {
		return "", fmt.Errorf("wrap: %w", err)
	}
	head := prefix + strconv.Itoa(version) + ":"
	sealed := gcm.Seal(nonce, nonce, value.Reveal(), []byte(head+about))
	return head + base64.RawStdEncoding.EncodeToString(sealed), nil
}

// Unwrap opens what a version wrapped that is still there.
func (s *Service) Unwrap(ctx context.Context, wrapped, about string) (backstay.Secret, error) {
	version, sealed, err := split(wrapped)
	if err != nil {
		return backstay.Secret{}, fmt.Errorf("unwrap: %w", err)
	}
	if _, err := s.newest(ctx); err != nil {
		return backstay.Secret{}, fmt.Errorf("unwrap: %w", err)
	}
	gcm, err := s.open(version)
	if err != nil {
		return backstay.Secret{}, fmt.Errorf("unwrap: %w", err)
	}
	if len(sealed) < gcm.NonceSize() {
		return backstay.Secret{}, fmt.Errorf("unwrap: %w", keyring.ErrForged)
	}
	value, err := gcm.Open(nil, sealed[:gcm.NonceSize()], sealed[gcm.NonceSize():], []byte(prefix+strconv.Itoa(version)+":"+about))
	if err != nil {
		return backstay.Secret{}, fmt.Errorf("unwrap: %w", keyring.ErrForged)
	}
	return backstay.NewSecret(value), nil
}

func split(wrapped string) (version int, sealed []byte, err error) {
	rest, ok := strings.CutPrefix(wrapped, prefix)
	number, payload, cut := strings.Cut(rest, ":")
	if !ok || !cut {
		return 0, nil, keyring.ErrForged
	}
	version, err = strconv.Atoi(number)
	if err != nil || version < 1 || strconv.Itoa(version) != number {
		return 0, nil, keyring.ErrForged
	}
	if sealed, err = base64.RawStdEncoding.Strict().DecodeString(payload); err != nil {
		return 0, nil, keyring.ErrForged
	}
	return version, sealed, nil
}

// newest finds the newest version. A folder that is not there is a mount that is
// away; one without the key is another's.
func (s *Service) newest(ctx context.Context) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return 0, s.explain(err)
	}
	newest := 0
	for _, e := range entries {
		number, ok := strings.CutPrefix(e.Name(), s.key+".")
		number, isKey := strings.CutSuffix(number, ".key")
		if v, err := strconv.Atoi(number); ok && isKey && err == nil && v > newest {
			newest = v
		}
	}
	if newest == 0 {
		return 0, fmt.Errorf("%w: %s has no key %s", keyring.ErrServiceDenied, s.dir, s.key)
	}
	return newest, nil
}

// open reads one version of the key.
func (s *Service) open(version int) (cipher.AEAD, error) {
	key, err := os.ReadFile(s.path(version))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: version %d of key %s is not in %s", keyring.ErrServiceDenied, version, s.key, s.dir)
	}
	if err != nil {
		return nil, s.explain(err)
	}
	if len(key) != keyBytes {
		return nil, fmt.Errorf("%w: %s has %d bytes, and a key has %d", keyring.ErrServiceDenied, s.path(version), len(key), keyBytes)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

func (s *Service) explain(err error) error {
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrInvalid) {
		return fmt.Errorf("%w: %w", keyring.ErrServiceDenied, err)
	}
	return fmt.Errorf("%w: %w", keyring.ErrServiceAway, err)
}
