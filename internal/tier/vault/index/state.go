package index

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"strconv"
	"strings"
)

const (
	stateFile  = "state"
	stateNew   = "state.new"
	stateName  = "backstay index cache"
	packsFile  = "packs-"
	objectFile = "objects-"
	maxState   = 1 << 20
)

// state names the files of a cache that count. It is replaced as a whole, so
// that a cache is at any moment what one state says.
type state struct {
	Format  string   `json:"format"`
	Version int      `json:"version"`
	ID      string   `json:"id"`      // of this filling of the cache: 32 hex digits
	Next    uint64   `json:"next"`    // the first number that no file had yet
	Files   uint64   `json:"files"`   // number of the files of packs and objects
	Packs   int      `json:"packs"`   // how many count
	Objects int      `json:"objects"` // how many count
	Base    []uint64 `json:"base"`    // runs of the parts, in the order of the names
	Fresh   []uint64 `json:"fresh"`   // runs over all names, oldest first
}

// newState returns the state of an empty cache.
func newState(next uint64) state {
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails (crypto/rand)
	return state{Format: stateName, Version: cacheFormat, ID: hex.EncodeToString(id[:]), Next: next + 1, Files: next}
}

func (s state) encode() ([]byte, error) {
	b, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	return fmt.Appendf(b, "\n%08x\n", crc32.Checksum(b, castagnoli)), nil
}

func decodeState(data []byte) (state, error) {
	var s state
	body, sum, ok := bytes.Cut(data, []byte("\n"))
	if !ok || string(sum) != fmt.Sprintf("%08x\n", crc32.Checksum(body, castagnoli)) {
		return s, fmt.Errorf("state has another checksum: %w", ErrDamaged)
	}
	if err := json.Unmarshal(body, &s); err != nil {
		return s, fmt.Errorf("decode state: %w: %w", ErrDamaged, err)
	}
	if s.Format != stateName || s.Version != cacheFormat {
		return s, fmt.Errorf("state is of version %d, this release has %d: %w", s.Version, cacheFormat, ErrDamaged)
	}
	if id, err := hex.DecodeString(s.ID); err != nil || len(id) != 16 || s.Packs < 0 || s.Objects < 0 {
		return s, fmt.Errorf("state makes no sense: %w", ErrDamaged)
	}
	return s, nil
}

// run returns the identity of a run of this cache.
func (s state) run(number uint64) runID {
	id := runID{number: number}
	_, _ = hex.Decode(id.cache[:], []byte(s.ID)) // checked when it was decoded
	return id
}

func (s state) logs() (packs, objects string) {
	return packsFile + strconv.FormatUint(s.Files, 10), objectFile + strconv.FormatUint(s.Files, 10)
}

// readState returns the state on a disk; os.ErrNotExist if there is none.
func readState(d disk) (state, error) {
	f, err := d.Open(stateFile)
	if err != nil {
		return state{}, err
	}
	data, err := readAll(f)
	if e := f.Close(); err == nil {
		err = e
	}
	if err != nil {
		return state{}, fmt.Errorf("read state: %w", err)
	}
	return decodeState(data)
}

func readAll(f file) ([]byte, error) {
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	if size > maxState {
		return nil, fmt.Errorf("%d bytes: %w", size, ErrDamaged)
	}
	data := make([]byte, size)
	return data, readFull(f, data, 0)
}

// writeState makes a state the one that counts. After an error either may be.
func writeState(d disk, s state) error {
	data, err := s.encode()
	if err != nil {
		return fmt.Errorf("encode state: %w", err)
	}
	f, err := d.Create(stateNew)
	if err != nil {
		return fmt.Errorf("create %s: %w", stateNew, err)
	}
	_, err = f.WriteAt(data, 0)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", stateNew, err)
	}
	// The files that the state names are durable, and so must their names be
	// before it counts.
	if err := d.Sync(); err != nil {
		return fmt.Errorf("sync folder of the index cache: %w", err)
	}
	if err := d.Rename(stateNew, stateFile); err != nil {
		return fmt.Errorf("replace state: %w", err)
	}
	if err := d.Sync(); err != nil {
		return fmt.Errorf("sync folder of the index cache: %w", err)
	}
	return nil
}

// numberOf returns the number in the name of a file of a cache.
func numberOf(name string) (uint64, bool) {
	for _, prefix := range []string{"run-", packsFile, objectFile} {
		if rest, ok := strings.CutPrefix(name, prefix); ok {
			n, err := strconv.ParseUint(rest, 10, 62)
			return n, err == nil
		}
	}
	return 0, false
}

// sweep removes what a crash left: files that the state does not name.
func sweep(d disk, s state) error {
	names, err := d.List()
	if err != nil {
		return fmt.Errorf("list index cache: %w", err)
	}
	packs, objects := s.logs()
	keep := map[string]bool{packs: true, objects: true}
	for _, list := range [][]uint64{s.Base, s.Fresh} {
		for _, n := range list {
			keep[s.run(n).file()] = true
		}
	}
	for _, name := range names {
		if _, ours := numberOf(name); (ours || name == stateNew) && !keep[name] {
			if err := d.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("remove %s: %w", name, err)
			}
		}
	}
	return nil
}

// nextNumber returns a number that no file on the disk has.
func nextNumber(d disk) (uint64, error) {
	names, err := d.List()
	if err != nil {
		return 0, fmt.Errorf("list index cache: %w", err)
	}
	next := uint64(1)
	for _, name := range names {
		if n, ok := numberOf(name); ok {
			next = max(next, n+1)
		}
	}
	return next, nil
}
