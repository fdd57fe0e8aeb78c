package vault

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/oklog/ulid/v2"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/tier/vault/chain"
	"github.com/backstay/backstay/internal/tier/vault/index"
	"github.com/backstay/backstay/internal/tier/vault/pack"
	"github.com/backstay/backstay/internal/tier/vault/point"
	"github.com/backstay/backstay/internal/tier/vault/seal"
)

// CheckObject checks the bytes of one object as they are in one copy: every byte
// is accounted for, and a pack's chunks go through the decoder. A wrapped key
// only opens for its recipient, so of those nothing is said.
func CheckObject(vaultID string, master backstay.Secret, name string, data []byte) error {
	keys, err := seal.NewKeys(vaultID, master)
	if err != nil {
		return err
	}
	if err := check(keys, name, data); !errors.Is(err, errNoWord) {
		return err
	}
	return nil
}

// check is CheckObject with errNoWord for what nothing is said of.
func check(keys *seal.Keys, name string, data []byte) (err error) {
	folder, rest, _ := strings.Cut(name, "/")
	switch folder {
	case headerObject, "headers":
		var h writtenHeader
		if h, err = parseHeader(name, data); err == nil {
			err = h.authenticate(keys)
		}
	case "keys":
		err = errNoWord
	case "chain":
		var seq uint64
		if seq, err = chain.ParseObject(name); err == nil {
			_, err = chain.Decode(keys.ChainMAC, seq, data)
		}
	case "trash":
		var id ulid.ULID
		if id, err = chain.ParseTrashObject(name); err == nil {
			_, err = chain.DecodeTrash(keys.TrashMAC, keys.Head(seal.Pack, id, 0).Vault, id, data)
		}
	case "packs":
		var id pack.ID
		if id, err = pack.ParseID(rest[strings.LastIndexByte(rest, '/')+1:]); err == nil {
			_, err = pack.Verify(keys, id, data)
		}
	case "indexes":
		var id ulid.ULID
		if id, err = ulid.ParseStrict(rest); err == nil {
			_, err = index.Decode(keys, id, data)
		}
	case "points":
		_, _, err = point.Decode(keys, backstay.PointID(rest), data)
	case "find":
		_, err = openFiles(keys, name, data)
	case "moved":
		var id ulid.ULID
		if id, err = chain.ParseMovesObject(name); err == nil {
			_, err = chain.DecodeMoves(keys.TrashMAC, keys.Head(seal.Pack, id, 0).Vault, id, data)
		}
	default:
		err = fmt.Errorf("not an object of a vault: %w", seal.ErrWrong)
	}
	if err != nil {
		return fmt.Errorf("check %s: %w", name, err)
	}
	return nil
}

// check is CheckObject for an object of this vault. Wrapped keys are those that
// the header pins.
func (v *Vault) check(name string, data []byte) error {
	for _, r := range v.header.Recipients {
		if r.Object != name {
			continue
		}
		if sum := seal.Hash(data); hex.EncodeToString(sum[:]) != r.Hash {
			return fmt.Errorf("check %s: it has another hash than the vault's header says: %w", name, seal.ErrWrong)
		}
		return nil
	}
	return check(v.keys, name, data)
}

// certain returns the objects that every copy must have, whatever a listing says.
func (v *Vault) certain() []string {
	names := headerNames(v.opened.newest.Generation)
	for _, r := range v.header.Recipients {
		names = append(names, r.Object)
	}
	return names
}
