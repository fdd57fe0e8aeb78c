package chain

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/tier/vault/seal"
)

const (
	// Prefix is what the names of all records start with.
	Prefix = "chain/"
	// Every is how many records lie between two checkpoints: the record is one
	// exactly if its number is a multiple of this.
	Every = 128
	// version is that of the format of records.
	version = 1
	// maxRecord bounds a record, in bytes. Only checkpoints come near it.
	maxRecord = 64 << 20
)

// MAC authenticates bytes with a key of the vault.
type MAC func([]byte) [32]byte

// Op is what a record says was done.
type Op string

// The ops, with the fields that each has besides the common ones.
const (
	Commit       Op = "commit"     // Point, Root: the point is visible from here on
	Drop         Op = "drop"       // Point: its manifest is to be removed
	Condemn      Op = "condemn"    // Object, Hash: the packs of this list are to go; writers that begin from here on leave them alone
	Reclaim      Op = "reclaim"    // Object, Of (the condemn record): the fence; a writer that began before Of must not refer to them any more
	Reclaimed    Op = "reclaimed"  // Object, Of (the condemn record): nothing of the list will be deleted any more
	Moved        Op = "moved"      // Object, Hash: a list of packs and those that have their chunks now; Of: lists up to this record are in it
	Keys         Op = "keys"       // Generation, Object, Hash: of the vault's header from here on
	Checkpointed Op = "checkpoint" // Checkpoint: the state, so that no record before need be read
)

// Hash is a BLAKE3-256.
type Hash [32]byte

// String returns the hash in hex.
func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// IsZero tells whether there is none.
func (h Hash) IsZero() bool { return h == Hash{} }

// MarshalText writes it in hex.
func (h Hash) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText reads what MarshalText writes.
func (h *Hash) UnmarshalText(text []byte) error {
	b, err := hex.DecodeString(string(text))
	if err != nil || len(b) != len(h) {
		return fmt.Errorf("hash %q: want 64 hex digits", text)
	}
	copy(h[:], b)
	return nil
}

// ParseHash reads a hash in hex.
func ParseHash(s string) (Hash, error) {
	var h Hash
	err := h.UnmarshalText([]byte(s))
	return h, err
}

// Head names the newest record that is meant: its number, from 1, and its hash.
// The zero Head is that of a chain without records.
type Head struct {
	Seq  uint64 `json:"seq"`
	Hash Hash   `json:"hash"`
}

// Record is one link of the chain. Version, Seq and Prev are set by the Log.
type Record struct {
	Version    int              `json:"version"`
	Seq        uint64           `json:"seq"`  // from 1
	Prev       Hash             `json:"prev"` // of the object of the record before; zero for the first
	Time       time.Time        `json:"time"` // as its writer told; nothing is decided by it alone
	Op         Op               `json:"op"`
	Point      backstay.PointID `json:"point,omitempty"`
	Root       Hash             `json:"root,omitzero"`
	Object     string           `json:"object,omitempty"`
	Hash       Hash             `json:"hash,omitzero"` // BLAKE3-256 of Object's bytes
	Of         uint64           `json:"of,omitempty"`  // the record that this one refers to
	Generation uint32           `json:"generation,omitempty"`
	Checkpoint *Checkpoint      `json:"checkpoint,omitempty"`
}

// envelope is the whole object.
type envelope struct {
	Record json.RawMessage `json:"record"`
	MAC    Hash            `json:"mac"`    // of the bytes of Record
	Sum    Hash            `json:"blake3"` // of the bytes of Record and MAC, for whoever has no key
}

// Object returns the name of a record's object.
func Object(seq uint64) string { return fmt.Sprintf("%s%016d", Prefix, seq) }

// ParseObject returns the number of the record that an object of this name holds.
func ParseObject(name string) (uint64, error) {
	digits, ok := strings.CutPrefix(name, Prefix)
	seq, err := strconv.ParseUint(digits, 10, 64)
	if !ok || err != nil || seq == 0 || Object(seq) != name {
		return 0, fmt.Errorf("%q is not the name of a record", name)
	}
	return seq, nil
}

// Encode returns the bytes of a record's object, and their hash.
func Encode(mac MAC, r Record) ([]byte, Hash, error) {
	if err := r.check(); err != nil {
		return nil, Hash{}, err
	}
	raw, err := json.Marshal(r)
	if err != nil {
		return nil, Hash{}, fmt.Errorf("encode record: %w", err)
	}
	e := envelope{Record: raw, MAC: mac(raw)}
	e.Sum = seal.Hash(raw, e.MAC[:])
	data, err := json.Marshal(e)
	if err != nil || len(data) >= maxRecord {
		return nil, Hash{}, fmt.Errorf("encode record of %d bytes: too long or %w", len(data), err)
	}
	data = append(data, '\n')
	return data, seal.Hash(data), nil
}

// Decode authenticates the record of this number. Only the one form that Encode
// gives a record is accepted; anything else is seal.ErrWrong.
func Decode(mac MAC, seq uint64, data []byte) (Record, error) {
	r, e, err := decode(seq, data)
	if err != nil {
		return r, err
	}
	if !seal.Equal(mac(e.Record), e.MAC) {
		return Record{}, fmt.Errorf("record: %w", seal.ErrWrong)
	}
	return r, nil
}

// Check finds accidents in the object of the record of this number without any
// key. It authenticates nothing.
func Check(seq uint64, data []byte) error {
	_, _, err := decode(seq, data)
	return err
}

func decode(seq uint64, data []byte) (Record, envelope, error) {
	var r Record
	var e envelope
	if len(data) > maxRecord {
		return r, e, fmt.Errorf("record of %d bytes: %w", len(data), seal.ErrWrong)
	}
	if err := json.Unmarshal(data, &e); err != nil {
		return r, e, fmt.Errorf("record: %w: %w", seal.ErrWrong, err)
	}
	if seal.Hash(e.Record, e.MAC[:]) != e.Sum {
		return r, e, fmt.Errorf("record has another hash than it says: %w", seal.ErrWrong)
	}
	if err := json.Unmarshal(e.Record, &r); err != nil {
		return r, e, fmt.Errorf("record: %w: %w", seal.ErrWrong, err)
	}
	if r.Seq != seq {
		return r, e, fmt.Errorf("record %d in the place of record %d: %w", r.Seq, seq, seal.ErrWrong)
	}
	again, _, err := Encode(func([]byte) [32]byte { return e.MAC }, r)
	if err != nil || !bytes.Equal(again, data) {
		return r, e, fmt.Errorf("record is not in its one form: %w", seal.ErrWrong)
	}
	return r, e, nil
}

// check demands that a record has the fields of its op, and no others.
func (r *Record) check() error {
	fields := Record{Version: version, Seq: r.Seq, Prev: r.Prev, Time: r.Time, Op: r.Op}
	ok := r.Seq > 0 && (r.Seq == 1) == r.Prev.IsZero() && r.Time.Equal(r.Time.UTC().Round(0)) && r.Time.Location() == time.UTC
	ok = ok && (r.Op == Checkpointed) == (r.Seq%Every == 0)
	switch r.Op {
	case Commit:
		fields.Point, fields.Root = r.Point, r.Root
		ok = ok && canonical(string(r.Point)) && !r.Root.IsZero()
	case Drop:
		fields.Point = r.Point
		ok = ok && canonical(string(r.Point))
	case Condemn, Moved:
		fields.Object, fields.Hash, fields.Of = r.Object, r.Hash, r.Of
		ok = ok && named(r.Object) && !r.Hash.IsZero() && r.Of < r.Seq && (r.Of == 0 || r.Op == Moved)
	case Reclaim, Reclaimed:
		fields.Object, fields.Of = r.Object, r.Of
		ok = ok && named(r.Object) && r.Of > 0 && r.Of < r.Seq
	case Keys:
		fields.Object, fields.Hash, fields.Generation = r.Object, r.Hash, r.Generation
		ok = ok && named(r.Object) && !r.Hash.IsZero() && r.Generation > 0
	case Checkpointed:
		fields.Checkpoint = r.Checkpoint
		ok = ok && r.Checkpoint != nil
	default:
		return fmt.Errorf("record of unknown kind %q", r.Op)
	}
	if !ok || fields != *r {
		return fmt.Errorf("record %d (%s) has other fields than its kind has", r.Seq, r.Op)
	}
	return nil
}

func named(object string) bool { return object != "" && len(object) <= 512 }

func canonical(id string) bool {
	u, err := ulid.ParseStrict(id)
	return err == nil && u.String() == id
}
