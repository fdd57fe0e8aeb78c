package seal

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"

	"github.com/google/uuid"

	backstay "github.com/backstay/backstay"
)

// Keyset is what is wrapped for each recipient of a vault: the master key, from
// which the first epoch follows too, and one random key for each later epoch.
type Keyset struct {
	Vault  string            `json:"vault"`
	Master []byte            `json:"master"`
	Epochs map[uint32][]byte `json:"epochs,omitempty"`
}

// NewKeyset makes the keyset of a new vault.
func NewKeyset(vaultID string) Keyset {
	return Keyset{Vault: vaultID, Master: fresh()}
}

func fresh() []byte {
	value := make([]byte, MasterSize)
	_, _ = rand.Read(value) // never fails (crypto/rand)
	return value
}

// Encode returns the keyset as it is wrapped and as NewKeys takes it.
func (s Keyset) Encode() (backstay.Secret, error) {
	data, err := json.Marshal(s)
	if err != nil {
		return backstay.Secret{}, fmt.Errorf("encode keyset: %w", err)
	}
	return backstay.NewSecret(data), nil
}

// newest is the number of the newest epoch.
func (s Keyset) newest() uint32 { return uint32(len(s.Epochs)) + 1 }

// Keyset returns the encoded keyset from which the keys were derived.
func (k *Keys) Keyset() (backstay.Secret, error) { return k.keyset.Encode() }

// Rotated returns the encoded keyset with one epoch more. Nothing that was
// sealed becomes unreadable, and chunks keep their names.
func (k *Keys) Rotated() (backstay.Secret, error) {
	next := k.keyset
	next.Epochs = map[uint32][]byte{k.Newest() + 1: fresh()}
	for n, key := range k.keyset.Epochs {
		next.Epochs[n] = key
	}
	if next.newest() > MaxEpoch {
		return backstay.Secret{}, fmt.Errorf("a vault has at most %d epochs", MaxEpoch)
	}
	return next.Encode()
}

// parseKeyset demands every key that there must be, and nothing else. Its errors
// say nothing of the content (I10).
func parseKeyset(vaultID string, secret backstay.Secret) (Keyset, error) {
	var s Keyset
	id, err := uuid.Parse(vaultID)
	if err != nil || id.String() != vaultID {
		return s, fmt.Errorf("vault id %q is not a UUID", vaultID)
	}
	value := secret.Reveal()
	if len(value) == MasterSize {
		return Keyset{Vault: vaultID, Master: bytes.Clone(value)}, nil
	}
	decode := json.NewDecoder(bytes.NewReader(value))
	decode.DisallowUnknownFields()
	if decode.Decode(&s) != nil || decode.More() || s.Vault != vaultID || len(s.Master) != MasterSize {
		return Keyset{}, fmt.Errorf("not a keyset of vault %s: %w", vaultID, ErrWrong)
	}
	for n := uint32(2); n <= s.newest(); n++ {
		if len(s.Epochs[n]) != MasterSize {
			return Keyset{}, fmt.Errorf("keyset without its epoch %d: %w", n, ErrWrong)
		}
	}
	return s, nil
}
