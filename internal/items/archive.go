package items

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	backstay "github.com/backstay/backstay"
)

// IncompleteName is the last entry of an archive that lacks something that was asked for:
// a list of what, and why. Such an archive cannot be taken for a whole one. Behind the
// list, a tar ends early; in a zip, the list and every file that is not whole have a wrong
// checksum. So every program that unpacks them brings all that is there, and then fails.
const IncompleteName = "BACKSTAY-INCOMPLETE.txt"

// ArchiveOptions say how archives are written. The zero value is right.
type ArchiveOptions struct {
	// Dense writes the holes of files into a tar as zeros, for programs that do not know
	// GNU's sparse files (version 1.0).
	Dense bool
	// Progress is told after each item, and within large ones, how many items and bytes
	// there were so far.
	Progress func(items, bytes int64)
}

// archive is what tar and zip have in common. It belongs to one goroutine.
type archive struct {
	o      ArchiveOptions
	report Report
	items  int64
	small  []byte
	buf    []byte
	once   once
}

// put writes one item that can be read; content is nil for what is no file.
type put func(it *Item, content *filled) error

// add writes all of a stream.
func (a *archive) add(ctx context.Context, stream *Reader, write put) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		it, err := stream.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := a.item(ctx, stream, &it, write); err != nil {
			return fmt.Errorf("write %s: %w", it.Path, err)
		}
		a.items++
		a.progress()
	}
}

func (a *archive) progress() {
	if a.o.Progress != nil {
		a.o.Progress(a.items, a.report.Bytes)
	}
}

func (a *archive) item(ctx context.Context, stream *Reader, it *Item, write put) error {
	if why := a.once.refuses(it); why != "" {
		a.report.remark(Refused, it.Path, why)
		return nil
	}
	if it.Error != "" {
		a.report.remark(Unread, it.Path, it.Error)
		if it.Type != backstay.TypeFolder {
			return nil
		}
	}
	if it.Note != "" {
		a.report.remark(Lacking, it.Path, it.Note)
	}
	if it.Type == backstay.TypeSocket {
		a.report.remark(LeftOut, it.Path, "a socket has no content")
		return nil
	}
	var content *filled
	if it.Type == backstay.TypeFile && it.HardLink == "" {
		content = &filled{ctx: ctx, stream: stream, size: it.Size, a: a}
		if it.Size <= MaxRun {
			// A small file that cannot be read is known before anything is written of it.
			if err := content.load(); err != nil {
				return err
			}
			if content.broken != "" {
				a.report.remark(Unread, it.Path, content.broken)
				return nil
			}
		}
	}
	if err := write(it, content); err != nil {
		return err
	}
	if content != nil && content.broken != "" {
		a.report.remark(Unread, it.Path, "what follows in it is zeros: "+content.broken)
	}
	a.report.count(it)
	return nil
}

// list is the content of the entry IncompleteName; nil for a whole archive.
func (a *archive) list() []byte {
	if a.report.Whole() {
		return nil
	}
	var b strings.Builder
	b.WriteString("This archive is not complete. These could not be put into it, or not whole:\n\n")
	n := int64(0)
	for _, m := range a.report.Remarks {
		if m.Outcome == Unread || m.Outcome == Refused {
			fmt.Fprintf(&b, "%s: %s\n", m.Path, m.Text)
			n++
		}
	}
	if more := a.report.Counts[Unread] + a.report.Counts[Refused] - n; more > 0 {
		fmt.Fprintf(&b, "and %d more\n", more)
	}
	return []byte(b.String())
}

// filled reads a file's content with its holes as zeros, always size bytes: what cannot
// be read is zeros, and broken says why.
type filled struct {
	ctx    context.Context
	stream *Reader
	a      *archive
	size   int64
	at     int64
	run    Run // what is left of the last one
	ended  bool
	broken string
	loaded []byte // all of it, if it is small
}

// load reads a small file at once.
func (f *filled) load() error {
	if cap(f.a.small) < int(f.size) {
		f.a.small = make([]byte, f.size, MaxRun)
	}
	data := f.a.small[:f.size]
	_, err := io.ReadFull(f, data)
	if err == nil && !f.ended { // the end tells whether all was read
		err = f.next()
	}
	f.loaded, f.at = data, 0
	return err
}

func (f *filled) next() error {
	if err := f.ctx.Err(); err != nil {
		return err
	}
	run, err := f.stream.Run()
	var broken *Broken
	switch {
	case err == nil:
		f.run = run
		f.a.report.Bytes += int64(len(run.Data))
		if len(run.Data) >= 64<<10 {
			f.a.progress()
		}
		return nil
	case errors.Is(err, io.EOF):
	case errors.As(err, &broken):
		f.broken = broken.Reason
	default:
		return err
	}
	f.ended, f.run = true, Run{Offset: f.size}
	return nil
}

// Read is an io.Reader's.
func (f *filled) Read(p []byte) (int, error) {
	if f.at == f.size {
		return 0, io.EOF
	}
	if f.loaded != nil {
		n := copy(p, f.loaded[f.at:])
		f.at += int64(n)
		return n, nil
	}
	for !f.ended && f.at >= f.run.Offset+int64(len(f.run.Data)) {
		if err := f.next(); err != nil {
			return 0, err
		}
	}
	if len(p) == 0 {
		return 0, nil
	}
	var n int
	if f.at < f.run.Offset {
		n = int(min(int64(len(p)), f.run.Offset-f.at))
		clear(p[:n])
	} else {
		n = copy(p, f.run.Data[f.at-f.run.Offset:])
	}
	f.at += int64(n)
	return n, nil
}

// finish reads the end of a file of which all bytes were read.
func (f *filled) finish() error {
	for !f.ended {
		if err := f.next(); err != nil {
			return err
		}
	}
	return nil
}
