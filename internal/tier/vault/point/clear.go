package point

import (
	"encoding/binary"
	"fmt"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/tier/vault/pack"
	"github.com/backstay/backstay/internal/tier/vault/seal"
)

// ClearPacks reads the packs out of the clear part of a manifest of the vault
// with this UUID, and checks its hash, with no key. It finds accidents; against
// intent only the keys help.
func ClearPacks(vault [16]byte, id backstay.PointID, data []byte) ([]pack.ID, error) {
	packs, _, err := ClearNeeds(vault, id, data)
	return packs, err
}

// ClearNeeds is ClearPacks with the root that the manifest says to have.
func ClearNeeds(vault [16]byte, id backstay.PointID, data []byte) (packs []pack.ID, root [32]byte, err error) {
	packs, err = clearPacks(vault, id, data)
	if err == nil {
		root = [32]byte(data[rootAt:])
	}
	return packs, root, err
}

func clearPacks(vault [16]byte, id backstay.PointID, data []byte) ([]pack.ID, error) {
	name, err := ParseID(id)
	if err != nil {
		return nil, err
	}
	if len(data) < clearFixed+hashSize+seal.Overhead+hashSize {
		return nil, fmt.Errorf("manifest of %d bytes: %w", len(data), seal.ErrWrong)
	}
	end := len(data) - hashSize
	if seal.Hash(data[:end]) != [32]byte(data[end:]) {
		return nil, fmt.Errorf("manifest has another hash than it says: %w", seal.ErrWrong)
	}
	head, err := seal.ParseHead(data)
	if err != nil {
		return nil, err
	}
	if head.Type != seal.Manifest || head.Vault != vault || head.ID != name {
		return nil, fmt.Errorf("not the manifest of this point: %w", seal.ErrWrong)
	}
	count := int64(binary.BigEndian.Uint32(data[clearFixed-4:]))
	if clearFixed+16*count+hashSize > int64(end) {
		return nil, fmt.Errorf("manifest's lengths do not fit: %w", seal.ErrWrong)
	}
	packs := make([]pack.ID, count)
	for i := range packs {
		packs[i] = pack.ID(data[clearFixed+16*i:])
	}
	return packs, nil
}
