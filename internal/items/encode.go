package items

import (
	"encoding/binary"
	"fmt"
	"time"

	backstay "github.com/backstay/backstay"
)

// The marks with which the records of a stream begin.
const (
	markItem = 'I'
	markRun  = 'D'
	markEnd  = 'E'
	markLast = 'Z'
)

// magic begins a stream; its last byte is the version.
const magic = "BSITEMS\x01"

var typeCodes = map[backstay.FileType]byte{
	backstay.TypeFile: 1, backstay.TypeFolder: 2, backstay.TypeLink: 3, backstay.TypeBlock: 4,
	backstay.TypeChar: 5, backstay.TypeFIFO: 6, backstay.TypeSocket: 7,
}

var types = [...]backstay.FileType{1: backstay.TypeFile, backstay.TypeFolder, backstay.TypeLink, backstay.TypeBlock,
	backstay.TypeChar, backstay.TypeFIFO, backstay.TypeSocket}

const (
	flagLinked = 1 << iota
	flagSparse
)

// appendItem appends the item's header. It is the inverse of decodeItem.
func appendItem(b []byte, it *Item) []byte {
	var flags byte
	if it.Linked {
		flags |= flagLinked
	}
	if it.Sparse {
		flags |= flagSparse
	}
	b = append(b, typeCodes[it.Type], flags)
	b = appendText(b, string(it.Path))
	b = binary.AppendUvarint(b, uint64(it.Size))
	b = binary.AppendUvarint(b, uint64(it.Mode))
	b = binary.AppendUvarint(b, uint64(it.UID))
	b = binary.AppendUvarint(b, uint64(it.GID))
	b = binary.AppendVarint(b, it.ModTime.Unix())
	b = binary.AppendUvarint(b, uint64(it.ModTime.Nanosecond()))
	b = appendText(b, string(it.Target))
	b = appendText(b, string(it.HardLink))
	b = binary.AppendUvarint(b, uint64(it.Major))
	b = binary.AppendUvarint(b, uint64(it.Minor))
	b = appendText(b, it.Note)
	b = appendText(b, it.Error)
	b = binary.AppendUvarint(b, uint64(len(it.Xattrs)))
	for _, x := range it.Xattrs {
		b = appendText(b, x.Name)
		b = binary.AppendUvarint(b, uint64(len(x.Value)))
		b = append(b, x.Value...)
	}
	b = binary.AppendUvarint(b, uint64(len(it.Extents)))
	for _, e := range it.Extents {
		b = binary.AppendUvarint(b, uint64(e.Offset))
		b = binary.AppendUvarint(b, uint64(e.Length))
	}
	return b
}

func appendText(b []byte, s string) []byte {
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}

// decoder takes a header apart; the first thing wrong stays in err.
type decoder struct {
	b   []byte
	err error
}

func (d *decoder) fail(err error) {
	if d.err == nil {
		d.err = err
	}
	d.b = nil
}

func (d *decoder) number(limit uint64) uint64 {
	n, size := binary.Uvarint(d.b)
	if size <= 0 {
		d.fail(fmt.Errorf("%w: a number ends early", ErrFormat))
		return 0
	}
	d.b = d.b[size:]
	if n > limit {
		d.fail(fmt.Errorf("%w: a number of %d where %d is the most", ErrTooBig, n, limit))
		return 0
	}
	return n
}

func (d *decoder) signed() int64 {
	n, size := binary.Varint(d.b)
	if size <= 0 {
		d.fail(fmt.Errorf("%w: a number ends early", ErrFormat))
		return 0
	}
	d.b = d.b[size:]
	return n
}

func (d *decoder) bytes(limit uint64) []byte {
	n := d.number(limit)
	if n > uint64(len(d.b)) {
		d.fail(fmt.Errorf("%w: a text ends early", ErrFormat))
		return nil
	}
	s := d.b[:n]
	d.b = d.b[n:]
	return s
}

func (d *decoder) text(limit uint64) string { return string(d.bytes(limit)) }

const (
	maxUint32 = 1<<32 - 1
	maxInt64  = 1<<63 - 1
	// Times outside of the years -9999 to 9999 are no file's, and break what prints them.
	maxSeconds = 253402300799
)

// decodeItem takes a header apart. Lengths, numbers and types are within their limits
// afterwards; what the item says is not looked at.
func decodeItem(b []byte) (Item, error) {
	d := &decoder{b: b}
	if len(b) < 2 {
		return Item{}, fmt.Errorf("%w: an item of %d bytes", ErrFormat, len(b))
	}
	code, flags := b[0], b[1]
	if code == 0 || int(code) >= len(types) || flags > flagLinked|flagSparse {
		return Item{}, fmt.Errorf("%w: an item of type %d with flags %d", ErrFormat, code, flags)
	}
	d.b = b[2:]
	it := Item{Type: types[code], Linked: flags&flagLinked != 0, Sparse: flags&flagSparse != 0}
	it.Path = backstay.FilePath(d.text(MaxPath))
	it.Size = int64(d.number(maxInt64))
	it.Mode = uint32(d.number(0o7777))
	it.UID = uint32(d.number(maxUint32))
	it.GID = uint32(d.number(maxUint32))
	seconds := d.signed()
	nanos := d.number(999_999_999)
	if seconds < -maxSeconds || seconds > maxSeconds {
		d.fail(fmt.Errorf("%w: a time of %d seconds", ErrTooBig, seconds))
	}
	it.ModTime = time.Unix(seconds, int64(nanos)).UTC()
	it.Target = backstay.FilePath(d.text(MaxPath))
	it.HardLink = backstay.FilePath(d.text(MaxPath))
	it.Major = uint32(d.number(maxUint32))
	it.Minor = uint32(d.number(maxUint32))
	it.Note = printable(d.text(MaxText))
	it.Error = printable(d.text(MaxText))
	d.attributes(&it)
	if d.err == nil && len(d.b) > 0 {
		d.fail(fmt.Errorf("%w: %d bytes too many in an item", ErrFormat, len(d.b)))
	}
	return it, d.err
}

func (d *decoder) attributes(it *Item) {
	if n := d.number(MaxXattrs); n > 0 {
		it.Xattrs = make([]Xattr, 0, min(n, 64))
		for range n {
			x := Xattr{Name: d.text(255), Value: append([]byte(nil), d.bytes(64<<10)...)}
			if d.err != nil {
				return
			}
			it.Xattrs = append(it.Xattrs, x)
		}
	}
	if n := d.number(MaxExtents); n > 0 {
		it.Extents = make([]Extent, 0, min(n, 64))
		for range n {
			e := Extent{Offset: int64(d.number(maxInt64)), Length: int64(d.number(maxInt64))}
			if d.err != nil {
				return
			}
			it.Extents = append(it.Extents, e)
		}
	}
}
