package vault

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/tier/vault/chain"
	"github.com/backstay/backstay/internal/tier/vault/pack"
	"github.com/backstay/backstay/internal/tier/vault/seal"
)

// journal is what was read of the chain last, for reading points: the chain is
// read when it is first needed, and again only for a point that it did not know.
type journal struct {
	mu    sync.Mutex
	read  bool        // guarded by mu
	state chain.State // guarded by mu
}

// chained tells whether the vault has a chain that counts. Those made in format
// version 1 have none, can be read for ever, and are not written any more; that of
// a replica judges nothing.
func (v *Vault) chained() bool { return v.header.Chained && !v.replica }

// own refuses to write into a replica.
func (v *Vault) own() error {
	if !v.replica {
		return nil
	}
	return backstay.Errorf(backstay.CodeConflict, "the vault %s is a replica, which is not written here", v.header.Name).
		Becausef("it belongs to another region, and holds what that one pushed").
		Do("do it in the region of the vault; its retention here is set with `backstay vault set`")
}

// headerRecord says which header the vault has.
func headerRecord(f writtenHeader, at time.Time) chain.Record {
	return chain.Record{Op: chain.Keys, Time: at, Generation: f.Generation, Object: headerName(f.Generation), Hash: f.hash()}
}

// startChain appends the first record of a new vault, unless it is there.
func startChain(ctx context.Context, s blob.Store, keys *seal.Keys, f writtenHeader) error {
	_, err := chain.Open(s, keys.ChainMAC).Append(ctx, func(st chain.State) (chain.Record, error) {
		if st.Seq > 0 {
			return chain.Record{}, nil
		}
		return headerRecord(f, f.Created), nil
	})
	return chainError(err)
}

// chainError is for errors of the chain's own store calls; it keeps coded ones.
func chainError(err error) error {
	if err == nil {
		return nil
	}
	return writeError("the chain", err)
}

// remember keeps a state for reading points.
func (v *Vault) remember(st chain.State) {
	v.journal.mu.Lock()
	defer v.journal.mu.Unlock()
	if !v.journal.read || st.Seq >= v.journal.state.Seq {
		v.journal.read, v.journal.state = true, st
	}
}

// chainState returns what the chain says, read anew if fresh is wanted or if it
// was not read yet.
func (v *Vault) chainState(ctx context.Context, fresh bool) (chain.State, error) {
	v.journal.mu.Lock()
	st, read := v.journal.state, v.journal.read
	v.journal.mu.Unlock()
	if read && !fresh {
		return st, nil
	}
	st, err := v.chain.Read(ctx)
	if err != nil {
		return st, err
	}
	v.remember(st)
	return st, nil
}

// writable returns the state of a chain that may be appended to: it begins one
// that its vault's making left out, and records a header that is newer.
func (v *Vault) writable(ctx context.Context, at time.Time) (chain.State, error) {
	if err := v.own(); err != nil {
		return chain.State{}, err
	}
	if !v.chained() {
		return chain.State{}, backstay.Errorf(backstay.CodeConflict, "the vault %s was made in format version 1, which is not written any more", v.header.Name).
			Becausef("such vaults have no chain, so nobody would notice if what is written were taken away again").
			Do("make a new vault and protect the VMs there; the points of this one can be restored for ever")
	}
	newest := v.opened.newest
	st, err := v.chain.Read(ctx)
	if err != nil {
		return st, err
	}
	if st.Seq == 0 {
		if err := v.unused(ctx); err != nil {
			return st, err
		}
	}
	st, err = v.chain.Append(ctx, func(st chain.State) (chain.Record, error) {
		switch {
		case st.HeaderGeneration < newest.Generation:
			return headerRecord(newest, at), nil
		case st.HeaderGeneration > newest.Generation:
			return chain.Record{}, v.newerHeader(ctx, st)
		case st.HeaderHash != newest.hash():
			return chain.Record{}, backstay.Errorf(backstay.CodeVaultRolledBack, "the vault %s has another header than its chain says", v.header.Name).
				Becausef("%s is not the one that was written", headerName(newest.Generation))
		}
		return chain.Record{}, nil
	})
	if err != nil {
		return st, chainError(err)
	}
	v.remember(st)
	return st, nil
}

// unused demands that nothing was ever written into a vault whose chain is
// empty: then its maker died between the header and the first record.
func (v *Vault) unused(ctx context.Context) error {
	for _, folder := range []string{"points/", "packs/", "indexes/"} {
		err := v.store.List(ctx, folder, func(i blob.Info) error {
			return backstay.Errorf(backstay.CodeVaultRolledBack, "the chain of the vault %s is gone", v.header.Name).
				Becausef("it has no record, and %s was written after its first", i.Name)
		})
		if err != nil {
			return readError("the list of "+folder, err)
		}
	}
	return nil
}

// newerHeader is for a chain that knows a newer header than the one with which
// this Vault was opened: that must be there, and the keys at hand must be those
// of its newest epoch.
func (v *Vault) newerHeader(ctx context.Context, st chain.State) error {
	now, err := headerState(ctx, v.copies, v.header.ID, v.keys)
	if err != nil {
		return err
	}
	if now.newest.Epoch > v.keys.Newest() {
		return seal.ErrNewerKey
	}
	return now.newest.follows(st)
}

// condemned returns the packs that a writer which begins at this state must
// leave alone.
func (v *Vault) condemned(ctx context.Context, st chain.State) (map[pack.ID]bool, error) {
	all := map[pack.ID]bool{}
	for _, c := range st.CondemnedBefore() {
		packs, err := v.readTrash(ctx, c.Object, c.Hash)
		if backstay.IsCode(err, backstay.CodeDamaged) {
			return nil, backstay.Errorf(backstay.CodeDamaged, "nobody can tell which packs of the vault %s are about to be deleted", v.header.Name).
				Because(err).Do("run `backstay vault reclaim %s`: it gives a list up that cannot be read", v.header.Name)
		}
		if err != nil {
			return nil, err
		}
		for _, id := range packs {
			all[id] = true
		}
	}
	return all, nil
}

// putTrash puts a list of packs that are to go and returns its object and hash,
// as a condemn record has them.
func (v *Vault) putTrash(ctx context.Context, packs []pack.ID) (string, chain.Hash, error) {
	id := ulid.Make()
	object := chain.TrashObject(id)
	data, hash := chain.EncodeTrash(v.keys.TrashMAC, v.keys.Head(seal.Pack, id, 0).Vault, id, packs)
	if err := v.store.Put(ctx, object, data); err != nil {
		return object, hash, writeError(object, err)
	}
	return object, hash, v.sameInAll(ctx, object, data)
}

// readTrash reads a list of packs that are to go from any copy that has it as
// the chain says. CodeDamaged if every copy answered and none has.
func (v *Vault) readTrash(ctx context.Context, object string, hash chain.Hash) ([]pack.ID, error) {
	id, err := chain.ParseTrashObject(object)
	if err != nil {
		return nil, readError(object, fmt.Errorf("%w: %w", seal.ErrWrong, err))
	}
	var errs []error
	for _, c := range v.copies {
		data, err := c.Get(ctx, object, 0, -1)
		if err == nil {
			if chain.Hash(seal.Hash(data)) != hash {
				err = fmt.Errorf("%s has another hash than the chain says: %w", object, seal.ErrWrong)
			} else {
				var packs []pack.ID
				if packs, err = chain.DecodeTrash(v.keys.TrashMAC, v.keys.Head(seal.Pack, id, 0).Vault, id, data); err == nil {
					return packs, nil
				}
			}
		}
		errs = append(errs, err)
	}
	return nil, readError(object, errs...)
}

// Head returns the newest record of the vault's chain that is sure to stay, for
// whoever is to notice if the vault is ever in an older state. The zero Head is that of a vault
// without a chain.
func (v *Vault) Head(ctx context.Context) (backstay.VaultHead, error) {
	if !v.chained() {
		return backstay.VaultHead{}, nil
	}
	head, err := v.chain.Settled(ctx)
	return publicHead(head), err
}

func publicHead(h chain.Head) backstay.VaultHead {
	if h.Seq == 0 {
		return backstay.VaultHead{}
	}
	return backstay.VaultHead{Seq: h.Seq, Hash: h.Hash.String()}
}

// Expect demands that the vault is not in an older state than the one in which
// its chain had this head: CodeVaultRolledBack if it is, CodeDamaged or
// CodeVaultAway if the chain cannot tell. The zero Head expects nothing.
func (v *Vault) Expect(ctx context.Context, h backstay.VaultHead) error {
	if h.Seq == 0 {
		return nil
	}
	if !v.chained() {
		return backstay.Errorf(backstay.CodeVaultRolledBack, "the vault %s had a chain and has none any more", v.header.Name)
	}
	hash, err := chain.ParseHash(h.Hash)
	if err != nil {
		return fmt.Errorf("expected head of the chain: %w", err)
	}
	return v.chain.Expect(ctx, chain.Head{Seq: h.Seq, Hash: hash})
}
