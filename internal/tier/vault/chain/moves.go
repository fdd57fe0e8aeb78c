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

// MovesPrefix is what the names of all lists of moved packs start with.
const MovesPrefix = "moved/"

// movesType is the type in the head of such a list.
var movesType = seal.Type{'M', 'O', 'V', 'D'}

// Moves says where the chunks of packs went, for the points for which that was
// found out. A point that is not named still needs the pack itself.
type Moves struct {
	Points [][16]byte // ULIDs, in order, each once
	Packs  []MovedPack
}

// MovedPack is a pack with those that have, together, every chunk of it that the
// points need. There may be none.
type MovedPack struct {
	From pack.ID
	To   []pack.ID // in order, each once
}

// MovesObject returns the name of a list's object.
func MovesObject(id ulid.ULID) string { return MovesPrefix + id.String() }

// ParseMovesObject returns the id of the list with this name.
func ParseMovesObject(name string) (ulid.ULID, error) {
	text, ok := strings.CutPrefix(name, MovesPrefix)
	id, err := ulid.ParseStrict(text)
	if !ok || err != nil || MovesObject(id) != name {
		return id, fmt.Errorf("%q is not the name of a list of moved packs", name)
	}
	return id, nil
}

// EncodeMoves returns the bytes of a list of moves, oldest first, of a vault (its
// UUID), and their hash, which goes into the moved record.
func EncodeMoves(mac MAC, vault [16]byte, id ulid.ULID, moves []Moves) ([]byte, Hash) {
	out := seal.Head{Type: movesType, Vault: vault, ID: id}.Encode(nil)
	out = binary.BigEndian.AppendUint32(out, uint32(len(moves)))
	for _, m := range moves {
		out = binary.BigEndian.AppendUint32(out, uint32(len(m.Points)))
		for _, p := range m.Points {
			out = append(out, p[:]...)
		}
		out = binary.BigEndian.AppendUint32(out, uint32(len(m.Packs)))
		for _, p := range m.Packs {
			out = binary.BigEndian.AppendUint32(append(out, p.From[:]...), uint32(len(p.To)))
			for _, to := range p.To {
				out = append(out, to[:]...)
			}
		}
	}
	sum := mac(out)
	out = append(out, sum[:]...)
	sum = seal.Hash(out)
	out = append(out, sum[:]...)
	return out, seal.Hash(out)
}

// DecodeMoves authenticates a list, which must be that of the vault and have the
// id. Anything but what EncodeMoves gives is seal.ErrWrong.
func DecodeMoves(mac MAC, vault [16]byte, id ulid.ULID, data []byte) ([]Moves, error) {
	if end := len(data) - 64; end < seal.HeadSize+4 || !seal.Equal(mac(data[:end]), [32]byte(data[end:])) {
		return nil, fmt.Errorf("list of moved packs: %w", seal.ErrWrong)
	}
	return DecodeMovesKeyless(vault, id, data)
}

// DecodeMovesKeyless is DecodeMoves for whoever has no key.
func DecodeMovesKeyless(vault [16]byte, id ulid.ULID, data []byte) ([]Moves, error) {
	wrong := fmt.Errorf("list of moved packs: %w", seal.ErrWrong)
	head, err := seal.ParseHead(data)
	if err != nil {
		return nil, err
	}
	end := len(data) - 64
	if want := (seal.Head{Type: movesType, Vault: vault, ID: id}); head != want || end < seal.HeadSize+4 ||
		!seal.Equal(seal.Hash(data[:end+32]), [32]byte(data[end+32:])) {
		return nil, wrong
	}
	r := movesReader{data: data[seal.HeadSize:end]}
	moves := make([]Moves, r.count(8))
	for i := range moves {
		m := Moves{Points: r.ids()}
		m.Packs = make([]MovedPack, r.count(20))
		for j := range m.Packs {
			m.Packs[j].From = pack.ID(r.id())
			for _, to := range r.ids() {
				m.Packs[j].To = append(m.Packs[j].To, pack.ID(to))
			}
			if j > 0 && bytes.Compare(m.Packs[j-1].From[:], m.Packs[j].From[:]) >= 0 {
				r.bad = true
			}
		}
		moves[i] = m
	}
	if r.bad || len(r.data) != 0 {
		return nil, wrong
	}
	return moves, nil
}

// movesReader takes numbers and ids off a slice.
type movesReader struct {
	data []byte
	bad  bool
}

// count reads how many parts follow, of at least so many bytes each.
func (r *movesReader) count(least int) int {
	if len(r.data) < 4 {
		r.bad = true
		return 0
	}
	n := int64(binary.BigEndian.Uint32(r.data))
	r.data = r.data[4:]
	if n*int64(least) > int64(len(r.data)) {
		r.bad = true
		return 0
	}
	return int(n)
}

func (r *movesReader) id() (id [16]byte) {
	if len(r.data) < len(id) {
		r.bad = true
		return id
	}
	copy(id[:], r.data)
	r.data = r.data[len(id):]
	return id
}

// ids reads a counted list in order.
func (r *movesReader) ids() [][16]byte {
	ids := make([][16]byte, r.count(16))
	for i := range ids {
		ids[i] = r.id()
		if i > 0 && bytes.Compare(ids[i-1][:], ids[i][:]) >= 0 {
			r.bad = true
		}
	}
	return ids
}

// SortMoves puts a Moves into the one order that EncodeMoves takes.
func SortMoves(m *Moves) {
	slices.SortFunc(m.Points, func(a, b [16]byte) int { return bytes.Compare(a[:], b[:]) })
	m.Points = slices.Compact(m.Points)
	slices.SortFunc(m.Packs, func(a, b MovedPack) int { return bytes.Compare(a.From[:], b.From[:]) })
	for i := range m.Packs {
		slices.SortFunc(m.Packs[i].To, func(a, b pack.ID) int { return bytes.Compare(a[:], b[:]) })
		m.Packs[i].To = slices.Compact(m.Packs[i].To)
	}
}
