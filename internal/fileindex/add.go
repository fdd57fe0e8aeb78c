package fileindex

import (
	"crypto/sha256"
	"iter"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/guest/wire"
)

// Change is what a new point says of a path. Hash wants the content of the file hashed
// before the event is stored.
type Change struct {
	Event
	Hash bool
	// Before is what the path was; the zero Version if it was not. An event whose hash
	// shows that it says the same is not to be stored.
	Before Version
}

// empty is the SHA-256 of no bytes.
var empty = sha256.Sum256(nil)

// Compared says how a volume of a new point is compared with what is known of it.
type Compared struct {
	Volume backstay.VolumeID
	Point  backstay.PointID
	// Until is the time up to which inode times are trusted, see Unchanged.
	Until int64
	// HashUpTo is the size in bytes up to which files are hashed.
	HashUpTo int64
	// Saw is called for each row that exists.
	Saw func(wire.Row)
}

// Changes joins the newest known state of a volume and the rows of a new point, both in
// order, and yields what is to be added to the list: what is new, what may have
// changed, and what is gone. What is below a folder that could not be read stays as
// it was.
func (c Compared) Changes(state iter.Seq2[Event, error], rows iter.Seq2[wire.Row, error]) iter.Seq2[Change, error] {
	return func(yield func(Change, error) bool) {
		next, stop := iter.Pull2(state)
		defer stop()
		old := pulled{next: next}
		old.pull()
		unread := backstay.FilePath("")
		// past yields what is gone before a path; "" means all that is left.
		past := func(path backstay.FilePath) bool {
			for ; old.ok && old.err == nil && (path == "" || wire.ComparePaths(old.event.Path, path) < 0); old.pull() {
				if within(old.event.Path, unread) {
					continue
				}
				gone := Change{Event: Event{Volume: c.Volume, Path: old.event.Path, Point: c.Point}, Before: old.event.Version}
				if !yield(gone, nil) {
					return false
				}
			}
			if old.ok && old.err != nil {
				yield(Change{}, old.err)
				return false
			}
			return true
		}
		for row, err := range rows {
			if err != nil {
				yield(Change{}, err)
				return
			}
			if !past(row.Path) {
				return
			}
			if row.Unread {
				unread = row.Path
			}
			var before Version
			if old.ok && old.event.Path == row.Path {
				before = old.event.Version
				old.pull()
			}
			c.Saw(row)
			if change, any := c.compare(before, row); any && !yield(change, nil) {
				return
			}
		}
		past("")
	}
}

// compare says what a row adds, if anything.
func (c Compared) compare(before Version, row wire.Row) (Change, bool) {
	now := FromRow(row)
	switch {
	case row.Type != backstay.TypeFile || row.Size > c.HashUpTo:
	case row.Size == 0:
		now.SHA256 = empty
	case before.Hashed() && Unchanged(before, now, c.Until):
		return Change{}, false
	default:
		return Change{Event{c.Volume, row.Path, c.Point, now}, true, before}, true
	}
	return Change{Event{c.Volume, row.Path, c.Point, now}, false, before}, before != now
}

// within tells whether a path is below a folder; below "" is none.
func within(path, folder backstay.FilePath) bool {
	return folder != "" && len(path) > len(folder) && path[:len(folder)] == folder && path[len(folder)] == '/'
}
