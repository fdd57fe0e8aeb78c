package fileindex

import (
	"context"
	"fmt"
	"iter"
	"slices"

	backstay "github.com/backstay/backstay"
)

// Segments is where segments are kept. A name is given once, and what it stands for
// never changes.
type Segments interface {
	Get(ctx context.Context, name string) ([]byte, error)
	// Put keeps a segment and returns its name. It is durable when Put returns.
	Put(ctx context.Context, data []byte) (name string, err error)
}

// Events are the events of all layers, in order.
func (h Head) Events(ctx context.Context, s Segments) iter.Seq2[Event, error] {
	return merged(ctx, s, h.Layers)
}

func merged(ctx context.Context, s Segments, layers []Layer) iter.Seq2[Event, error] {
	var streams []iter.Seq2[Event, error]
	for _, l := range layers {
		streams = append(streams, l.events(ctx, s))
	}
	return Merge(streams...)
}

// events are those of one layer: segment by segment, each read when it is its turn.
func (l Layer) events(ctx context.Context, s Segments) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		var last Event
		any := false
		for _, name := range l.Segments {
			data, err := s.Get(ctx, name)
			if err != nil {
				yield(Event{}, err)
				return
			}
			for e, err := range Events(data) {
				if err == nil && any && compare(last, e) >= 0 {
					err = fmt.Errorf("segment %s does not follow the one before: %w", name, ErrBad)
				}
				if !yield(e, err) || err != nil {
					return
				}
				last, any = e, true
			}
		}
	}
}

// spool keeps the segments of a layer that is being made.
type spool struct {
	builder  Builder
	events   int64
	segments [][]byte
}

func (s *spool) add(e Event) error {
	if err := s.builder.Add(e); err != nil {
		return err
	}
	s.events++
	if s.builder.Full() {
		return s.end()
	}
	return nil
}

func (s *spool) end() error {
	if s.builder.Len() == 0 {
		return nil
	}
	data, err := s.builder.Finish()
	s.segments = append(s.segments, data)
	return err
}

// all are the events of a spool.
func (s *spool) all() iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		for _, data := range s.segments {
			for e, err := range Events(data) {
				if !yield(e, err) || err != nil {
					return
				}
			}
		}
	}
}

// Add adds a point, newer than all in the list, and returns the new head, which counts
// as soon as the caller has stored it. changes are what the point says that the list
// does not, in order; exists are the points that exist now, in order. Segments that the new
// head does not name are of no use once it is stored. p is looked at when all changes have
// been read.
func (h Head) Add(ctx context.Context, s Segments, p *Point, exists []backstay.PointID, changes iter.Seq2[Event, error]) (Head, error) {
	if newest := h.Newest(); !validPoint(p.ID) || p.ID <= newest {
		return h, fmt.Errorf("point %s is not newer than %s: %w", p.ID, newest, ErrBad)
	}
	var fresh spool
	for e, err := range changes {
		if err == nil && e.Point != p.ID {
			err = fmt.Errorf("a change of point %s in %s: %w", e.Point, p.ID, ErrBad)
		}
		if err == nil {
			err = fresh.add(e)
		}
		if err != nil {
			return h, err
		}
	}
	if err := fresh.end(); err != nil {
		return h, err
	}
	if i, ok := slices.BinarySearch(exists, p.ID); !ok {
		exists = slices.Insert(slices.Clone(exists), i, p.ID)
	}
	n := h.Plan(fresh.events, exists)
	keep := h.Layers[:len(h.Layers)-n]
	last := Layer{First: p.ID, Last: p.ID}
	var put layerWriter
	put.to = s
	if n == 0 {
		for _, data := range fresh.segments {
			if err := put.put(ctx, data); err != nil {
				return h, err
			}
		}
		last.Events = fresh.events
	} else {
		old := h.Layers[len(keep):]
		last.First = old[0].First
		streams := []iter.Seq2[Event, error]{merged(ctx, s, old), fresh.all()}
		for e, err := range Reduced(Merge(streams...), exists, len(keep) == 0) {
			if err == nil {
				err = put.add(ctx, e)
			}
			if err != nil {
				return h, err
			}
		}
		if err := put.flush(ctx); err != nil {
			return h, err
		}
		last.Events = put.spool.events
	}
	last.Segments = put.names
	next := Head{Layers: append(append([]Layer{}, keep...), last)}
	for _, id := range exists {
		if id >= last.First && id <= p.ID {
			next.Layers[len(keep)].Points++
		}
		if old, ok := h.Point(id); ok && id != p.ID {
			next.Points = append(next.Points, old)
		}
	}
	next.Points = append(next.Points, *p)
	return next, nil
}

// layerWriter puts the segments of a layer as they get full.
type layerWriter struct {
	to    Segments
	spool spool
	names []string
}

func (w *layerWriter) put(ctx context.Context, data []byte) error {
	name, err := w.to.Put(ctx, data)
	w.names = append(w.names, name)
	return err
}

func (w *layerWriter) add(ctx context.Context, e Event) error {
	if err := w.spool.add(e); err != nil {
		return err
	}
	return w.drain(ctx)
}

func (w *layerWriter) drain(ctx context.Context) error {
	for _, data := range w.spool.segments {
		if err := w.put(ctx, data); err != nil {
			return err
		}
	}
	w.spool.segments = nil
	return nil
}

func (w *layerWriter) flush(ctx context.Context) error {
	if err := w.spool.end(); err != nil {
		return err
	}
	return w.drain(ctx)
}
