package fileindex

import (
	"encoding/hex"
	"iter"
	"slices"
	"time"

	backstay "github.com/backstay/backstay"
)

// Search is one search over the list of a VM.
type Search struct {
	Pattern Pattern
	// Exists are the points that exist; versions in no others are found.
	Exists []backstay.PointID
	Limit  int // the most paths
}

// Find searches all events of a list, which are in order. more: there were more paths
// than Limit.
func (s Search) Find(head Head, events iter.Seq2[Event, error]) (found []backstay.FoundFile, more bool, err error) {
	var points []Point
	for _, p := range head.Points {
		if slices.Contains(s.Exists, p.ID) {
			points = append(points, p)
		}
	}
	var volume backstay.VolumeID
	var mount backstay.FilePath
	var with []backstay.PointID // in which the volume was listed
	for group, err := range Histories(matching(events, func(e Event) bool {
		if e.Volume != volume {
			volume, with, mount = e.Volume, nil, ""
			for _, p := range points {
				if v, ok := p.volume(volume); ok {
					with, mount = append(with, p.ID), v.Mount
				}
			}
		}
		return len(with) > 0 && s.Pattern.Match(mount, e.Path)
	})) {
		if err != nil {
			return nil, false, err
		}
		// The volume may be another by now: matching is ahead by one path.
		f, ok := versions(group, listedIn(points, group[0].Volume))
		if !ok {
			continue
		}
		if len(found) == s.Limit {
			return found, true, nil
		}
		found = append(found, f)
	}
	return found, false, nil
}

func listedIn(points []Point, volume backstay.VolumeID) []backstay.PointID {
	var with []backstay.PointID
	for _, p := range points {
		if _, ok := p.volume(volume); ok {
			with = append(with, p.ID)
		}
	}
	return with
}

// matching are the events whose path matches. Events of one path are neighbours, so
// each path is matched once.
func matching(events iter.Seq2[Event, error], match func(Event) bool) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		var last Event
		yes := false
		for e, err := range events {
			if err != nil {
				yield(Event{}, err)
				return
			}
			if e.Path != last.Path || e.Volume != last.Volume {
				yes, last = match(e), e
			}
			if yes && !yield(e, nil) {
				return
			}
		}
	}
}

// versions makes of a path's events what it was in some points; ok is false if it was
// in none of them.
func versions(events []Event, points []backstay.PointID) (f backstay.FoundFile, ok bool) {
	f = backstay.FoundFile{Volume: events[0].Volume, Path: events[0].Path}
	var last Version
	i := 0
	var now Version
	for _, p := range points {
		for ; i < len(events) && events[i].Point <= p; i++ {
			now = events[i].Version
		}
		switch {
		case now.Gone():
		case !last.Gone() && now.sameContent(last):
			v := &f.Versions[len(f.Versions)-1]
			v.Last = p
			v.Points++
		default:
			f.Versions = append(f.Versions, now.public(p))
			f.Type = now.Type
		}
		last = now
	}
	slices.Reverse(f.Versions)
	return f, len(f.Versions) > 0
}

func (v Version) public(p backstay.PointID) backstay.FileVersion {
	out := backstay.FileVersion{Size: v.Size, ModTime: time.Unix(0, v.ModTime).UTC(), First: p, Last: p, Points: 1}
	if v.Hashed() {
		out.SHA256 = hex.EncodeToString(v.SHA256[:])
	}
	return out
}

// Without are the points that exist and are not in the list.
func (h Head) Without(exist []backstay.PointID) []backstay.PointID {
	var out []backstay.PointID
	for _, id := range exist {
		if _, ok := h.Point(id); !ok {
			out = append(out, id)
		}
	}
	return out
}

// Differs tells how a path differs between two points; ok is false if it does not.
// Of a folder, and of what has no content, only coming, going and another type count,
// since their times change with everything; of a file also its size, time and content. A
// symbolic link cannot be changed, only be made anew: its time tells that it was.
func Differs(before, after Version) (backstay.ChangeKind, bool) {
	switch {
	case before.Gone() && after.Gone():
		return "", false
	case before.Gone():
		return backstay.FileAdded, true
	case after.Gone():
		return backstay.FileRemoved, true
	case before.Type != after.Type:
		return backstay.FileChanged, true
	case before.Type == backstay.TypeLink:
		return backstay.FileChanged, before.ModTime != after.ModTime
	case before.Type == backstay.TypeFolder:
		return "", false
	case before.Size != after.Size:
		return backstay.FileChanged, true
	case before.Type != backstay.TypeFile:
		return "", false
	case before.Hashed() && after.Hashed() && before.SHA256 != after.SHA256, before.ModTime != after.ModTime:
		return backstay.FileChanged, true
	default:
		return "", false
	}
}

// Diff collects changes up to a limit, and counts the others.
type Diff struct {
	Limit   int
	Changes []backstay.FileChange
	More    int64
}

// Add adds what changed of a path, if anything.
func (d *Diff) Add(volume backstay.VolumeID, path backstay.FilePath, before, after Version) {
	kind, ok := Differs(before, after)
	if !ok {
		return
	}
	if len(d.Changes) >= d.Limit {
		d.More++
		return
	}
	c := backstay.FileChange{Change: kind, Volume: volume, Path: path, Type: after.Type, Before: before.Size, After: after.Size}
	if after.Gone() {
		c.Type = before.Type
	}
	d.Changes = append(d.Changes, c)
}

// Points compares two points that are both in a list: all volumes that were listed in
// both.
func (d *Diff) Points(events iter.Seq2[Event, error], before, after Point) error {
	for group, err := range Histories(events) {
		if err != nil {
			return err
		}
		_, in := before.volume(group[0].Volume)
		if _, also := after.volume(group[0].Volume); in && also {
			d.Add(group[0].Volume, group[0].Path, at(group, before.ID), at(group, after.ID))
		}
	}
	return nil
}

// Streams compares one volume of two points by streams of its state in each, in order.
func (d *Diff) Streams(before, after iter.Seq2[Event, error]) error {
	nextA, stopA := iter.Pull2(before)
	defer stopA()
	nextB, stopB := iter.Pull2(after)
	defer stopB()
	a, b := pulled{next: nextA}, pulled{next: nextB}
	a.pull()
	b.pull()
	for a.ok || b.ok {
		switch {
		case a.ok && a.err != nil:
			return a.err
		case b.ok && b.err != nil:
			return b.err
		case !b.ok || a.ok && comparePaths(a.event, b.event) < 0:
			d.Add(a.event.Volume, a.event.Path, a.event.Version, Version{})
			a.pull()
		case !a.ok || comparePaths(a.event, b.event) > 0:
			d.Add(b.event.Volume, b.event.Path, Version{}, b.event.Version)
			b.pull()
		default:
			d.Add(a.event.Volume, a.event.Path, a.event.Version, b.event.Version)
			a.pull()
			b.pull()
		}
	}
	return nil
}
