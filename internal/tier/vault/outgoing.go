package vault

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/oklog/ulid/v2"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/tier/vault/chain"
	"github.com/backstay/backstay/internal/tier/vault/pack"
	"github.com/backstay/backstay/internal/tier/vault/point"
	"github.com/backstay/backstay/internal/tier/vault/seal"
)

// Outgoing reads a vault's objects as they are stored, for a region that holds a
// replica of it: what there is, what each point needs, and each object from a copy
// that is sound. It may be used concurrently, except for Look.
type Outgoing struct {
	v     *Vault
	clear *keyless

	mu    sync.RWMutex
	state chain.State // guarded by mu: as of the last Look
	moves *moves      // guarded by mu
	// expected are the hashes that the chain and the header pin, by object; guarded by mu
	expected map[string]chain.Hash
}

// Outgoing prepares reading the vault's objects. Look comes before anything else.
// CodeConflict for a vault of format version 1, which has no chain.
func (v *Vault) Outgoing() (*Outgoing, error) {
	if !v.chained() {
		return nil, backstay.Errorf(backstay.CodeConflict, "the vault %s was made in format version 1, which is not replicated", v.header.Name).
			Becausef("such vaults have no chain, so nobody could say which of their points are there").
			Do("make a new vault and protect the VMs there")
	}
	return &Outgoing{v: v, clear: &keyless{store: v.store, copies: v.copies, id: v.vaultID(), pinned: map[string]string{}}}, nil
}

// Identity is the vault's id, its name, and when it was made.
func (o *Outgoing) Identity() (id string, name backstay.VaultName, at time.Time) {
	return o.v.header.ID, o.v.header.Name, o.v.header.Created
}

// Look reads the chain anew and returns its newest record.
func (o *Outgoing) Look(ctx context.Context) (backstay.VaultHead, error) {
	st, err := o.v.chainState(ctx, true)
	if err != nil {
		return backstay.VaultHead{}, err
	}
	m, err := readMoves(ctx, o.v.copies, st, o.v.decodeMoves)
	if err != nil {
		return backstay.VaultHead{}, readError("the lists of moved packs", err)
	}
	expected := map[string]chain.Hash{}
	for _, moved := range st.Moves {
		expected[moved.Object] = moved.Hash
	}
	for _, c := range st.CondemnedBefore() {
		expected[c.Object] = c.Hash
	}
	for _, r := range o.v.header.Recipients {
		if hash, err := chain.ParseHash(r.Hash); err == nil {
			expected[r.Object] = hash
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.state, o.moves, o.expected = st, m, expected
	return publicHead(st.Head), nil
}

func (o *Outgoing) seen() (chain.State, *moves) {
	o.mu.RLock()
	defer o.mu.RUnlock()
	return o.state, o.moves
}

// Points are those that the vault offers, by id.
func (o *Outgoing) Points() []backstay.PointID {
	st, _ := o.seen()
	return slices.Sorted(maps.Keys(st.Live))
}

// Needs returns the packs in which what a point consists of is now, the lists that
// lead there from the packs in its manifest, and the manifest that was committed.
// CodeUnknownPoint if it was dropped since, CodeDamaged if no copy shows it.
func (o *Outgoing) Needs(ctx context.Context, id backstay.PointID) (packs, moved []string, manifest []byte, err error) {
	st, m := o.seen()
	root, live := st.Live[id]
	if !live {
		return nil, nil, nil, backstay.Errorf(backstay.CodeUnknownPoint, "the vault has no recovery point %s", id)
	}
	h, manifest, err := o.manifest(ctx, id, root)
	if err != nil {
		return nil, nil, nil, err
	}
	name, err := point.ParseID(id)
	if err != nil {
		return nil, nil, nil, err
	}
	led := map[pack.ID]bool{}
	astray := false
	for _, p := range h.Packs {
		m.resolve(name, p, func(to pack.ID) {
			led[to] = true
			astray = astray || to != p
		})
	}
	for _, p := range sortedPacks(led) {
		packs = append(packs, p.Object())
	}
	// A pack whose chunks nobody needs leads to none: that takes the list as well.
	if astray || len(led) < len(h.Packs) {
		for _, list := range st.Moves {
			moved = append(moved, list.Object)
		}
	}
	return packs, moved, manifest, nil
}

// manifest reads the manifest of this root from the first copy that shows it.
func (o *Outgoing) manifest(ctx context.Context, id backstay.PointID, root chain.Hash) (point.Header, []byte, error) {
	var errs []error
	for _, c := range o.v.copies {
		data, err := c.Get(ctx, point.Object(id), 0, -1)
		var h point.Header
		if err == nil {
			h, err = point.DecodeHeader(o.v.keys, id, data)
		}
		if err == nil && chain.Hash(h.Root) != root {
			err = fmt.Errorf("the manifest is not the one that was committed: %w", seal.ErrWrong)
		}
		if err == nil {
			return h, data, nil
		}
		errs = append(errs, err)
	}
	err := noPoint(id, errs)
	if backstay.IsCode(err, backstay.CodeUnknownPoint) {
		// Dropped since the chain was read, or taken away.
		if st, chainErr := o.v.chainState(ctx, true); chainErr != nil {
			return point.Header{}, nil, chainErr
		} else if _, live := st.Live[id]; live {
			err = lostManifest(id, false)
		}
	}
	return point.Header{}, nil, err
}

// Frame names what the vault is opened with, in the order in which it is written:
// the wrapped keys that the newest header pins, then the headers.
func (o *Outgoing) Frame() []string {
	var names []string
	for _, r := range o.v.header.Recipients {
		names = append(names, r.Object)
	}
	slices.Sort(names)
	return append(slices.Compact(names), headerNames(o.v.header.Generation)...)
}

// Indexes names the indexes, oldest first.
func (o *Outgoing) Indexes(ctx context.Context) ([]string, error) { return o.list(ctx, "indexes/") }

// Chain names the lists that the chain's newest state refers to, then its records
// up to the newest that was seen by Look.
func (o *Outgoing) Chain(ctx context.Context) ([]string, error) {
	st, _ := o.seen()
	var names []string
	for _, m := range st.Moves {
		names = append(names, m.Object)
	}
	for _, c := range st.CondemnedBefore() {
		names = append(names, c.Object)
	}
	records, err := o.list(ctx, chain.Prefix)
	if err != nil {
		return nil, err
	}
	for _, name := range records {
		if seq, err := chain.ParseObject(name); err == nil && seq <= st.Seq {
			names = append(names, name)
		}
	}
	return names, nil
}

func (o *Outgoing) list(ctx context.Context, folder string) ([]string, error) {
	var names []string
	err := o.v.store.List(ctx, folder, func(i blob.Info) error {
		names = append(names, i.Name)
		return nil
	})
	if err != nil {
		return nil, readError("the list of "+folder, err)
	}
	if folder != "indexes/" {
		return names, nil
	}
	// What is no index is another's, and told by verifying.
	return slices.DeleteFunc(names, func(name string) bool {
		_, err := ulid.ParseStrict(strings.TrimPrefix(name, folder))
		return err != nil
	}), nil
}

// sizesAtOnce is how many objects are asked for at a time.
const sizesAtOnce = 16

// Sizes returns the objects' sizes in bytes, without those that are gone.
func (o *Outgoing) Sizes(ctx context.Context, names []string) (map[string]int64, error) {
	var mu sync.Mutex
	sizes := make(map[string]int64, len(names))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(sizesAtOnce)
	for _, name := range names {
		g.Go(func() error {
			info, err := o.v.store.Stat(ctx, name)
			if errors.Is(err, blob.ErrNotExist) {
				return nil
			}
			if err != nil {
				return readError(name, err)
			}
			mu.Lock()
			defer mu.Unlock()
			sizes[name] = info.Size
			return nil
		})
	}
	return sizes, g.Wait()
}

// Read returns an object that is sound, with its BLAKE3-256, from any copy; of the
// chain's records from the first, which decides between writers. An error that is
// blob.ErrNotExist says that every copy answered and none has it; CodeDamaged, that
// none has it sound.
func (o *Outgoing) Read(ctx context.Context, name string) ([]byte, [32]byte, error) {
	if !strings.HasPrefix(name, chain.Prefix) {
		data, err := o.v.store.Get(ctx, name, 0, -1)
		if err == nil && o.check(name, data) == nil {
			return data, seal.Hash(data), nil
		}
	}
	var errs []error
	var wrong []string
	absent := 0
	for i, c := range o.v.copies {
		data, err := c.Get(ctx, name, 0, -1)
		if err == nil {
			if err = o.check(name, data); err == nil {
				o.v.sawDamage(name, wrong)
				return data, seal.Hash(data), nil
			}
		}
		errs = append(errs, err)
		if errors.Is(err, blob.ErrNotExist) {
			absent++
		} else if damaged(err) {
			wrong = append(wrong, unitName(ctx, c, i))
		}
	}
	if absent == len(errs) {
		return nil, [32]byte{}, fmt.Errorf("read %s: %w", name, errors.Join(errs...))
	}
	return nil, [32]byte{}, readError(name, errs...)
}

// check tells whether bytes are what they should be, by what pins them: the
// chain, the header, the vault's keys, or what they say themselves.
func (o *Outgoing) check(name string, data []byte) error {
	o.mu.RLock()
	want, pinned := o.expected[name]
	o.mu.RUnlock()
	if pinned {
		if sum := chain.Hash(seal.Hash(data)); sum != want {
			return fmt.Errorf("check %s: its hash is %s and should be %s: %w", name, hex.EncodeToString(sum[:]), want, seal.ErrWrong)
		}
		return nil
	}
	if name == headerObject || strings.HasPrefix(name, headerFolder) {
		f, err := parseHeader(name, data)
		if err != nil {
			return fmt.Errorf("check %s: %w", name, err)
		}
		return f.authenticate(o.v.keys)
	}
	if strings.HasPrefix(name, chain.Prefix) {
		seq, err := chain.ParseObject(name)
		if err == nil {
			_, err = chain.Decode(o.v.keys.ChainMAC, seq, data)
		}
		if err != nil {
			return fmt.Errorf("check %s: %w: %w", name, seal.ErrWrong, err)
		}
		return nil
	}
	return o.clear.check(name, data)
}
