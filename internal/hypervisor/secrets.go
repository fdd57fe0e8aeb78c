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

// SecretInfo is what is known of a secret beside its value.
type SecretInfo struct {
	UUID        string
	Usage       string // volume, vtpm …; "" for none
	UsageID     string // what it is used for: a path, a name
	Description string
	Ephemeral   bool // not kept over a restart of the hypervisor's daemon
	Private     bool // its value can never be read
}

// KeepsSecrets lists, makes and removes secrets.
type KeepsSecrets interface {
	Secrets
	// SecretInfo describes a secret; ErrNoSecret if there is none of this UUID.
	SecretInfo(ctx context.Context, uuid string) (SecretInfo, error)
	// DefineSecret makes a secret with this value. ErrExists if one of its UUID has
	// a value, or may have one that cannot be read: it is never overwritten. Where
	// another secret has the usage, it is made without one, since disks name secrets
	// by UUID.
	DefineSecret(ctx context.Context, info SecretInfo, value backstay.Secret) error
	// UndefineSecret removes a secret with its value. No error if it is not there.
	UndefineSecret(ctx context.Context, uuid string) error
}

// Encrypts makes encrypted images.
type Encrypts interface {
	// CreateEncrypted makes an empty image, qcow2 or luks, that image.Secret opens,
	// mode 0600. ErrExists if the file is there. The content of a luks image is not
	// zeros but whatever its key makes of them, until it was written.
	CreateEncrypted(ctx context.Context, image Image, size int64) error
}
