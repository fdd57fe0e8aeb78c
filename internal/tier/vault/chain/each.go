package chain

import (
	"context"

	"github.com/backstay/backstay/internal/blob"
)

// eachAtOnce is how many records Each has in memory at a time.
const eachAtOnce = 256

// Each calls fn with the name and the bytes of every record that is sure
// to stay, the oldest first, and returns the number of the last of them. The newest
// of all is left out if not every copy shows it: in another copy, one that lost its
// place might win it. It is how the chain gets into a copy that lacks it. CodeDamaged
// if a record between the oldest and the newest cannot be shown.
func (l *Log) Each(ctx context.Context, fn func(object string, data []byte) error) (settled uint64, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	seqs, err := l.list(ctx, false)
	if err != nil || len(seqs) == 0 {
		return 0, err
	}
	last := seqs[len(seqs)-1]
	for from := seqs[0]; from <= last; from += eachAtOnce {
		// One more than is told of: what follows a record says which one it is.
		entries, err := l.readAll(ctx, from, min(from+eachAtOnce, last))
		if err == nil {
			err = l.link(ctx, entries)
		}
		if err != nil {
			return settled, err
		}
		for _, e := range entries[:min(eachAtOnce, len(entries))] {
			if e.rec.Seq == last {
				everywhere, err := l.newest(ctx, &e, false)
				if err != nil || !everywhere {
					return settled, err
				}
			}
			if err := fn(Object(e.rec.Seq), e.data); err != nil {
				return settled, err
			}
			settled = e.rec.Seq
		}
	}
	return settled, nil
}

// EachKeyless is Each for whoever has no key, as ReadKeyless is Read.
func EachKeyless(ctx context.Context, store blob.Store, fn func(object string, data []byte) error) (uint64, error) {
	l := Open(store, nil)
	l.keyless = true
	return l.Each(ctx, fn)
}
