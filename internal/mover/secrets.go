package mover

import (
	"context"

	backstay "github.com/backstay/backstay"
)

// KeyService is what a mover needs to use an outside key service.
type KeyService struct {
	Name string
	Kind string // file, transit
	// URL is the service's address; of a file service the folder.
	URL string
	// Key is the name of the key in it.
	Key string
	// Mount is where the service has its keys; of a transit service "transit" if "".
	Mount string
	// Credential is what the service demands: a token, or an id and a secret in two
	// lines. rpc carries it, nothing prints it.
	Credential backstay.Secret
	// CA is a PEM file's content to trust; nil means the machine's own.
	CA []byte
}

// KeyPolicy says how a point holds the values of the VM's secrets.
type KeyPolicy struct {
	// Service wraps them.
	Service KeyService
	// Escrow are the vault's recovery recipients, to which a copy is encrypted.
	Escrow []string
}

// SecretsRequest asks about the secrets that a restore of a point needs.
type SecretsRequest struct {
	Point backstay.PointID
	Tier  backstay.Tier
	Vault *VaultAccess // with VaultTier
	// Services are the key services that the point's secrets may need.
	Services []KeyService
}

// SecretState is a secret that a point needs, on this host.
type SecretState struct {
	backstay.PointSecret
	// Disks are those that it opens; none for that of a TPM.
	Disks []backstay.DiskTarget
	// Present: the host has it.
	Present bool
	// Problem is why a restore would fail on it; nil if it would not: it is there
	// and fits, or its value can be had.
	Problem *backstay.Error
	// Note says what could not be found out, "" for nothing.
	Note string
	// Escrow is the value, encrypted to the vault's recovery recipients; nil if the
	// point has none.
	Escrow []byte
}

// GivenSecret is a secret whose value somebody brings along.
type GivenSecret struct {
	UUID  string
	Value backstay.Secret
}

// GiveRequest asks to make secrets that a point needs and the host lacks.
type GiveRequest struct {
	SecretsRequest
	Secrets []GivenSecret
}

// Secrets looks after the hypervisor's secrets that points need. No value ever
// leaves the host by it (I10).
type Secrets interface {
	// SecretStates tells of each secret of a point whether a restore on this host
	// has what it needs. It makes nothing.
	SecretStates(ctx context.Context, r SecretsRequest) ([]SecretState, error)
	// GiveSecrets makes those of the point's secrets that the host lacks, with the
	// values that are given. One that is present is never overwritten: the same
	// value is no error, another is CodeSecretDiffers.
	GiveSecrets(ctx context.Context, r GiveRequest) error
}
