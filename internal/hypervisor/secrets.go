package hypervisor

import (
	"context"
	"errors"

	backstay "github.com/backstay/backstay"
)

// Errors by which callers of Secrets decide.
var (
	// ErrNoSecret: the hypervisor has no secret of this UUID, or no value for it.
	ErrNoSecret = errors.New("the host has no such secret")
	// ErrPrivateSecret: the secret is marked private, and nobody may read its value.
	ErrPrivateSecret = errors.New("the secret is private: its value cannot be read")
)

// Secrets hands out the values of secrets that disk images are encrypted with.
type Secrets interface {
	// Secret returns the value of a secret by its UUID: ErrNoSecret,
	// ErrPrivateSecret, or ErrAway. The value must not leave the host (I10) and is
	// asked for anew each time it is needed.
	Secret(ctx context.Context, uuid string) (backstay.Secret, error)
}

// Encrypts makes encrypted images.
type Encrypts interface {
	// CreateEncrypted makes an empty image, qcow2 or luks, that image.Secret opens,
	// mode 0600. ErrExists if the file is there.
	CreateEncrypted(ctx context.Context, image Image, size int64) error
}
