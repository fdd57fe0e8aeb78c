package vault

import (
	"context"
	"errors"
	"fmt"
	"strings"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/tier/vault/seal"
)

// condemning is how many reads must be wrong, and alike, before a copy is damaged
// or missing; failing is how many may fail before it is unreadable.
const (
	condemning = 3
	failing    = 2
)

// errNoWord: the object itself does not tell what it should hold, so only its
// copies can be compared.
var errNoWord = errors.New("nothing says what it should hold")

// look is what was found of one object.
type look struct {
	Damage
	read  int64
	sizes []int64    // in each copy; -1 if it was not read
	sums  [][32]byte // in each copy that was read
	good  []byte     // a sound copy's bytes
}

// gone tells whether no copy has the object any more.
func (k *look) gone() bool {
	for _, state := range k.Copies {
		if state != CopyMissing {
			return false
		}
	}
	return true
}

// judgement is what a look finds of one copy.
type judgement struct {
	state CopyState
	why   string
	data  []byte // as read last
	sum   [32]byte
	word  bool // the object told by itself that it is sound
}

// look reads an object from every copy that is not away. The copy that goes
// through the decoder differs from pack to pack, so that each copy is proved so.
func (s *scrubber) look(ctx context.Context, name string, away []error) (look, error) {
	n := len(s.copies)
	k := look{sizes: make([]int64, n), sums: make([][32]byte, n)}
	k.Damage = Damage{Object: name, Copies: make([]CopyState, n), Why: make([]string, n)}
	first := 0
	if id, ok := packOf(name); ok {
		first = int(id[15]) % n
	}
	var right *[32]byte        // hash of the sound copies
	votes := make([][]byte, n) // of copies that say nothing of themselves
	noWord := 0
	for j := range n {
		i := (first + j) % n
		k.sizes[i] = -1
		if away[i] != nil {
			k.Copies[i], k.Why[i] = CopyUnreadable, away[i].Error()
			continue
		}
		found, err := s.judge(ctx, i, &k, right)
		if err != nil {
			return k, err
		}
		k.Copies[i], k.Why[i], k.sums[i] = found.state, found.why, found.sum
		if found.data != nil {
			k.sizes[i] = int64(len(found.data))
		}
		switch {
		case found.state == CopySound && found.word && right == nil:
			right, k.good = &found.sum, found.data
		case found.state == CopySound && !found.word:
			votes[i] = found.data
			noWord++
		}
	}
	if noWord > 0 {
		return k, s.vote(ctx, &k, votes)
	}
	return k, nil
}

// judge reads one copy until it is clear what it is.
func (s *scrubber) judge(ctx context.Context, i int, k *look, right *[32]byte) (judgement, error) {
	var absent, failed, wrong int
	var alike bool
	var last judgement
	for {
		data, err := s.copies[i].Get(ctx, k.Object, 0, -1)
		if ctx.Err() != nil {
			return last, fmt.Errorf("scrub: %w", context.Cause(ctx))
		}
		switch {
		case errors.Is(err, blob.ErrNotExist):
			if absent++; absent == condemning {
				return judgement{state: CopyMissing, why: "not there"}, nil
			}
			continue
		case err != nil:
			if failed++; failed == failing {
				return judgement{state: CopyUnreadable, why: err.Error()}, nil
			}
			continue
		}
		k.read += int64(len(data))
		if s.o.Pace != nil {
			if err := s.o.Pace(ctx, len(data)); err != nil {
				return last, err
			}
		}
		now := s.weigh(k.Object, data, right)
		if now.state != CopyDamaged {
			return now, nil
		}
		alike = wrong == 0 || alike && now.sum == last.sum
		wrong++
		last = now
		if wrong == condemning && alike {
			return now, nil
		}
		if wrong == condemning {
			now.state, now.why = CopyUnreadable, "it reads differently each time"
			return now, nil
		}
	}
}

// weigh judges one read: by the sound copies if there are any, or by what the
// object says of itself.
func (s *scrubber) weigh(name string, data []byte, right *[32]byte) judgement {
	j := judgement{data: data, sum: seal.Hash(data)}
	if right != nil {
		if j.sum == *right {
			j.state, j.word = CopySound, true
			return j
		}
		j.state, j.why = CopyDamaged, fmt.Sprintf("%d bytes that differ from a sound copy", len(data))
		return j
	}
	err := s.check(name, data)
	if id, ok := strings.CutPrefix(name, "points/"); ok && err == nil {
		_, err = s.committed(backstay.PointID(id), data)
	}
	switch {
	case err == nil:
		j.state, j.word = CopySound, true
	case errors.Is(err, errNoWord):
		j.state = CopySound
	case errors.Is(err, seal.ErrNewerKey):
		j.state, j.why = CopyUnreadable, err.Error()
	default:
		j.state, j.why = CopyDamaged, err.Error()
	}
	return j
}

// vote settles an object that says nothing of itself: what most copies hold is
// taken for sound. If they differ with no majority nothing is known, and nothing
// is condemned (I5).
func (s *scrubber) vote(ctx context.Context, k *look, read [][]byte) error {
	votes := map[[32]byte]int{}
	for i, data := range read {
		if data != nil {
			votes[k.sums[i]]++
		}
	}
	var right [32]byte
	for i, data := range read {
		if n := votes[k.sums[i]]; data != nil && (2*n > len(k.Copies) || len(votes) == 1) {
			right, k.good = k.sums[i], data
		}
	}
	for i, state := range k.Copies {
		if state != CopySound {
			continue
		}
		switch n := votes[right]; {
		case n == 0 && len(votes) > 1:
			k.Copies[i], k.Why[i] = CopyUnreadable, "the copies differ, and nothing says which is right"
		case n > 0 && k.sums[i] != right:
			found, err := s.judge(ctx, i, k, &right)
			if err != nil {
				return err
			}
			k.Copies[i], k.Why[i] = found.state, found.why
		}
	}
	return nil
}
