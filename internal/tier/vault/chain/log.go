package chain

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/tier/vault/seal"
)

// appendTries bounds how often Append begins anew because another writer was
// faster: each time the chain has grown, so this many in a row say that
// something else is wrong.
const appendTries = 200

// Log is the chain of one vault. It may be used concurrently, and any number of
// processes may append to one chain.
//
// A record is *settled* when it has been seen with the same bytes in every copy,
// or when another one follows it, because nobody appends to a record that is not
// settled. The newest record may be in some copies only: its writer died, or is
// at work. It counts, and whoever appends next completes it. If copies show
// different ones, that in the last of them counts.
type Log struct {
	copies []blob.Store
	mac    MAC
	// keyless logs are read only, and records are not authenticated.
	keyless bool

	mu      sync.Mutex
	settled *State // guarded by mu; nil: nothing was read yet
}

// Open returns the chain in a store, whose copies (blob.Copies) are read one by
// one. It reads nothing yet.
func Open(store blob.Store, mac MAC) *Log {
	l := &Log{copies: []blob.Store{store}, mac: mac}
	if c, ok := store.(blob.Copies); ok {
		l.copies = c.Copies()
	}
	return l
}

// entry is one authenticated record.
type entry struct {
	rec  Record
	hash Hash
	data []byte
}

// Read returns what the chain says now. The first call reads the newest
// checkpoint and what follows it, later ones what is new. An empty chain is the
// zero State and no error.
//
// CodeDamaged if a record is missing in all copies or none shows it unharmed,
// or if records do not follow one another; CodeVaultRolledBack if what an earlier
// call read is not there any more; CodeVaultAway if it cannot be told (I5).
func (l *Log) Read(ctx context.Context) (State, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s, _, err := l.catchUp(ctx, false)
	return s, err
}

// Settled returns the newest record that is sure to stay: one that every copy shows,
// or that another one follows. Whoever remembers what the chain was like remembers
// this: the newest of all may be in one copy only, which is lost a moment later.
func (l *Log) Settled(ctx context.Context) (Head, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s, tail, err := l.catchUp(ctx, false)
	switch {
	case err != nil || tail == nil:
		return s.Head, err
	case l.settled != nil:
		return l.settled.Head, nil
	}
	return Head{}, nil
}

// Append adds the record that decide makes of the state to which all records
// before it lead; a Record without Op adds nothing. If another writer appends
// first, decide is asked again with what that one added, so nothing is overlooked
// between deciding and appending. It returns the state with the record in it,
// which then is the same in all copies; so is what decide was shown. An error of
// decide ends it.
//
// After any other error the record may be in the chain, or come to be in it.
func (l *Log) Append(ctx context.Context, decide func(State) (Record, error)) (State, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for range appendTries {
		s, tail, err := l.catchUp(ctx, true)
		if err != nil {
			return s, err
		}
		if tail != nil { // what is decided upon must not go away again
			err := l.settle(ctx, *tail, &s)
			if errors.Is(err, errOther) {
				continue
			}
			if err != nil {
				return s, err
			}
		}
		r, err := decide(s.clone())
		if err != nil || r.Op == "" {
			return s, err
		}
		r.Time = r.Time.UTC().Round(0)
		next := s.Seq + 1
		if next%Every == 0 {
			if _, _, err := l.put(ctx, s, Record{Op: Checkpointed, Time: r.Time, Checkpoint: s.checkpoint()}); err != nil {
				return s, err
			}
			continue // and the record behind it
		}
		s, done, err := l.put(ctx, s, r)
		if done || err != nil {
			return s, err
		}
	}
	return State{}, backstay.Errorf(backstay.CodeConflict, "the vault's chain could not be appended to").
		Becausef("%d times in a row something else was in the place of the next record", appendTries).Do("retry the job")
}

// put writes a record behind a settled state, and settles it. done is false if
// another record counts in its place.
func (l *Log) put(ctx context.Context, s State, r Record) (_ State, done bool, err error) {
	r.Version, r.Seq, r.Prev = version, s.Seq+1, s.Hash
	data, hash, err := Encode(l.mac, r)
	if err != nil {
		return s, false, err
	}
	e := entry{rec: r, hash: hash, data: data}
	// The first copy decides between two writers with the same copies. What it has is
	// never taken back, whatever fails then: somebody may have read it, and appended
	// behind it.
	err = l.copies[0].Put(ctx, Object(r.Seq), data)
	if errors.Is(err, blob.ErrExist) {
		// It may be this very record, put by a call whose answer was lost.
		there, readErr := l.read(ctx, r.Seq)
		if readErr != nil || there.hash != hash {
			return s, false, nil
		}
		err = nil
	}
	if err != nil {
		return s, false, fmt.Errorf("append to the vault's chain: %s: %w", l.name(ctx, 0), err)
	}
	// One after another, in the order of all writers: see settle.
	for _, c := range l.copies[1:] {
		err := c.Put(ctx, Object(r.Seq), data)
		if errors.Is(err, blob.ErrExist) && l.rival(ctx, c, e) {
			return s, false, nil
		}
		if err != nil && !errors.Is(err, blob.ErrExist) {
			break // settle finds out what came of it
		}
	}
	s = s.clone()
	s.apply(r, hash)
	err = l.settle(ctx, e, &s)
	if errors.Is(err, errOther) {
		return s, false, nil
	}
	return s, err == nil, err
}

// rival tells whether a copy has another record in the place of this one, that
// follows the same record.
func (l *Log) rival(ctx context.Context, c blob.Store, e entry) bool {
	got, err := c.Get(ctx, Object(e.rec.Seq), 0, -1)
	return err == nil && l.rivals(got, e)
}

func (l *Log) rivals(got []byte, e entry) bool {
	if string(got) == string(e.data) {
		return false
	}
	other, err := l.decode(e.rec.Seq, got)
	return err == nil && other.Prev == e.rec.Prev
}

// errOther: another record counts in the place of this one.
var errOther = errors.New("another record is in its place")

// settle makes sure that a record is the same in every copy, and remembers the
// state that it leads to. A copy that lacks it or holds something else is
// mended: what is written are the bytes that were put first (I1). errOther if
// another one that follows the same record counts.
//
// Writers may have different copies: one that is recorded as lost is missing in the
// newer writer's set, and may still answer to the older one. All have those that
// they share in the same order, any two share one, and each puts a record into one
// copy after another. So where two records are at one place, that in the later copy
// has passed every copy that both writers have, and the other one's writer cannot
// pass it: the one in the later copy counts, for whoever reads or appends, and the
// other one was acknowledged to nobody.
func (l *Log) settle(ctx context.Context, e entry, s *State) error {
	name := Object(e.rec.Seq)
	last, err := l.lastWith(ctx, e)
	if err != nil {
		return err
	}
	for i, c := range l.copies {
		err := mend(ctx, c, name, e.data, func(got []byte) bool { return i >= last && l.rivals(got, e) })
		if err != nil {
			return fmt.Errorf("%s in %s: %w", name, l.name(ctx, i), err)
		}
	}
	kept := s.clone()
	l.settled = &kept
	return nil
}

// lastWith returns the number of the last copy that has a record; errOther if a
// later one, or every one, has a rival of it.
func (l *Log) lastWith(ctx context.Context, e entry) (int, error) {
	last, other := -1, -1
	for i, found := range l.inEach(ctx, e.rec.Seq) {
		switch {
		case found.err != nil:
		case string(found.data) == string(e.data):
			last = i
		case l.rivals(found.data, e):
			other = i
		}
	}
	if other > last {
		return last, errOther
	}
	return last, ctx.Err()
}

// found is what one copy has under a name.
type found struct {
	data []byte
	err  error
}

// inEach reads a record in all copies at once.
func (l *Log) inEach(ctx context.Context, seq uint64) []found {
	all := make([]found, len(l.copies))
	var wg sync.WaitGroup
	for i, c := range l.copies {
		wg.Go(func() { all[i].data, all[i].err = c.Get(ctx, Object(seq), 0, -1) })
	}
	wg.Wait()
	return all
}

// mend makes one copy of an object be data, unless what it has counts.
func mend(ctx context.Context, c blob.Store, name string, data []byte, counts func([]byte) bool) error {
	for range 3 {
		got, err := c.Get(ctx, name, 0, -1)
		if err == nil && string(got) == string(data) {
			return nil
		}
		if err == nil && counts(got) {
			return errOther
		}
		if err == nil {
			err = c.Delete(ctx, name)
		} else if errors.Is(err, blob.ErrNotExist) {
			err = nil
		}
		if err == nil {
			err = c.Put(ctx, name, data)
		}
		if err != nil && !errors.Is(err, blob.ErrExist) {
			return err
		}
	}
	return backstay.Errorf(backstay.CodeValidateFailed, "%s is not what was written", name).
		Becausef("it was written three times and read back otherwise")
}

// Expect is the witness: it demands that the chain has this record with this
// hash. CodeVaultRolledBack if it ends before or has another one there. A record
// so old that it was removed (Prunable) cannot be compared, and is no error; nor
// is the zero Head.
func (l *Log) Expect(ctx context.Context, want Head) error {
	if want.Seq == 0 {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	s, _, err := l.catchUp(ctx, false)
	if err == nil && s.Seq < want.Seq {
		// The newest record may be in one copy only, and that one may be away (I5).
		s, _, err = l.catchUp(ctx, true)
	}
	switch {
	case err != nil:
		return err
	case s.Seq < want.Seq:
		return rolledBack("its chain ends with record %d, and had record %d before", s.Seq, want.Seq)
	case s.Seq == want.Seq && s.Hash == want.Hash:
		return nil
	}
	seqs, err := l.list(ctx, false)
	if err != nil {
		return err
	}
	if len(seqs) == 0 {
		return rolledBack("its chain has no record any more, and had record %d before", want.Seq)
	}
	if want.Seq < seqs[0] {
		return nil
	}
	e, err := l.read(ctx, want.Seq)
	if err != nil {
		return err
	}
	if e.hash != want.Hash { // a copy may show one that lost its place
		if right, ok := l.variant(ctx, want.Seq, func(e entry) bool { return e.hash == want.Hash }); ok {
			e = right
		}
	}
	if e.hash != want.Hash {
		return rolledBack("record %d of its chain is not the one that was there", want.Seq)
	}
	return nil
}

// Prunable returns the names of the records that nobody needs any more: those
// before the last checkpoint but one. Whoever removes them removes the oldest
// first, so that what is left has no gap.
func (l *Log) Prunable(ctx context.Context) ([]string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s, _, err := l.catchUp(ctx, true)
	if err != nil {
		return nil, err
	}
	keep := s.Seq / Every * Every
	if keep < 2*Every {
		return nil, nil
	}
	keep -= Every
	if _, err := l.read(ctx, keep); err != nil {
		return nil, err
	}
	seqs, err := l.list(ctx, true)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, seq := range seqs {
		if seq < keep {
			names = append(names, Object(seq))
		}
	}
	return names, nil
}

// list returns the numbers of the records that any copy has, in order. With
// strict every copy must answer; otherwise one is enough, because every settled
// record is in each.
func (l *Log) list(ctx context.Context, strict bool) ([]uint64, error) {
	found := map[uint64]bool{}
	var errs []error
	for i, c := range l.copies {
		err := c.List(ctx, Prefix, func(info blob.Info) error {
			if seq, err := ParseObject(info.Name); err == nil {
				found[seq] = true
			}
			return nil
		})
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", l.name(ctx, i), err))
		}
	}
	if len(errs) == len(l.copies) || strict && len(errs) > 0 {
		return nil, away("the list of its records", errors.Join(errs...))
	}
	seqs := make([]uint64, 0, len(found))
	for seq := range found {
		seqs = append(seqs, seq)
	}
	slices.Sort(seqs)
	return seqs, ctx.Err()
}

// name is what a copy is called in errors.
func (l *Log) name(ctx context.Context, i int) string {
	if d, ok := l.copies[i].(blob.Describer); ok {
		if place, err := d.Describe(ctx); err == nil && place.URL != "" {
			return place.URL
		}
	}
	return fmt.Sprintf("storage unit %d", i+1)
}

// damaged tells whether an error says that stored bytes are wrong or gone (I5).
func damaged(err error) bool {
	return errors.Is(err, seal.ErrWrong) || errors.Is(err, blob.ErrNotExist)
}

func away(what string, cause error) error {
	if errors.Is(cause, context.Canceled) || errors.Is(cause, context.DeadlineExceeded) {
		return fmt.Errorf("read the vault's chain: %w", cause)
	}
	return backstay.Errorf(backstay.CodeVaultAway, "the vault's chain could not be read: %s", what).Because(cause)
}

func broken(format string, args ...any) *backstay.Error {
	return backstay.Errorf(backstay.CodeDamaged, "the vault's chain is damaged: "+format, args...).
		Do("nothing is written to the vault any more; its points can still be restored. Repair the vault's copies and find out who removed or changed what is named; if that does not help, protect the VMs in a new vault")
}

func rolledBack(format string, args ...any) error {
	return backstay.Errorf(backstay.CodeVaultRolledBack, "the vault is in an older state than it was").
		Becausef(format, args...)
}
