// Package seal holds a vault's keys and everything that is done with them:
// naming, sealing, opening, authenticating. All keys follow from the vault's
// keyset; none leaves the package but in a keyset that is to be wrapped.
//
// It knows no format but the head that every binary object of a vault starts
// with, because the head is what binds an object to its vault, kind and name (I4).
package seal

import (
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"lukechampine.com/blake3"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/tier/vault/chunk"
)

// ErrWrong: something is not what was sealed for this place.
var ErrWrong = errors.New("cannot be authenticated")

// ErrNewerKey: an object is sealed with an epoch that these keys do not have. It
// is a coded error (backstay.CodeVaultKeyOld): the keyset must be unwrapped anew.
var ErrNewerKey error = backstay.Errorf(backstay.CodeVaultKeyOld, "the vault's key at hand is older than what is to be read").
	Becausef("the vault's keys were rotated since it was opened: it needs a newer key")

// Overhead is by how much sealing enlarges, in bytes.
const Overhead = 16

// MasterSize is the length of a master key, in bytes; the random keys of the
// later epochs have the same.
const MasterSize = 32

// Keys are the keys of one vault. They may be used concurrently.
type Keys struct {
	vault  [16]byte
	keyset Keyset
	// These follow from the master key and live as long as the vault.
	header []byte // authenticates the vault's headers
	naming []byte // another one would end deduplication
	item   []byte
	root   []byte
	chain  []byte // authenticates the records of the chain
	trash  []byte // authenticates lists of what is to be deleted
	public []byte // of which the key id is a hash
	// These seal; one pair for each epoch, in order from the first.
	epochs []epochKeys
	cipher uint32
}

// epochKeys seal the objects of one epoch.
type epochKeys struct {
	data     []byte // keys of packs and indexes follow from it
	manifest []byte // keys of manifests, and the MAC of their clear part
}

// NewKeys derives the keys of the vault with this UUID from its encoded keyset;
// a bare master key of 32 bytes is a keyset with the first epoch alone.
func NewKeys(vaultID string, keyset backstay.Secret) (*Keys, error) {
	set, err := parseKeyset(vaultID, keyset)
	if err != nil {
		return nil, err
	}
	id := uuid.MustParse(vaultID) // parseKeyset demands the canonical form
	k := &Keys{vault: id, keyset: set, epochs: make([]epochKeys, set.newest()), cipher: preferredCipher()}
	derived := []derivation{
		{&k.header, set.Master, "backstay vault 1 header"}, {&k.naming, set.Master, "backstay vault 1 naming"},
		{&k.item, set.Master, "backstay vault 1 item"}, {&k.root, set.Master, "backstay vault 1 root"},
		{&k.chain, set.Master, "backstay vault 2 chain"}, {&k.trash, set.Master, "backstay vault 2 trash"},
		{&k.public, set.Master, "backstay vault 2 key id"},
		{&k.epochs[0].data, set.Master, "backstay vault 1 data"}, {&k.epochs[0].manifest, set.Master, "backstay vault 1 manifest"},
	}
	for n := uint32(2); n <= set.newest(); n++ {
		e := &k.epochs[n-1]
		derived = append(derived, derivation{&e.data, set.Epochs[n], "backstay vault 2 data"},
			derivation{&e.manifest, set.Epochs[n], "backstay vault 2 manifest"})
	}
	for _, d := range derived {
		if *d.key, err = hkdf.Key(sha256.New, d.secret, id[:], d.info, 32); err != nil {
			return nil, fmt.Errorf("derive key: %w", err)
		}
	}
	return k, nil
}

// derivation is one key that follows from a secret.
type derivation struct {
	key    *[]byte
	secret []byte
	info   string
}

// Epoch is the epoch field of the heads of new objects: the newest epoch in the
// low 24 bits, the cipher of this machine above.
func (k *Keys) Epoch() uint32 { return k.Field(k.Newest()) }

// Field is the epoch field of the heads of new objects of an older epoch.
func (k *Keys) Field(epoch uint32) uint32 { return k.cipher<<CipherShift | epoch }

// Newest is the number of the newest epoch.
func (k *Keys) Newest() uint32 { return uint32(len(k.epochs)) }

// ID identifies the master key to those who keep a note of which key a vault
// has. It tells nothing of the key.
func (k *Keys) ID() string {
	sum := Hash(k.public)
	return hex.EncodeToString(sum[:16])
}

// sealing returns the keys of the epoch in a head's epoch field.
func (k *Keys) sealing(field uint32) (epochKeys, error) {
	switch n := field & MaxEpoch; {
	case n == 0:
		return epochKeys{}, fmt.Errorf("epoch 0: %w", ErrWrong)
	case n > k.Newest():
		return epochKeys{}, fmt.Errorf("epoch %d, the keys go to %d: %w", n, k.Newest(), ErrNewerKey)
	default:
		return k.epochs[n-1], nil
	}
}

func keyed(key []byte, parts ...[]byte) [32]byte {
	h := blake3.New(32, key)
	for _, p := range parts {
		h.Write(p)
	}
	var sum [32]byte
	h.Sum(sum[:0])
	return sum
}

// Hash is the keyless BLAKE3-256 of stored bytes: how a copy is checked without keys.
func Hash(parts ...[]byte) [32]byte { return keyed(nil, parts...) }

// Name returns the name of a chunk. The kind is hashed after the content, where
// it does not disturb the content's alignment.
func (k *Keys) Name(kind chunk.Kind, plain []byte) chunk.Name {
	return keyed(k.naming, plain, []byte{byte(kind)})
}

// Item returns the pseudonym of a VM.
func (k *Keys) Item(vm backstay.VMID) [32]byte { return keyed(k.item, []byte(vm)) }

// Root returns the hash over the whole content of a point's manifest.
func (k *Keys) Root(point [16]byte, body []byte) [32]byte {
	return keyed(k.root, k.vault[:], point[:], body)
}

// HeaderMAC authenticates a header of the vault.
func (k *Keys) HeaderMAC(header []byte) [32]byte { return keyed(k.header, header) }

// ChainMAC authenticates a record of the vault's chain.
func (k *Keys) ChainMAC(record []byte) [32]byte { return keyed(k.chain, record) }

// TrashMAC authenticates a list of objects that are to be deleted.
func (k *Keys) TrashMAC(list []byte) [32]byte { return keyed(k.trash, list) }

// ManifestMAC authenticates the clear part of a manifest, which starts with its
// head, with the key of the head's epoch. Where these keys do not have that
// epoch it is random: nothing equals it.
func (k *Keys) ManifestMAC(clear []byte) [32]byte {
	var none [32]byte
	if len(clear) >= HeadSize {
		if e, err := k.sealing(binary.BigEndian.Uint32(clear[epochAt:])); err == nil {
			return keyed(e.manifest, clear)
		}
	}
	_, _ = rand.Read(none[:]) // never fails (crypto/rand)
	return none
}

// Equal compares two hashes without telling by its time where they differ.
func Equal(a, b [32]byte) bool { return subtle.ConstantTimeCompare(a[:], b[:]) == 1 }
