package inside

import (
	"bytes"
	"context"
	"errors"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/items"
	"golang.org/x/sys/unix"
)

// itemWriter writes batches as a stream. It belongs to one goroutine.
type itemWriter struct {
	t    *tree
	ctx  context.Context
	w    *items.Writer
	seen map[inode]*linkedName
	// all and bytes are how many linked items were written, and the length of their paths.
	count, bytes int
}

// linkedName is a file with several names, of which some were not seen yet.
type linkedName struct {
	path backstay.FilePath
	left uint64
}

// all writes batches until there are no more.
func (o *itemWriter) all(order <-chan *batch) error {
	for b := range order {
		<-b.done
		err := o.ctx.Err()
		if err == nil {
			err = o.batch(b)
		}
		b.dir.release()
		if err != nil {
			return err
		}
	}
	return o.ctx.Err()
}

func (o *itemWriter) batch(b *batch) error {
	if b.self != nil {
		if err := o.bare(&b.self.item, ""); err != nil {
			return err
		}
	}
	for i := range b.entries {
		if err := o.entry(b.dir, &b.entries[i]); err != nil {
			return err
		}
	}
	return nil
}

// bare writes an item without content.
func (o *itemWriter) bare(it *items.Item, reason string) error {
	if err := o.w.Begin(it); err != nil {
		return err
	}
	return o.w.End(reason)
}

func (o *itemWriter) entry(dir *openDir, e *taken) error {
	it := &e.item
	if it.Error == "" && e.names > 1 {
		o.link(e)
	}
	if it.Type != backstay.TypeFile || it.Error != "" || it.HardLink != "" {
		return o.bare(it, "")
	}
	if !e.inline {
		return o.large(dir, e)
	}
	if err := o.w.Begin(it); err != nil {
		return err
	}
	if err := o.w.Data(0, e.content); err != nil {
		return err
	}
	return o.w.End(e.reason)
}

// link makes the item another name of an earlier one, or one that later ones may be
// names of.
func (o *itemWriter) link(e *taken) {
	it := &e.item
	first := o.seen[e.id]
	switch {
	case first != nil:
		it.HardLink, it.Sparse, it.Extents = first.path, false, nil
		if first.left--; first.left == 0 {
			delete(o.seen, e.id)
		}
	case o.count >= items.MaxLinked || o.bytes+len(it.Path) > items.MaxLinkedBytes:
		it.Note = "it is a file of its own here, since there are too many with several names"
	default:
		o.count++
		o.bytes += len(it.Path)
		it.Linked = true
		o.seen[e.id] = &linkedName{path: it.Path, left: e.names - 1}
	}
}

// large writes a file that no worker read.
func (o *itemWriter) large(dir *openDir, e *taken) error {
	it := &e.item
	fd, err := unix.Openat(dir.fd, e.name, openContent, 0)
	if err != nil {
		it.Error = err.Error()
		it.Linked = false
		delete(o.seen, e.id)
		return o.bare(it, "")
	}
	defer unix.Close(fd)
	if err := o.w.Begin(it); err != nil {
		return err
	}
	put := o.w.Data
	if e.holes {
		put = o.unlessZero
	}
	var failed *readError
	at, err := o.content(fd, e, put)
	if err != nil && !errors.As(err, &failed) {
		return err
	}
	return o.w.End(endReason(at, it.Size, err))
}

// content writes what a file holds and returns where that ended.
func (o *itemWriter) content(fd int, e *taken, put func(int64, []byte) error) (int64, error) {
	it := &e.item
	if !e.holes {
		return copyRange(o.ctx, fd, extent{0, it.Size}, put)
	}
	for i, at := 0, int64(0); at < it.Size; i++ {
		part, ok := extent{}, false
		if !it.Sparse {
			part, ok = nextData(fd, at, it.Size)
		} else if i < len(it.Extents) {
			part, ok = extent{it.Extents[i].Offset, it.Extents[i].Offset + it.Extents[i].Length}, true
		}
		if !ok {
			break
		}
		end, err := copyRange(o.ctx, fd, part, put)
		if err != nil || end < part.to {
			return end, err
		}
		at = part.to
	}
	return it.Size, nil
}

var zeros [readPiece]byte

// unlessZero leaves out what a hole says as well, for file systems that do not tell
// where theirs are.
func (o *itemWriter) unlessZero(offset int64, data []byte) error {
	if bytes.Equal(data, zeros[:len(data)]) {
		return nil
	}
	return o.w.Data(offset, data)
}
