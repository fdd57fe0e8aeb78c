package fileindex

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/guest/wire"
)

// ErrDoubt says that the rows of a volume cannot be had from its inodes: it has to be
// walked.
var ErrDoubt = errors.New("the volume has to be walked")

func doubt(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrDoubt, fmt.Sprintf(format, args...))
}

// Inodes makes the rows that a walk of a volume would give from what was in it in an
// earlier point and from its inodes, and lists only folders that may have changed.
//
// It rests on this: whoever adds, removes or renames an entry changes both times of the
// folder. So a folder whose inode is what it was, and did not change in the last
// moments before the earlier point (see Unchanged), has the names that it had, with the
// same inodes; and these say themselves what they are now. All else is listed, and
// whatever does not fit is an ErrDoubt.
type Inodes struct {
	// All are the inodes of the new point, by number.
	All []wire.Inode
	// Until is the time up to which inode times are trusted.
	Until int64
	// Walk walks a folder in the new point.
	Walk func(ctx context.Context, folder backstay.FilePath, flat bool) (io.ReadCloser, error)
}

// The bounds within which this is worth it: how many folders are listed, and how deep
// names lie in each other, since a walk gives up at some depth.
const (
	mostListed = 5000
	mostDepth  = 500
)

// Rows are the rows of the new point, in order. State is the earlier one.
func (n Inodes) Rows(ctx context.Context, state iter.Seq2[Event, error]) iter.Seq2[wire.Row, error] {
	return func(yield func(wire.Row, error) bool) {
		next, stop := iter.Pull2(state)
		defer stop()
		m := &inodeMerge{Inodes: n, ctx: ctx, yield: yield, old: pulled{next: next}}
		m.old.pull()
		// The root has no row, so what it was is not known.
		err := m.listed("", 0)
		if err == nil && m.old.ok {
			err = m.old.err
		}
		if err != nil && !errors.Is(err, errEnough) {
			yield(wire.Row{}, err)
		}
	}
}

// errEnough ends rows that nobody wants more of.
var errEnough = errors.New("enough")

// inodeMerge is one Rows.
type inodeMerge struct {
	Inodes
	ctx   context.Context
	yield func(wire.Row, error) bool
	old   pulled
	lists int
}

// now is what an inode is in the new point.
func (m *inodeMerge) now(path backstay.FilePath, inode uint64) (wire.Row, error) {
	i, ok := slices.BinarySearchFunc(m.All, inode, func(a wire.Inode, n uint64) int { return cmp.Compare(a.Inode, n) })
	if !ok {
		return wire.Row{}, doubt("%s has inode %d, which is not in use", path, inode)
	}
	one := m.All[i]
	return wire.Row{Path: path, Type: one.Type, Size: one.Size, ModTime: one.ModTime, Changed: one.Changed, Inode: inode}, nil
}

func (m *inodeMerge) write(r wire.Row, depth int) error {
	if r.Unread || r.Inode == 0 || depth > mostDepth {
		return doubt("%s cannot be read, or lies too deep", r.Path)
	}
	if !m.yield(r, nil) {
		return errEnough
	}
	return nil
}

// kept writes what is in a folder that has not changed, by what it was.
func (m *inodeMerge) kept(folder backstay.FilePath, depth int) error {
	for m.old.ok {
		if m.old.err != nil {
			return m.old.err
		}
		was := m.old.event
		if !within(was.Path, folder) {
			return nil
		}
		if strings.IndexByte(string(was.Path[len(folder)+1:]), '/') >= 0 {
			return doubt("%s is in a folder that is not in the list", was.Path)
		}
		row, err := m.now(was.Path, was.Inode)
		if err != nil {
			return err
		}
		if row.Type != was.Type {
			return doubt("%s is a %s, and was a %s", was.Path, row.Type, was.Type)
		}
		if err := m.write(row, depth); err != nil {
			return err
		}
		m.old.pull()
		if err := m.below(was.Version, row, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// below writes what is in a folder which was at the same path, and is the same.
func (m *inodeMerge) below(was Version, row wire.Row, depth int) error {
	switch {
	case row.Type != backstay.TypeFolder:
		return nil
	case Unchanged(was, FromRow(row), m.Until):
		return m.kept(row.Path, depth)
	default:
		return m.listed(row.Path, depth)
	}
}

// listed writes what is in a folder by listing it.
func (m *inodeMerge) listed(folder backstay.FilePath, depth int) error {
	rows, err := m.list(folder)
	if err != nil {
		return err
	}
	for _, row := range rows {
		if err := m.entry(row, depth); err != nil {
			return err
		}
	}
	return m.skip(func(path backstay.FilePath) bool { return folder == "" || within(path, folder) })
}

// entry writes one entry of a listed folder, and what is below it.
func (m *inodeMerge) entry(row wire.Row, depth int) error {
	if err := m.skip(func(path backstay.FilePath) bool { return wire.ComparePaths(path, row.Path) < 0 }); err != nil {
		return err
	}
	if err := m.write(row, depth); err != nil {
		return err
	}
	if m.old.ok && m.old.event.Path == row.Path {
		was := m.old.event.Version
		m.old.pull()
		if was.Type == row.Type && was.Inode == row.Inode {
			return m.below(was, row, depth+1)
		}
	}
	if row.Type != backstay.TypeFolder {
		return nil
	}
	// It is new here, and so is all that is in it.
	if err := m.walked(row.Path); err != nil {
		return err
	}
	return m.skip(func(path backstay.FilePath) bool { return within(path, row.Path) })
}

// skip passes over what was, as long as cond holds.
func (m *inodeMerge) skip(cond func(backstay.FilePath) bool) error {
	for m.old.ok {
		if m.old.err != nil {
			return m.old.err
		}
		if !cond(m.old.event.Path) {
			return nil
		}
		m.old.pull()
	}
	return nil
}

// list returns what is in a folder, which must fit the inodes.
func (m *inodeMerge) list(folder backstay.FilePath) ([]wire.Row, error) {
	var all []wire.Row
	err := m.rows(folder, true, func(row wire.Row) error {
		all = append(all, row)
		return nil
	})
	return all, err
}

// walked writes all that is below a folder.
func (m *inodeMerge) walked(folder backstay.FilePath) error {
	return m.rows(folder, false, func(row wire.Row) error {
		return m.write(row, strings.Count(string(row.Path), "/"))
	})
}

// rows calls fn with the rows of a folder, each of which must be what its inode says:
// so a table that is read in a wrong way is noticed.
func (m *inodeMerge) rows(folder backstay.FilePath, flat bool, fn func(wire.Row) error) error {
	if m.lists++; m.lists > mostListed {
		return doubt("more than %d folders have changed", mostListed)
	}
	if folder == "" {
		folder = "/"
	}
	stream, err := m.Walk(m.ctx, folder, flat)
	if err != nil {
		return err
	}
	defer func() { _ = stream.Close() }()
	for row, err := range wire.Rows(stream) {
		if err != nil {
			return err
		}
		if row.Unread {
			return doubt("%s cannot be read", row.Path)
		}
		if now, err := m.now(row.Path, row.Inode); err != nil || now != row {
			return doubt("%s is not what inode %d says", row.Path, row.Inode)
		}
		if err := fn(row); err != nil {
			return err
		}
	}
	return nil
}
