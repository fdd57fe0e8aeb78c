package chain

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sync/errgroup"

	"github.com/backstay/backstay/internal/tier/vault/seal"
)

// readsAhead is how many records are read at once.
const readsAhead = 16

// catchUp reads what is new. tail is the newest record if it is not known to be
// settled. The caller holds mu.
func (l *Log) catchUp(ctx context.Context, strict bool) (State, *entry, error) {
	seqs, err := l.list(ctx, strict)
	if err != nil {
		return State{}, nil, err
	}
	last, base := uint64(0), State{}.clone()
	if len(seqs) > 0 {
		last = seqs[len(seqs)-1]
	}
	if l.settled != nil {
		base = l.settled.clone()
		if last < base.Seq {
			return State{}, nil, rolledBack("its chain ends with record %d, and had record %d before", last, base.Seq)
		}
	}
	if last == base.Seq {
		return base, nil, nil
	}
	from := max(last/Every*Every, 1)
	if warm := base.Seq + 1; l.settled != nil && last-base.Seq <= Every && warm >= seqs[0] {
		from = warm
	}
	entries, err := l.readAll(ctx, from, last)
	if err == nil {
		err = l.link(ctx, entries)
	}
	if err != nil {
		return State{}, nil, err
	}
	everywhere, err := l.newest(ctx, &entries[len(entries)-1], strict)
	if err != nil {
		return State{}, nil, err
	}
	s, tail, err := l.applyAll(base, entries)
	if err == nil && everywhere {
		kept := s.clone()
		l.settled, tail = &kept, nil
	}
	return s, tail, err
}

// newest makes the newest record the one that counts: of those that follow the same
// record, that of the last copy which has one. everywhere: all copies have it. With
// strict every copy must answer.
func (l *Log) newest(ctx context.Context, e *entry, strict bool) (everywhere bool, err error) {
	everywhere = true
	counts := *e
	for i, found := range l.inEach(ctx, e.rec.Seq) {
		if found.err != nil && !damaged(found.err) && strict {
			return false, away(Object(e.rec.Seq), fmt.Errorf("%s: %w", l.name(ctx, i), found.err))
		}
		if found.err != nil || string(found.data) != string(e.data) {
			everywhere = false
		}
		if found.err == nil && l.rivals(found.data, *e) {
			rec, err := l.decode(e.rec.Seq, found.data)
			if err != nil {
				return false, err
			}
			counts = entry{rec: rec, hash: seal.Hash(found.data), data: found.data}
		} else if found.err == nil && string(found.data) == string(e.data) {
			counts = *e
		}
	}
	*e = counts
	return everywhere, ctx.Err()
}

// applyAll checks that records, which follow one another, follow base if they are
// its next, and remembers all but the newest.
func (l *Log) applyAll(base State, entries []entry) (State, *entry, error) {
	first := entries[0].rec
	switch {
	case first.Seq == base.Seq+1 && first.Prev != base.Hash:
		return State{}, nil, rolledBack("record %d of its chain does not follow the record %d that was there", first.Seq, base.Seq)
	case first.Seq != base.Seq+1:
		for _, e := range entries {
			if base.Seq > 0 && e.rec.Seq == base.Seq && e.hash != base.Hash {
				return State{}, nil, rolledBack("record %d of its chain is not the one that was there", base.Seq)
			}
		}
		base = State{}.clone()
	}
	s := base
	for i, e := range entries {
		if i == len(entries)-1 && s.Seq > 0 {
			kept := s.clone()
			l.settled = &kept
		}
		s.apply(e.rec, e.hash)
	}
	return s, &entries[len(entries)-1], nil
}

// link demands that each record has the hash of the one before. Where it has
// not, another copy may show the right one: of two writers that died at the same
// number one lost, and its record can be left in a copy that is not the first.
func (l *Log) link(ctx context.Context, entries []entry) error {
	for i := len(entries) - 1; i > 0; i-- {
		want := entries[i].rec.Prev
		if entries[i-1].hash == want {
			continue
		}
		seq := entries[i].rec.Seq
		if e, ok := l.variant(ctx, seq-1, func(e entry) bool { return e.hash == want }); ok {
			entries[i-1] = e
			continue
		}
		if i == len(entries)-1 {
			if e, ok := l.variant(ctx, seq, func(e entry) bool { return e.rec.Prev == entries[i-1].hash }); ok {
				entries[i] = e
				continue
			}
		}
		return broken("record %d does not follow record %d", seq, seq-1)
	}
	return nil
}

// variant looks in every copy for a record that satisfies ok.
func (l *Log) variant(ctx context.Context, seq uint64, ok func(entry) bool) (entry, bool) {
	for _, c := range l.copies {
		data, err := c.Get(ctx, Object(seq), 0, -1)
		if err != nil {
			continue
		}
		rec, err := l.decode(seq, data)
		if e := (entry{rec: rec, hash: seal.Hash(data), data: data}); err == nil && ok(e) {
			return e, true
		}
	}
	return entry{}, false
}

// readAll reads the records from one number to another.
func (l *Log) readAll(ctx context.Context, from, to uint64) ([]entry, error) {
	entries := make([]entry, to-from+1)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(readsAhead)
	for i := range entries {
		g.Go(func() (err error) {
			entries[i], err = l.read(ctx, from+uint64(i))
			return err
		})
	}
	return entries, g.Wait()
}

// read returns a record from the first copy that has it authentic.
func (l *Log) read(ctx context.Context, seq uint64) (entry, error) {
	name := Object(seq)
	var wrong, unread []error
	for i, c := range l.copies {
		data, err := c.Get(ctx, name, 0, -1)
		var rec Record
		if err == nil {
			if rec, err = l.decode(seq, data); err == nil {
				return entry{rec: rec, hash: seal.Hash(data), data: data}, nil
			}
		}
		err = fmt.Errorf("%s: %w", l.name(ctx, i), err)
		if damaged(err) {
			wrong = append(wrong, err)
		} else {
			unread = append(unread, err)
		}
	}
	if len(unread) > 0 {
		return entry{}, away(name, errors.Join(append(unread, wrong...)...))
	}
	return entry{}, broken("no copy shows record %d unharmed", seq).Because(errors.Join(wrong...))
}
