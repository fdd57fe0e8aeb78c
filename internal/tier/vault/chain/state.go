package chain

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	backstay "github.com/backstay/backstay"
)

const (
	// fencesKept is how many fences a state holds. A writer that began before
	// those which it does not hold any more is refused.
	fencesKept = 16
	// dropsKept is how many dropped points a checkpoint still names: those that
	// were dropped last.
	dropsKept = 1024
)

// State is what all records up to Head say.
type State struct {
	Head
	// Live are the committed points with their roots.
	Live map[backstay.PointID]Hash
	// Dropped are the points that were dropped last, with the record that did.
	Dropped map[backstay.PointID]uint64
	// Condemned are the lists of packs that are to go, by the list's object, from
	// their condemn record to their reclaimed record.
	Condemned map[string]Condemned
	// Fences are the newest reclaim records, oldest first. They stay when the
	// list was reclaimed, because a writer that began before may still live.
	Fences []Fence
	// Floor is the newest fence that is not in Fences any more: a writer that
	// began before it cannot tell what it may refer to.
	Floor uint64
	// Moves are the lists of packs whose chunks were moved, oldest first.
	Moves []Move
	// HeaderGeneration, HeaderObject and HeaderHash tell the vault's header.
	HeaderGeneration uint32
	HeaderObject     string
	HeaderHash       Hash
}

// Condemned is a list of packs that are to go.
type Condemned struct {
	Object string    `json:"object"`
	Seq    uint64    `json:"seq"` // of its condemn record
	Time   time.Time `json:"time"`
	Hash   Hash      `json:"hash"`            // of the object
	Fence  uint64    `json:"fence,omitempty"` // its reclaim record; 0: none yet
}

// Fence says from when on a list may be deleted: a writer that began before
// CondemnSeq must not refer to any pack of it.
type Fence struct {
	Object     string `json:"object"`
	Hash       Hash   `json:"hash"` // of the object
	CondemnSeq uint64 `json:"condemn"`
	Seq        uint64 `json:"seq"`
}

// Move names a list of moved packs.
type Move struct {
	Object string `json:"object"`
	Hash   Hash   `json:"hash"` // of the object
	Seq    uint64 `json:"seq"`
}

// Checkpoint is a State in a record, so that what lies before need not be read.
type Checkpoint struct {
	Live      []LivePoint    `json:"live"`
	Dropped   []DroppedPoint `json:"dropped"`
	Condemned []Condemned    `json:"condemned"`
	Fences    []Fence        `json:"fences"`
	Floor     uint64         `json:"floor"`
	Moves     []Move         `json:"moves"`

	HeaderGeneration uint32 `json:"generation"`
	HeaderObject     string `json:"header"`
	HeaderHash       Hash   `json:"hash"`
}

// LivePoint is one of State.Live.
type LivePoint struct {
	Point backstay.PointID `json:"point"`
	Root  Hash             `json:"root"`
}

// DroppedPoint is one of State.Dropped.
type DroppedPoint struct {
	Point backstay.PointID `json:"point"`
	Seq   uint64           `json:"seq"`
}

// clone returns a State that shares nothing that apply changes.
func (s State) clone() State {
	s.Live, s.Dropped, s.Condemned = maps.Clone(s.Live), maps.Clone(s.Dropped), maps.Clone(s.Condemned)
	s.Fences, s.Moves = slices.Clone(s.Fences), slices.Clone(s.Moves)
	if s.Live == nil {
		s.Live, s.Dropped, s.Condemned = map[backstay.PointID]Hash{}, map[backstay.PointID]uint64{}, map[string]Condemned{}
	}
	return s
}

// apply adds an authentic record. It refuses nothing: what was appended was
// decided by whoever appended it.
func (s *State) apply(r Record, hash Hash) {
	s.Head = Head{Seq: r.Seq, Hash: hash}
	switch r.Op {
	case Commit:
		delete(s.Dropped, r.Point)
		s.Live[r.Point] = r.Root
	case Drop:
		delete(s.Live, r.Point)
		s.Dropped[r.Point] = r.Seq
	case Condemn:
		s.Condemned[r.Object] = Condemned{Object: r.Object, Seq: r.Seq, Time: r.Time, Hash: r.Hash}
	case Reclaim:
		c, ok := s.Condemned[r.Object]
		if !ok || c.Seq != r.Of {
			return // a list that is not condemned cannot be deleted either
		}
		c.Fence = r.Seq
		s.Condemned[r.Object] = c
		s.Fences = append(s.Fences, Fence{Object: r.Object, Hash: c.Hash, CondemnSeq: c.Seq, Seq: r.Seq})
		if n := len(s.Fences) - fencesKept; n > 0 {
			s.Floor = s.Fences[n-1].Seq
			s.Fences = slices.Delete(s.Fences, 0, n)
		}
	case Reclaimed:
		if s.Condemned[r.Object].Seq == r.Of {
			delete(s.Condemned, r.Object)
		}
	case Moved:
		s.Moves = slices.DeleteFunc(s.Moves, func(m Move) bool { return m.Seq <= r.Of })
		s.Moves = append(s.Moves, Move{Object: r.Object, Hash: r.Hash, Seq: r.Seq})
	case Keys:
		s.HeaderGeneration, s.HeaderObject, s.HeaderHash = r.Generation, r.Object, r.Hash
	case Checkpointed:
		s.restore(r.Checkpoint)
	}
}

// checkpoint returns the state as it is written.
func (s State) checkpoint() *Checkpoint {
	c := &Checkpoint{Live: []LivePoint{}, Dropped: []DroppedPoint{}, Condemned: []Condemned{}, Fences: append([]Fence{}, s.Fences...),
		Floor: s.Floor, Moves: append([]Move{}, s.Moves...),
		HeaderGeneration: s.HeaderGeneration, HeaderObject: s.HeaderObject, HeaderHash: s.HeaderHash}
	for p, root := range s.Live {
		c.Live = append(c.Live, LivePoint{p, root})
	}
	slices.SortFunc(c.Live, func(a, b LivePoint) int { return strings.Compare(string(a.Point), string(b.Point)) })
	for p, seq := range s.Dropped {
		c.Dropped = append(c.Dropped, DroppedPoint{p, seq})
	}
	slices.SortFunc(c.Dropped, func(a, b DroppedPoint) int {
		return cmp.Or(cmp.Compare(a.Seq, b.Seq), strings.Compare(string(a.Point), string(b.Point)))
	})
	c.Dropped = c.Dropped[max(0, len(c.Dropped)-dropsKept):]
	for _, x := range s.Condemned {
		c.Condemned = append(c.Condemned, x)
	}
	slices.SortFunc(c.Condemned, func(a, b Condemned) int { return cmp.Compare(a.Seq, b.Seq) })
	return c
}

// restore sets all but the head from a checkpoint.
func (s *State) restore(c *Checkpoint) {
	*s = State{Head: s.Head, Fences: slices.Clone(c.Fences), Floor: c.Floor, Moves: slices.Clone(c.Moves),
		HeaderGeneration: c.HeaderGeneration, HeaderObject: c.HeaderObject, HeaderHash: c.HeaderHash}.clone()
	for _, p := range c.Live {
		s.Live[p.Point] = p.Root
	}
	for _, p := range c.Dropped {
		s.Dropped[p.Point] = p.Seq
	}
	for _, x := range c.Condemned {
		s.Condemned[x.Object] = x
	}
}

// CondemnedBefore returns the lists that a writer must leave alone which begins
// at this state, oldest first.
func (s State) CondemnedBefore() []Condemned { return s.checkpoint().Condemned }
