package vault

import (
	"context"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/google/uuid"
	"github.com/oklog/ulid/v2"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/tier/vault/chain"
	"github.com/backstay/backstay/internal/tier/vault/pack"
	"github.com/backstay/backstay/internal/tier/vault/point"
	"github.com/backstay/backstay/internal/tier/vault/seal"
)

// keyless checks a vault's objects by what they carry in the clear.
type keyless struct {
	store   blob.Store
	copies  []blob.Store
	id      uuid.UUID
	newest  uint32            // generation of the header
	headers []string          // their names
	pinned  map[string]string // hashes of the wrapped keys, in hex, by object
}

// newKeyless reads the header, which is where the wrapped keys' hashes are.
func newKeyless(ctx context.Context, s blob.Store, vaultID string) (*keyless, error) {
	id, err := uuid.Parse(vaultID)
	if err != nil {
		return nil, backstay.Errorf(backstay.CodeUsage, "%q is not the id of a vault", vaultID).Because(err)
	}
	k := &keyless{store: s, copies: copiesOf(s), id: id, pinned: map[string]string{}}
	var errs []error
	for _, c := range readHeaders(ctx, k.copies, nil) {
		errs = append(errs, c.errs...)
		if c.away != nil && len(c.errs) == 0 {
			errs = append(errs, c.away)
		}
		for _, h := range c.found {
			if h.ID != vaultID {
				continue
			}
			if name := headerName(h.Generation); !slices.Contains(k.headers, name) {
				k.headers = append(k.headers, name)
			}
			if h.Generation > k.newest {
				k.newest, k.pinned = h.Generation, map[string]string{}
				for _, r := range h.Recipients {
					k.pinned[r.Object] = r.Hash
				}
			}
		}
	}
	if k.newest > 0 {
		return k, nil
	}
	return nil, noVault(errs)
}

func (k *keyless) scrubber(o ScrubOptions) *scrubber {
	s := &scrubber{copies: k.copies, o: o, check: k.check, certain: slices.Clone(k.headers)}
	for object := range k.pinned {
		s.certain = append(s.certain, object)
	}
	s.readMoves = func(ctx context.Context) (*moves, map[backstay.PointID]chain.Hash, error) {
		st, err := chain.ReadKeyless(ctx, k.store)
		if err != nil {
			return nil, nil, err
		}
		m, err := readMoves(ctx, k.copies, st, func(id ulid.ULID, data []byte) ([]chain.Moves, error) {
			return chain.DecodeMovesKeyless(k.id, id, data)
		})
		if st.Seq == 0 {
			return m, nil, err // made before there were chains
		}
		return m, st.Live, err
	}
	s.needsOf = func(id backstay.PointID, data []byte) ([]pack.ID, chain.Hash, error) {
		packs, root, err := point.ClearNeeds(k.id, id, data)
		return packs, chain.Hash(root), err
	}
	return s
}

// check checks one object with no key. What is authenticated by a key alone, as
// the header, can only be compared with its other copies.
func (k *keyless) check(name string, data []byte) (err error) {
	folder, rest, _ := strings.Cut(name, "/")
	switch folder {
	case "packs":
		if err = pack.Check(data); err == nil {
			err = k.head(data, seal.Pack, rest[strings.LastIndexByte(rest, '/')+1:])
		}
	case "indexes":
		if len(data) < seal.HeadSize+32 || seal.Hash(data[:len(data)-32]) != [32]byte(data[len(data)-32:]) {
			err = fmt.Errorf("another hash than it says: %w", seal.ErrWrong)
		} else if id, idErr := ulid.ParseStrict(rest); idErr != nil {
			err = idErr
		} else {
			err = k.head(data, seal.Index, hex.EncodeToString(id[:]))
		}
	case "points":
		_, err = point.ClearPacks(k.id, backstay.PointID(rest), data)
	case "chain":
		var seq uint64
		if seq, err = chain.ParseObject(name); err == nil {
			err = chain.Check(seq, data)
		}
	case "trash", "moved":
		if len(data) < seal.HeadSize+32 || seal.Hash(data[:len(data)-32]) != [32]byte(data[len(data)-32:]) {
			err = fmt.Errorf("another hash than it says: %w", seal.ErrWrong)
		}
	case "find":
		if err = checkFiles(data); err == nil {
			sum := seal.Hash([]byte(name))
			err = k.head(data, seal.Files, hex.EncodeToString(sum[:16]))
		}
	case headerObject, "headers":
		if _, err = parseHeader(name, data); err == nil {
			return errNoWord
		}
	default:
		hash, ok := k.pinned[name]
		if !ok {
			return errNoWord
		}
		if sum := seal.Hash(data); hex.EncodeToString(sum[:]) != hash {
			err = fmt.Errorf("another hash than the vault's header says: %w", seal.ErrWrong)
		}
	}
	if err != nil {
		return fmt.Errorf("check %s: %w", name, err)
	}
	return nil
}

// head demands that the object is of this vault and of this name.
func (k *keyless) head(data []byte, t seal.Type, id string) error {
	h, err := seal.ParseHead(data)
	switch {
	case err != nil:
		return err
	case h.Type != t || h.Vault != k.id || hex.EncodeToString(h.ID[:]) != id:
		return fmt.Errorf("an object of another vault, type or name: %w", seal.ErrWrong)
	}
	return nil
}
