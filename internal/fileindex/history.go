package fileindex

import (
	"iter"
	"slices"

	backstay "github.com/backstay/backstay"
)

// Merge joins streams of events, each in order, into one in order. Where two have an
// event of one path at one point the later stream's counts.
func Merge(streams ...iter.Seq2[Event, error]) iter.Seq2[Event, error] {
	if len(streams) == 1 {
		return streams[0]
	}
	return func(yield func(Event, error) bool) {
		heads := make([]pulled, len(streams))
		for i, s := range streams {
			next, stop := iter.Pull2(s)
			defer stop()
			heads[i].next = next
			heads[i].pull()
		}
		for {
			least := -1
			for i := range heads {
				if heads[i].ok && heads[i].err != nil {
					yield(Event{}, heads[i].err)
					return
				}
				if !heads[i].ok {
					continue
				}
				if least < 0 {
					least = i
					continue
				}
				switch c := compare(heads[i].event, heads[least].event); {
				case c < 0:
					least = i
				case c == 0:
					heads[least].pull()
					least = i
				}
			}
			if least < 0 {
				return
			}
			if !yield(heads[least].event, nil) {
				return
			}
			heads[least].pull()
		}
	}
}

type pulled struct {
	next  func() (Event, error, bool)
	event Event
	err   error
	ok    bool
}

func (p *pulled) pull() { p.event, p.err, p.ok = p.next() }

// Histories groups events by path: each slice is all events of one path, in order, and
// is valid during the call only.
func Histories(events iter.Seq2[Event, error]) iter.Seq2[[]Event, error] {
	return func(yield func([]Event, error) bool) {
		var group []Event
		for e, err := range events {
			if err != nil {
				yield(nil, err)
				return
			}
			if len(group) > 0 && comparePaths(group[0], e) != 0 {
				if !yield(group, nil) {
					return
				}
				group = group[:0]
			}
			group = append(group, e)
		}
		if len(group) > 0 {
			yield(group, nil)
		}
	}
}

// Reduce leaves out of a path's events what says nothing any more: an event that the
// next one overtakes before any point that exists, and one that says what is so
// already. bottom says that nothing older is known than these: what is gone there need
// not be said. exists is in order. It works in place.
func Reduce(events []Event, exists []backstay.PointID, bottom bool) []Event {
	kept := events[:0]
	for i, e := range events {
		if i+1 < len(events) && !anyIn(exists, e.Point, events[i+1].Point) {
			continue
		}
		if len(kept) > 0 && kept[len(kept)-1].Version == e.Version || len(kept) == 0 && bottom && e.Gone() {
			continue
		}
		kept = append(kept, e)
	}
	return kept
}

// anyIn tells whether a point exists that is not before from and is before to.
func anyIn(exists []backstay.PointID, from, to backstay.PointID) bool {
	i, _ := slices.BinarySearch(exists, from)
	return i < len(exists) && exists[i] < to
}

// Reduced are the events of some neighbouring layers, merged, without what Reduce leaves
// out.
func Reduced(events iter.Seq2[Event, error], exists []backstay.PointID, bottom bool) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		for group, err := range Histories(events) {
			if err != nil {
				yield(Event{}, err)
				return
			}
			for _, e := range Reduce(group, exists, bottom) {
				if !yield(e, nil) {
					return
				}
			}
		}
	}
}

// at is what a path is in a point, by its events.
func at(events []Event, p backstay.PointID) Version {
	var v Version
	for _, e := range events {
		if e.Point > p {
			break
		}
		v = e.Version
	}
	return v
}

// State are the paths of one volume as they are in its newest point of the list, in
// order: what the next point is compared with.
func State(events iter.Seq2[Event, error], volume backstay.VolumeID) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		for group, err := range Histories(events) {
			if err != nil {
				yield(Event{}, err)
				return
			}
			switch last := group[len(group)-1]; {
			case last.Volume > volume:
				return
			case last.Volume < volume || last.Gone():
			default:
				if !yield(last, nil) {
					return
				}
			}
		}
	}
}
