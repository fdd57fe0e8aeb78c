package chain

import (
	"context"

	"github.com/backstay/backstay/internal/blob"
)

// eachAtOnce is how many records Each has in memory at a time.
const eachAtOnce = 256

// Each calls fn with the name and the bytes of every record that is there, the
// oldest first: of two that are in the place of one, with the one that the next
// follows. It is how the chain gets into a copy that lacks it. CodeDamaged if a
// record between the oldest and the newest cannot be shown.
func (l *Log) Each(ctx context.Context, fn func(object string, data []byte) error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	seqs, err := l.list(ctx, false)
	if err != nil || len(seqs) == 0 {
		return err
	}
	last := seqs[len(seqs)-1]
	for from := seqs[0]; from <= last; from += eachAtOnce {
		// One more than is told of: what follows a record says which one it is.
		entries, err := l.readAll(ctx, from, min(from+eachAtOnce, last))
		if err == nil {
			err = l.link(ctx, entries)
		}
		if err != nil {
			return err
		}
		for _, e := range entries[:min(eachAtOnce, len(entries))] {
			if err := fn(Object(e.rec.Seq), e.data); err != nil {
				return err
			}
		}
	}
	return nil
}

// EachKeyless is Each for whoever has no key, as ReadKeyless is Read.
func EachKeyless(ctx context.Context, store blob.Store, fn func(object string, data []byte) error) error {
	l := Open(store, nil)
	l.keyless = true
	return l.Each(ctx, fn)
}
