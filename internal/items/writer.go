package items

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"
)

var errOpen = errors.New("an item is open, or none is")

// Writer writes a stream of items. It is for one goroutine. What it writes is whole only
// after Close.
type Writer struct {
	w      *bufio.Writer
	header []byte
	open   bool
	items  uint64
	bytes  uint64
}

// NewWriter begins a stream on w, to which it writes in large pieces.
func NewWriter(w io.Writer) *Writer {
	b := bufio.NewWriterSize(w, 256<<10)
	_, _ = b.WriteString(magic) // an error stays in b
	return &Writer{w: b}
}

// Begin begins an item. Every item is ended with End, whether it has content or not.
func (w *Writer) Begin(it *Item) error {
	if w.open {
		return fmt.Errorf("begin item %s: %w", it.Path, errOpen)
	}
	if typeCodes[it.Type] == 0 || len(it.Xattrs) > MaxXattrs || len(it.Extents) > MaxExtents {
		return fmt.Errorf("begin item %s: %w", it.Path, ErrTooBig)
	}
	it.Note, it.Error = short(it.Note), short(it.Error)
	w.header = appendItem(append(w.header[:0], markItem, 0, 0, 0, 0), it)
	n := len(w.header) - 5
	if n > MaxHeader {
		return fmt.Errorf("begin item %s: %w: %d bytes are said of it", it.Path, ErrTooBig, n)
	}
	binary.BigEndian.PutUint32(w.header[1:], uint32(n))
	if _, err := w.w.Write(w.header); err != nil {
		return fmt.Errorf("write item %s: %w", it.Path, err)
	}
	w.open = true
	w.items++
	return nil
}

// Data writes content of the item, any number of bytes at a place behind those before.
func (w *Writer) Data(offset int64, data []byte) error {
	if !w.open {
		return fmt.Errorf("write content: %w", errOpen)
	}
	for len(data) > 0 {
		n := min(len(data), MaxRun)
		var head [13]byte
		head[0] = markRun
		binary.BigEndian.PutUint64(head[1:], uint64(offset))
		binary.BigEndian.PutUint32(head[9:], uint32(n))
		if _, err := w.w.Write(head[:]); err != nil {
			return fmt.Errorf("write content: %w", err)
		}
		if _, err := w.w.Write(data[:n]); err != nil {
			return fmt.Errorf("write content: %w", err)
		}
		offset, data = offset+int64(n), data[n:]
		w.bytes += uint64(n)
	}
	return nil
}

// End ends the item. A reason says that its content could not be read to its end.
func (w *Writer) End(reason string) error {
	if !w.open {
		return fmt.Errorf("end item: %w", errOpen)
	}
	w.open = false
	reason = short(reason)
	var head [3]byte
	head[0] = markEnd
	binary.BigEndian.PutUint16(head[1:], uint16(len(reason)))
	if _, err := w.w.Write(head[:]); err != nil {
		return fmt.Errorf("end item: %w", err)
	}
	if _, err := w.w.WriteString(reason); err != nil {
		return fmt.Errorf("end item: %w", err)
	}
	return nil
}

// Close writes the end mark, without which the stream is a cut one. It does not close
// what lies below.
func (w *Writer) Close() error {
	if w.open {
		return fmt.Errorf("end stream: %w", errOpen)
	}
	var last [17]byte
	last[0] = markLast
	binary.BigEndian.PutUint64(last[1:], w.items)
	binary.BigEndian.PutUint64(last[9:], w.bytes)
	if _, err := w.w.Write(last[:]); err != nil {
		return fmt.Errorf("end stream: %w", err)
	}
	if err := w.w.Flush(); err != nil {
		return fmt.Errorf("end stream: %w", err)
	}
	return nil
}

// short cuts a text to what a stream may hold.
func short(s string) string {
	s = printable(s)
	return s[:min(len(s), MaxText)]
}

// printable makes a text safe to print: what is no printable character becomes \xNN.
func printable(s string) string {
	clean := func(r rune) bool { return !unicode.IsPrint(r) || r == utf8.RuneError }
	if strings.IndexFunc(s, clean) < 0 {
		return s
	}
	var b strings.Builder
	for i, r := range s {
		if !clean(r) {
			b.WriteRune(r)
			continue
		}
		_, n := utf8.DecodeRuneInString(s[i:])
		for _, c := range []byte(s[i : i+n]) {
			fmt.Fprintf(&b, `\x%02x`, c)
		}
	}
	return b.String()
}
