package fileindex

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/klauspost/compress/zstd"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/guest/wire"
)

// The bounds of a segment: it is ended when it has this many events or its rows this
// many bytes.
const (
	maxEvents  = 1 << 16
	maxRows    = 8 << 20
	segmentV1  = 1
	pointSize  = 26
	maxNames   = 1 << 16 // points, and volumes
	maxVolume  = 1 << 10 // bytes of a volume's name
	rowsMargin = wire.MaxPath + 128
)

// ErrBad is what a segment or a head gets that was not written by this package.
var ErrBad = errors.New("the list of files is malformed")

// The first byte of an event: the type in the low bits, and these.
const (
	typeBits = 0x07
	hashed   = 0x08
	newPath  = 0x10
)

// types are the types of files by their number; 0 is what is gone.
var types = [8]backstay.FileType{"", backstay.TypeFile, backstay.TypeFolder, backstay.TypeLink, backstay.TypeBlock,
	backstay.TypeChar, backstay.TypeFIFO, backstay.TypeSocket}

var coder = sync.OnceValues(func() (*zstd.Encoder, error) {
	return zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderCRC(false), zstd.WithEncoderConcurrency(1))
})

var decoder = sync.OnceValues(func() (*zstd.Decoder, error) {
	return zstd.NewReader(nil, zstd.WithDecoderConcurrency(runtime.GOMAXPROCS(0)), zstd.WithDecodeAllCapLimit(true))
})

// Builder makes one segment of events that come in order.
type Builder struct {
	points  []backstay.PointID
	volumes []backstay.VolumeID
	rows    []byte
	hashes  []byte
	last    Event
	n       int
}

// Len is how many events the segment has so far.
func (b *Builder) Len() int { return b.n }

// Full tells whether the segment is to be ended.
func (b *Builder) Full() bool { return b.n >= maxEvents || len(b.rows) >= maxRows }

// Add adds an event, which must follow the one before.
func (b *Builder) Add(e Event) error {
	kind := slices.Index(types[:], e.Type)
	switch {
	case kind < 0 || len(e.Point) != pointSize || !wire.CleanPath(e.Path) || e.Size < 0,
		e.Volume == "" || len(e.Volume) > maxVolume:
		return fmt.Errorf("event of %s:%s: %w", e.Volume, e.Path, ErrBad)
	case b.n > 0 && compare(b.last, e) >= 0:
		return fmt.Errorf("%s:%s does not follow %s:%s: %w", e.Volume, e.Path, b.last.Volume, b.last.Path, ErrBad)
	}
	first := byte(kind)
	if e.Hashed() {
		first |= hashed
	}
	volume := b.n == 0 || b.last.Volume != e.Volume
	if volume || b.last.Path != e.Path {
		first |= newPath
	}
	rows := append(b.rows, first)
	if first&newPath != 0 {
		if volume {
			b.volumes = append(b.volumes, e.Volume)
			b.last.Path = ""
		}
		rows = binary.AppendUvarint(rows, uint64(len(b.volumes)-1))
		same := common(b.last.Path, e.Path)
		rows = binary.AppendUvarint(rows, uint64(same))
		rows = binary.AppendUvarint(rows, uint64(len(e.Path)-same))
		rows = append(rows, e.Path[same:]...)
	}
	at := slices.Index(b.points, e.Point)
	if at < 0 {
		at = len(b.points)
		b.points = append(b.points, e.Point)
	}
	rows = binary.AppendUvarint(rows, uint64(at))
	if kind != 0 {
		rows = binary.AppendUvarint(rows, uint64(e.Size))
		rows = binary.AppendVarint(rows, e.ModTime)
		rows = binary.AppendVarint(rows, e.Changed-e.ModTime)
		rows = binary.AppendVarint(rows, int64(e.Inode-b.last.Inode))
	} else {
		e.Inode = b.last.Inode
	}
	if e.Hashed() {
		b.hashes = append(b.hashes, e.SHA256[:]...)
	}
	b.rows, b.last, b.n = rows, e, b.n+1
	return nil
}

func common(a, b backstay.FilePath) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}

// Finish returns the encoded segment and makes the builder empty.
func (b *Builder) Finish() ([]byte, error) {
	plain := binary.AppendUvarint(nil, uint64(len(b.points)))
	for _, p := range b.points {
		plain = append(plain, p...)
	}
	plain = binary.AppendUvarint(plain, uint64(len(b.volumes)))
	for _, v := range b.volumes {
		plain = append(binary.AppendUvarint(plain, uint64(len(v))), v...)
	}
	plain = append(binary.AppendUvarint(plain, uint64(b.n)), b.rows...)
	zs, err := coder()
	if err != nil {
		return nil, fmt.Errorf("compress list of files: %w", err)
	}
	out := binary.BigEndian.AppendUint32([]byte{segmentV1}, uint32(len(plain)))
	out = binary.BigEndian.AppendUint32(out, uint32(len(b.hashes)/32))
	out = append(out, b.hashes...)
	out = zs.EncodeAll(plain, out)
	*b = Builder{}
	return out, nil
}

// segment is a decoded segment: its tables, and its events not yet.
type segment struct {
	points  []backstay.PointID
	volumes []backstay.VolumeID
	events  uint64
	rows    []byte
	hashes  []byte
}

// maxPlain bounds what a segment decodes to.
const maxPlain = maxRows + rowsMargin + maxNames*(pointSize+maxVolume/16)

func open(data []byte) (segment, error) {
	var s segment
	if len(data) < 9 || data[0] != segmentV1 {
		return s, fmt.Errorf("not a segment of version %d: %w", segmentV1, ErrBad)
	}
	size, n := binary.BigEndian.Uint32(data[1:]), int64(binary.BigEndian.Uint32(data[5:]))
	if size > maxPlain || n > maxEvents || int64(len(data)) < 9+32*n {
		return s, fmt.Errorf("%d bytes with %d hashes: %w", size, n, ErrBad)
	}
	zs, err := decoder()
	if err != nil {
		return s, fmt.Errorf("decompress list of files: %w", err)
	}
	plain, err := zs.DecodeAll(data[9+32*n:], make([]byte, 0, size))
	if err != nil || len(plain) != int(size) {
		return s, fmt.Errorf("decompress list of files: %w", errors.Join(ErrBad, err))
	}
	s.hashes = data[9:][:32*n]
	r := cursor{rest: plain}
	for range r.count(maxNames) {
		s.points = append(s.points, backstay.PointID(r.bytes(pointSize)))
	}
	for range r.count(maxNames) {
		s.volumes = append(s.volumes, backstay.VolumeID(r.bytes(r.count(maxVolume))))
	}
	s.events, s.rows = uint64(r.count(maxEvents)), r.rest
	if r.bad {
		return s, fmt.Errorf("tables of a segment: %w", ErrBad)
	}
	return s, nil
}

// Events reads the events of an encoded segment. The first error ends it. The strings
// of the events stay valid.
func Events(data []byte) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		s, err := open(data)
		if err != nil {
			yield(Event{}, err)
			return
		}
		r := cursor{rest: s.rows}
		var last Event
		var path []byte
		for i := range s.events {
			e, ok := s.next(&r, last, &path)
			if !ok || i > 0 && compare(last, e) >= 0 {
				yield(Event{}, fmt.Errorf("event %d of a segment: %w", i, ErrBad))
				return
			}
			if !yield(e, nil) {
				return
			}
			if e.Gone() {
				e.Inode = last.Inode // what the next one's is relative to
			}
			last = e
		}
		if len(r.rest) != 0 || len(s.hashes) != 0 {
			yield(Event{}, fmt.Errorf("bytes behind the last event: %w", ErrBad))
		}
	}
}

// next decodes one event, which follows last.
func (s *segment) next(r *cursor, last Event, path *[]byte) (Event, bool) {
	first := r.byte()
	e := Event{Volume: last.Volume, Path: last.Path}
	if first&newPath != 0 {
		volume := r.count(maxNames)
		if volume >= len(s.volumes) {
			return e, false
		}
		if e.Volume = s.volumes[volume]; e.Volume != last.Volume {
			*path = (*path)[:0]
		}
		same, more := r.count(wire.MaxPath), r.count(wire.MaxPath)
		if same > len(*path) {
			return e, false
		}
		*path = append((*path)[:same], r.bytes(more)...)
		if e.Path = backstay.FilePath(*path); !wire.CleanPath(e.Path) {
			return e, false
		}
	}
	point := r.count(maxNames)
	if r.bad || e.Path == "" || point >= len(s.points) || first&^(typeBits|hashed|newPath) != 0 {
		return e, false
	}
	e.Point, e.Type = s.points[point], types[first&typeBits]
	if first&typeBits != 0 {
		e.Size = int64(r.uvarint())
		e.ModTime = r.varint()
		e.Changed = e.ModTime + r.varint()
		e.Inode = last.Inode + uint64(r.varint())
	}
	if first&hashed != 0 {
		if len(s.hashes) < 32 || e.Gone() {
			return e, false
		}
		copy(e.SHA256[:], s.hashes)
		s.hashes = s.hashes[32:]
	}
	return e, !r.bad && e.Size >= 0 && e.Hashed() == (first&hashed != 0)
}

// cursor reads from the front of some bytes; bad once they were too few or too odd.
type cursor struct {
	rest []byte
	bad  bool
}

func (c *cursor) fail() { c.rest, c.bad = nil, true }

func (c *cursor) byte() byte {
	if len(c.rest) == 0 {
		c.fail()
		return 0
	}
	b := c.rest[0]
	c.rest = c.rest[1:]
	return b
}

func (c *cursor) uvarint() uint64 {
	v, n := binary.Uvarint(c.rest)
	if n <= 0 {
		c.fail()
		return 0
	}
	c.rest = c.rest[n:]
	return v
}

func (c *cursor) varint() int64 {
	v, n := binary.Varint(c.rest)
	if n <= 0 {
		c.fail()
		return 0
	}
	c.rest = c.rest[n:]
	return v
}

// count is a number that is at most limit.
func (c *cursor) count(limit int) int {
	v := c.uvarint()
	if v > uint64(limit) {
		c.fail()
		return 0
	}
	return int(v)
}

func (c *cursor) bytes(n int) []byte {
	if n > len(c.rest) {
		c.fail()
		return nil
	}
	b := c.rest[:n]
	c.rest = c.rest[n:]
	return b
}

// validPoint tells whether an id can be that of a point.
func validPoint(p backstay.PointID) bool {
	return len(p) == pointSize && strings.Trim(string(p), "0123456789ABCDEFGHJKMNPQRSTVWXYZ") == ""
}
