package items

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	backstay "github.com/backstay/backstay"
)

// Tar writes streams as one tar archive in the pax format: with nanoseconds, names of any
// length and bytes, extended attributes, ACLs, hard links, nodes, and holes as GNU's
// sparse files. It holds 1 MiB of content at most.
type Tar struct {
	archive
	w *bufio.Writer
}

// NewTar begins an archive on w.
func NewTar(w io.Writer, o ArchiveOptions) *Tar {
	return &Tar{archive: archive{o: o}, w: bufio.NewWriterSize(w, 256<<10)}
}

// Add writes all of a stream. After an error the archive is cut, and not to be closed.
func (t *Tar) Add(ctx context.Context, stream *Reader) error {
	return t.add(ctx, stream, t.put)
}

// Close ends the archive, with a list of what it lacks if that is anything
// (IncompleteName). It does not close what lies below.
func (t *Tar) Close() (Report, error) {
	list := t.list()
	if list == nil {
		_, err := t.w.Write(make([]byte, 2*tarBlock))
		if err == nil {
			err = t.w.Flush()
		}
		return t.report, err
	}
	// The header promises a block more than there is.
	it := Item{Path: IncompleteName, Type: backstay.TypeFile, Mode: 0o644, ModTime: time.Unix(0, 0)}
	blocks := (int64(len(list)) + tarBlock - 1) / tarBlock
	err := t.header(&tarEntry{Item: &it, kind: '0', size: (blocks + 1) * tarBlock})
	if err == nil {
		_, err = t.w.Write(append(list, bytes.Repeat([]byte{'\n'}, int(blocks*tarBlock)-len(list))...))
	}
	if err == nil {
		err = t.w.Flush()
	}
	return t.report, err
}

const tarBlock = 512

// tarEntry is what one header says.
type tarEntry struct {
	*Item
	kind    byte
	name    string
	size    int64 // of what follows
	holes   bool  // a record has its name
	records []byte
}

var tarKinds = map[backstay.FileType]byte{
	backstay.TypeFile: '0', backstay.TypeFolder: '5', backstay.TypeLink: '2', backstay.TypeChar: '3', backstay.TypeBlock: '4', backstay.TypeFIFO: '6',
}

func (t *Tar) put(it *Item, content *filled) error {
	e := &tarEntry{Item: it, kind: tarKinds[it.Type], name: string(it.Path)}
	var extents []Extent
	var sparse string
	switch {
	case it.HardLink != "":
		e.kind = '1'
	case it.Type == backstay.TypeFolder:
		e.name += "/"
	case content != nil:
		e.size = it.Size
		extents = []Extent{{0, it.Size}}
		if content.loaded == nil && it.Sparse && !t.o.Dense {
			extents = it.Extents
			sparse = e.sparse()
		}
	}
	if err := t.header(e); err != nil {
		return err
	}
	if content == nil {
		return nil
	}
	if _, err := t.w.WriteString(sparse); err != nil {
		return err
	}
	return t.content(e.size, extents, content)
}

// sparse makes the entry one of GNU's sparse files, version 1.0, and returns the map that
// goes before the content.
func (e *tarEntry) sparse() string {
	var b strings.Builder
	data := int64(0)
	last := Extent{Offset: e.Size} // a hole at the end is told by an empty piece there
	fmt.Fprintf(&b, "%d\n", len(e.Extents)+1)
	for _, x := range append(e.Extents[:len(e.Extents):len(e.Extents)], last) {
		fmt.Fprintf(&b, "%d\n%d\n", x.Offset, x.Length)
		data += x.Length
	}
	if n := b.Len() % tarBlock; n > 0 {
		b.WriteString(strings.Repeat("\x00", tarBlock-n))
	}
	e.record("GNU.sparse.major", "1")
	e.record("GNU.sparse.minor", "0")
	e.text("GNU.sparse.name", e.name)
	e.record("GNU.sparse.realsize", strconv.FormatInt(e.Size, 10))
	e.size, e.holes = int64(b.Len())+data, true
	e.name = "GNUSparseFile.0/" + e.name[strings.LastIndexByte(e.name, '/')+1:]
	return b.String()
}

// content writes the pieces of a file, and fills up the last block.
func (t *Tar) content(size int64, extents []Extent, content *filled) error {
	if t.buf == nil {
		t.buf = make([]byte, 256<<10)
	}
	for _, x := range extents {
		content.at = x.Offset // nothing lies between two extents
		if _, err := io.CopyBuffer(onlyWriter{t.w}, io.LimitReader(content, x.Length), t.buf); err != nil {
			return err
		}
	}
	if content.loaded == nil {
		if err := content.finish(); err != nil {
			return err
		}
	}
	return t.pad(size)
}

// onlyWriter hides ReadFrom, for which io.CopyBuffer would leave the buffer.
type onlyWriter struct{ io.Writer }

func (t *Tar) pad(size int64) error {
	var none [tarBlock]byte
	if n := size % tarBlock; n > 0 {
		_, err := t.w.Write(none[n:])
		return err
	}
	return nil
}

// record adds a pax record: its length, which counts its own digits, name and value.
func (e *tarEntry) record(name, value string) {
	n := len(name) + len(value) + 3 // space, "=", newline
	size := n + len(strconv.Itoa(n))
	size = n + len(strconv.Itoa(size))
	e.records = append(e.records, fmt.Sprintf("%d %s=%s\n", size, name, value)...)
}

// The most that the fields of a plain header hold.
const (
	tarName   = 100
	tarID     = 0o7777777
	tarDevice = 0o7777777
	tarSize   = 0o77777777777
)

// header writes the entry's header, behind one with the pax records that it needs.
func (t *Tar) header(e *tarEntry) error {
	if e.name == "" {
		e.name = string(e.Path)
	}
	link := string(e.Target)
	if e.HardLink != "" {
		link = string(e.HardLink)
	}
	if len(e.name) > tarName && !e.holes {
		e.text("path", e.name)
	}
	if len(link) > tarName {
		e.text("linkpath", link)
	}
	if e.size > tarSize {
		e.record("size", strconv.FormatInt(e.size, 10))
	}
	if e.UID > tarID {
		e.record("uid", strconv.FormatUint(uint64(e.UID), 10))
	}
	if e.GID > tarID {
		e.record("gid", strconv.FormatUint(uint64(e.GID), 10))
	}
	if seconds := e.ModTime.Unix(); e.ModTime.Nanosecond() != 0 || seconds < 0 || seconds > tarSize {
		e.record("mtime", tarTime(e.ModTime))
	}
	if e.HardLink == "" {
		e.attributes()
	}
	if len(e.records) > 0 {
		head := tarHeader("PaxHeaders.0/"+e.name[:min(len(e.name), 80)], 'x', int64(len(e.records)))
		if err := t.write(head, e.records); err != nil {
			return err
		}
		if err := t.pad(int64(len(e.records))); err != nil {
			return err
		}
	}
	head := tarHeader(e.name, e.kind, e.size)
	octal(head[100:108], int64(e.Mode))
	octal(head[108:116], int64(e.UID))
	octal(head[116:124], int64(e.GID))
	octal(head[136:148], max(e.ModTime.Unix(), 0))
	copy(head[157:257], link)
	if e.kind == '3' || e.kind == '4' {
		octal(head[329:337], int64(e.Major))
		octal(head[337:345], int64(e.Minor))
	}
	return t.write(head, nil)
}

// text adds a record of a name or path, and says so if it is not UTF-8.
func (e *tarEntry) text(name, value string) {
	if !utf8.ValidString(value) && !strings.Contains(string(e.records), "hdrcharset=BINARY") {
		e.record("hdrcharset", "BINARY")
	}
	e.record(name, value)
}

// attributes adds the records of extended attributes and ACLs.
func (e *tarEntry) attributes() {
	for _, x := range e.Xattrs {
		switch x.Name {
		case "system.posix_acl_access":
			if text, ok := aclText(x.Value); ok {
				e.record("SCHILY.acl.access", text)
			}
		case "system.posix_acl_default":
			if text, ok := aclText(x.Value); ok {
				e.record("SCHILY.acl.default", text)
			}
		default:
			if !strings.ContainsAny(x.Name, "=") { // which a record cannot hold
				e.record("SCHILY.xattr."+x.Name, string(x.Value))
			}
		}
	}
}

// write sums up the header and writes it.
func (t *Tar) write(head *[tarBlock]byte, data []byte) error {
	sum := int64(0)
	for _, b := range head {
		sum += int64(b)
	}
	copy(head[148:156], fmt.Sprintf("%06o\x00 ", sum))
	if _, err := t.w.Write(head[:]); err != nil {
		return err
	}
	_, err := t.w.Write(data)
	return err
}

func tarHeader(name string, kind byte, size int64) *[tarBlock]byte {
	var head [tarBlock]byte
	copy(head[:tarName], name)
	octal(head[100:108], 0o644)
	octal(head[108:116], 0)
	octal(head[116:124], 0)
	octal(head[124:136], size)
	octal(head[136:148], 0)
	copy(head[148:156], "        ") // what the sum counts for itself
	head[156] = kind
	copy(head[257:265], "ustar\x0000")
	return &head
}

// octal writes a number with a NUL behind it. One that does not fit is left at 0: a
// record has it.
func octal(field []byte, n int64) {
	digits := strconv.FormatInt(n, 8)
	if n < 0 || len(digits) > len(field)-1 {
		digits = "0"
	}
	for i := range field[:len(field)-1] {
		field[i] = '0'
	}
	copy(field[len(field)-1-len(digits):], digits)
	field[len(field)-1] = 0
}

// tarTime is a time as pax has it: seconds with a fraction.
func tarTime(at time.Time) string {
	seconds, nanos := at.Unix(), int64(at.Nanosecond())
	sign := ""
	if seconds < 0 {
		sign = "-"
		seconds = -seconds
		if nanos > 0 {
			seconds, nanos = seconds-1, 1_000_000_000-nanos
		}
	}
	if nanos == 0 {
		return sign + strconv.FormatInt(seconds, 10)
	}
	return strings.TrimRight(fmt.Sprintf("%s%d.%09d", sign, seconds, nanos), "0")
}
