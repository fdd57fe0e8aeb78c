// Package keyring is the port to the place where a server or a host keeps its
// own identity: the key with which it opens what was wrapped for it. Vault keys
// themselves live, wrapped, in the vault.
package keyring

import (
	"context"
	"errors"

	backstay "github.com/backstay/backstay"
)

// ErrNoKey: the keyring holds no key of this name.
var ErrNoKey = errors.New("no such key")

// Keyring holds named secrets of this machine. Every method may be called
// concurrently.
type Keyring interface {
	// Key returns the secret of this name, or ErrNoKey.
	Key(ctx context.Context, name string) (backstay.Secret, error)
	// Create makes and durably keeps a secret that must not be there yet: of two
	// callers one makes it, and both get the same. fresh is called to make it.
	Create(ctx context.Context, name string, fresh func() (backstay.Secret, error)) (backstay.Secret, error)
}
