package vault

import (
	"fmt"
	"strings"

	"github.com/oklog/ulid/v2"

	backstay "github.com/backstay/backstay"
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
	folder, rest, _ := strings.Cut(name, "/")
	switch folder {
	case headerObject:
		var sig signed
		if _, sig, err = parseHeader(data); err == nil {
			err = sig.authenticate(keys)
		}
	case "keys":
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
	default:
		err = fmt.Errorf("not an object of a vault: %w", seal.ErrWrong)
	}
	if err != nil {
		return fmt.Errorf("check %s: %w", name, err)
	}
	return nil
}
