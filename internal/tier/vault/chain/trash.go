package chain

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"github.com/oklog/ulid/v2"

	"github.com/backstay/backstay/internal/tier/vault/pack"
	"github.com/backstay/backstay/internal/tier/vault/seal"
)

// TrashPrefix is what the names of all lists of condemned packs start with.
const TrashPrefix = "trash/"

// trashType is the type in the head of such a list.
var trashType = seal.Type{'T', 'R', 'S', 'H'}

const trashFixed = seal.HeadSize + 4 + 32 + 32

// TrashObject returns the name of a list's object.
func TrashObject(id ulid.ULID) string { return TrashPrefix + id.String() }

// ParseTrashObject returns the id of the list with this name.
func ParseTrashObject(name string) (ulid.ULID, error) {
	text, ok := strings.CutPrefix(name, TrashPrefix)
	id, err := ulid.ParseStrict(text)
	if !ok || err != nil || TrashObject(id) != name {
		return id, fmt.Errorf("%q is not the name of a list of condemned packs", name)
	}
	return id, nil
}

// EncodeTrash returns the bytes of a list of condemned packs of a vault (its
// UUID), and their hash, which goes into the condemn record. Each pack is in it
// once, whatever the order in which they are given.
func EncodeTrash(mac MAC, vault [16]byte, id ulid.ULID, packs []pack.ID) ([]byte, Hash) {
	packs = slices.Clone(packs)
	slices.SortFunc(packs, func(a, b pack.ID) int { return bytes.Compare(a[:], b[:]) })
	packs = slices.Compact(packs)
	out := seal.Head{Type: trashType, Vault: vault, ID: id}.Encode(make([]byte, 0, trashFixed+16*len(packs)))
	out = binary.BigEndian.AppendUint32(out, uint32(len(packs)))
	for _, p := range packs {
		out = append(out, p[:]...)
	}
	sum := mac(out)
	out = append(out, sum[:]...)
	sum = seal.Hash(out)
	out = append(out, sum[:]...)
	return out, seal.Hash(out)
}

// DecodeTrash authenticates a list, which must be that of the vault and have the
// id. Anything but what EncodeTrash gives is seal.ErrWrong.
func DecodeTrash(mac MAC, vault [16]byte, id ulid.ULID, data []byte) ([]pack.ID, error) {
	if end := len(data) - 64; end < seal.HeadSize || !seal.Equal(mac(data[:end]), [32]byte(data[end:])) {
		return nil, fmt.Errorf("list of condemned packs: %w", seal.ErrWrong)
	}
	return DecodeTrashKeyless(vault, id, data)
}

// DecodeTrashKeyless is DecodeTrash for whoever has no key.
func DecodeTrashKeyless(vault [16]byte, id ulid.ULID, data []byte) ([]pack.ID, error) {
	head, err := seal.ParseHead(data)
	if err != nil {
		return nil, err
	}
	want := seal.Head{Type: trashType, Vault: vault, ID: id}
	if head != want || len(data) < trashFixed || (len(data)-trashFixed)%16 != 0 {
		return nil, fmt.Errorf("list of condemned packs: %w", seal.ErrWrong)
	}
	n := int(binary.BigEndian.Uint32(data[seal.HeadSize:]))
	end := len(data) - 64
	if n != (len(data)-trashFixed)/16 || !seal.Equal(seal.Hash(data[:end+32]), [32]byte(data[end+32:])) {
		return nil, fmt.Errorf("list of condemned packs: %w", seal.ErrWrong)
	}
	packs := make([]pack.ID, n)
	for i := range packs {
		packs[i] = pack.ID(data[seal.HeadSize+4+16*i:])
		if i > 0 && bytes.Compare(packs[i-1][:], packs[i][:]) >= 0 {
			return nil, fmt.Errorf("list of condemned packs is not in order: %w", seal.ErrWrong)
		}
	}
	return packs, nil
}
