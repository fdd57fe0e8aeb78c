package point

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

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

// ClearHeader is ClearPacks with all that the clear part says. The lengths fit, and
// the packs are in order, each once; who made it, only the keys tell.
func ClearHeader(vault [16]byte, id backstay.PointID, data []byte) (Header, error) {
	var h Header
	packs, err := clearPacks(vault, id, data)
	if err != nil {
		return h, err
	}
	head, err := seal.ParseHead(data)
	if err != nil {
		return h, err
	}
	sealed := int64(binary.BigEndian.Uint32(data[clearFixed-8:]))
	plain := int64(binary.BigEndian.Uint32(data[clearFixed-12:]))
	if int64(clearFixed)+16*int64(len(packs))+hashSize+sealed+hashSize != int64(len(data)) || plain > maxBody {
		return h, fmt.Errorf("manifest's lengths do not fit: %w", seal.ErrWrong)
	}
	if !slices.IsSortedFunc(packs, func(a, b pack.ID) int { return bytes.Compare(a[:], b[:]) }) || len(slices.Compact(slices.Clone(packs))) != len(packs) {
		return h, fmt.Errorf("manifest's packs are not in order: %w", seal.ErrWrong)
	}
	rest := data[seal.HeadSize:]
	h = Header{Epoch: head.Epoch, Item: [32]byte(rest), Time: time.Unix(0, int64(binary.BigEndian.Uint64(rest[32:]))).UTC(),
		Root: [32]byte(data[rootAt:]), Packs: packs}
	if expires := int64(binary.BigEndian.Uint64(rest[40:])); expires != never {
		t := time.Unix(0, expires).UTC()
		h.Expires = &t
	}
	return h, nil
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
