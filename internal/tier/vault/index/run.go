package index

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/bits"
	"sort"
	"sync"
)

// A run is a file of entries in order, in blocks, each with a checksum and
// complete in itself. docs/formats/index-cache.md has the bytes. What makes it
// small: names are spread evenly, so that the first bits of one follow from its
// bucket and need not be written, and a bucket costs one byte, its count.

const (
	blockSize   = 4096
	blockHead   = 12 // checksum, first bucket, number of buckets, number of entries
	runFoot     = 64
	runMagic    = "BSIDXRUN"
	cacheFormat = 1 // version of every file of a cache
	// minBucketBits leaves at most 64 bits of a name to be written.
	minBucketBits = keyBits - 64
	readBlocks    = 16 // that a merge reads at once
)

// ErrDamaged: a file of the cache is not what was written. The cache is to be
// reset and filled again from the index objects.
var ErrDamaged = errors.New("index cache is damaged")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// runID says which run of which cache a file is, so that no other can stand in.
type runID struct {
	cache  [16]byte
	number uint64
}

func (id runID) file() string { return fmt.Sprintf("run-%d", id.number) }

// seed starts the checksum of a block.
func (id runID) seed(block int) uint32 {
	b := binary.BigEndian.AppendUint64(id.cache[:len(id.cache):len(id.cache)], id.number)
	return crc32.Checksum(binary.BigEndian.AppendUint32(b, uint32(block)), castagnoli)
}

// scope is the part of all names that a run is about: those whose first bits
// are value.
type scope struct {
	bits  int
	value uint32
}

func (s scope) holds(e entry) bool { return e.hi>>(64-s.bits) == uint64(s.value) }

// first returns the smallest name of the scope.
func (s scope) first() entry { return entry{hi: uint64(s.value) << (64 - s.bits)} }

// shape is how the entries of a run are written.
type shape struct {
	bucketBits int // the bucket of a name is its first bits, so many
	packBits   int
}

// width returns the length of an entry, in bits: the rest of the name, then the pack.
func (s shape) width() int { return keyBits - s.bucketBits + s.packBits }

// bytes returns the length of n entries.
func (s shape) bytes(n int) int { return (n*s.width() + 7) / 8 }

// shapeFor returns the shape in which about n entries of a scope with pack
// numbers up to maxPack take the least space: about 8 to a bucket.
func shapeFor(n int, maxPack uint32, in scope) shape {
	best := shape{bucketBits: max(minBucketBits, in.bits), packBits: max(1, bits.Len32(maxPack))}
	size := func(s shape) int { return s.bytes(n) + 1<<(s.bucketBits-in.bits) }
	for next := best; next.bucketBits < 32; {
		next.bucketBits++
		if size(next) < size(best) {
			best = next
		}
	}
	return best
}

func (s shape) bucket(e entry) uint32 { return uint32(e.hi >> (64 - s.bucketBits)) }

// valid tells whether a shape that was read is one.
func (s shape) valid() bool {
	return s.bucketBits >= minBucketBits && s.bucketBits <= 32 && s.packBits >= 1 && s.packBits <= 32
}

// rest masks the bits of a name's last 64 that its bucket does not give.
func (s shape) rest() uint64 { return ^uint64(0) >> (s.bucketBits - minBucketBits) }

// put writes entry i of a block, without its bucket, over zeros.
func (s shape) put(dst []byte, i int, e entry) {
	rest := (e.hi<<12 | uint64(e.lo)) & s.rest()
	high, low := rest>>(64-s.packBits), rest<<s.packBits|uint64(e.pack)
	end := (i + 1) * s.width() // of the entry, in bits
	up := (8 - end%8) % 8
	high, low = high<<up|low>>(64-up), low<<up
	for at := (end+7)/8 - 1; high|low != 0; at-- {
		dst[at] |= byte(low)
		low, high = low>>8|high<<56, high>>8
	}
}

// get is the inverse of put.
func (s shape) get(src []byte, i int, bucket uint32) entry {
	end := (i + 1) * s.width()
	last := (end + 7) / 8
	var b [16]byte // holds an entry of 96 bits at most wherever it starts
	copy(b[max(16-last, 0):], src[max(last-16, 0):last])
	high, low := binary.BigEndian.Uint64(b[:]), binary.BigEndian.Uint64(b[8:])
	up := (8 - end%8) % 8
	high, low = high>>up, low>>up|high<<(64-up)
	rest := (high<<(64-s.packBits) | low>>s.packBits) & s.rest()
	return entry{
		hi:   uint64(bucket)<<(64-s.bucketBits) | rest>>12,
		lo:   uint16(rest & 0xfff),
		pack: uint32(low & (1<<s.packBits - 1)),
	}
}

// run is a run that is open for reading.
type run struct {
	id    runID
	in    scope
	shape shape
	file  file
	count int
	first []uint32 // the first bucket of each block: one byte of memory for about 100 chunks
}

// size returns the length of the file, in bytes.
func (r *run) size() int64 { return int64(len(r.first))*(blockSize+4) + runFoot }

// openRun opens a run and checks its frame; blocks are checked when they are read.
func openRun(d disk, id runID) (*run, error) {
	f, err := d.Open(id.file())
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", id.file(), err)
	}
	r, err := readFrame(f, id)
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("open %s: %w", id.file(), err)
	}
	return r, nil
}

func readFrame(f file, id runID) (*run, error) {
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	if size < runFoot {
		return nil, fmt.Errorf("%d bytes: %w", size, ErrDamaged)
	}
	foot := make([]byte, runFoot)
	if err := readFull(f, foot, size-runFoot); err != nil {
		return nil, err
	}
	r := &run{id: id, file: f, count: int(binary.BigEndian.Uint64(foot[32:]))}
	r.in = scope{bits: int(foot[12]), value: binary.BigEndian.Uint32(foot[24:])}
	r.shape = shape{bucketBits: int(foot[13]), packBits: int(foot[14])}
	blocks := int64(binary.BigEndian.Uint32(foot[28:]))
	switch {
	case string(foot[:8]) != runMagic || binary.BigEndian.Uint32(foot[8:]) != cacheFormat,
		crc32.Checksum(foot[:60], castagnoli) != binary.BigEndian.Uint32(foot[60:]),
		id != runID{[16]byte(foot[40:56]), binary.BigEndian.Uint64(foot[16:])},
		!r.shape.valid() || foot[15] != 0 || r.in.bits > r.shape.bucketBits || uint64(r.in.value)>>r.in.bits != 0,
		size != blocks*(blockSize+4)+runFoot,
		r.count < 0 || int64(r.count) > blocks*blockSize:
		return nil, fmt.Errorf("its last bytes: %w", ErrDamaged)
	}
	table := make([]byte, 4*blocks)
	if err := readFull(f, table, blocks*blockSize); err != nil {
		return nil, err
	}
	if crc32.Checksum(table, castagnoli) != binary.BigEndian.Uint32(foot[56:]) {
		return nil, fmt.Errorf("its table of blocks: %w", ErrDamaged)
	}
	r.first = make([]uint32, blocks)
	for i := range r.first {
		r.first[i] = binary.BigEndian.Uint32(table[4*i:])
	}
	return r, nil
}

// readFull reads all of b. A file that ends too early is damaged; one that
// cannot be read is not known to be.
func readFull(f io.ReaderAt, b []byte, at int64) error {
	n, err := f.ReadAt(b, at)
	if n == len(b) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		return fmt.Errorf("ends too early: %w", ErrDamaged)
	}
	return err
}

var blockBuffers = sync.Pool{New: func() any { return new([blockSize]byte) }}

// lookup appends the packs of a name: one read of 4 KiB, seldom two.
func (r *run) lookup(packs []uint32, name entry) ([]uint32, error) {
	if !r.in.holds(name) {
		return packs, nil
	}
	q := r.shape.bucket(name)
	buf := blockBuffers.Get().(*[blockSize]byte)
	defer blockBuffers.Put(buf)
	// The bucket may begin in the block before the first that starts with it.
	i := sort.Search(len(r.first), func(i int) bool { return r.first[i] >= q })
	for i = max(i-1, 0); i < len(r.first) && r.first[i] <= q; i++ {
		if err := readFull(r.file, buf[:], int64(i)*blockSize); err != nil {
			return packs, fmt.Errorf("read %s: %w", r.id.file(), err)
		}
		b, err := r.parse(buf[:], i)
		if err != nil {
			return packs, err
		}
		packs = b.lookup(packs, q, name)
	}
	return packs, nil
}

// block is one block, checked.
type block struct {
	shape   shape
	first   uint32
	counts  []byte
	entries []byte
}

// parse checks a block. What passes holds no length that leads out of it.
func (r *run) parse(b []byte, i int) (block, error) {
	if crc32.Update(r.id.seed(i), castagnoli, b[4:]) != binary.BigEndian.Uint32(b) {
		return block{}, fmt.Errorf("block %d of %s has another checksum: %w", i, r.id.file(), ErrDamaged)
	}
	out, err := parseBlock(r.shape, b)
	if err != nil || out.first != r.first[i] {
		return block{}, fmt.Errorf("block %d of %s is not in order: %w", i, r.id.file(), ErrDamaged)
	}
	return out, nil
}

func parseBlock(s shape, b []byte) (block, error) {
	buckets, entries := int(binary.BigEndian.Uint16(b[8:])), int(binary.BigEndian.Uint16(b[10:]))
	out := block{shape: s, first: binary.BigEndian.Uint32(b[4:])}
	if blockHead+buckets+s.bytes(entries) > len(b) || uint64(out.first)+uint64(buckets) > 1<<s.bucketBits {
		return out, ErrDamaged
	}
	out.counts = b[blockHead : blockHead+buckets]
	sum := 0
	for _, n := range out.counts {
		sum += int(n)
	}
	if sum != entries {
		return out, ErrDamaged
	}
	out.entries = b[blockHead+buckets:][:s.bytes(entries)]
	return out, nil
}

func (b block) lookup(packs []uint32, bucket uint32, name entry) []uint32 {
	n := int(bucket - b.first)
	if n >= len(b.counts) {
		return packs
	}
	at := 0
	for _, c := range b.counts[:n] {
		at += int(c)
	}
	for i := range int(b.counts[n]) {
		if e := b.shape.get(b.entries, at+i, bucket); e.sameName(name) {
			packs = append(packs, e.pack)
		}
	}
	return packs
}

// appendAll appends the block's entries in order.
func (b block) appendAll(dst []entry) []entry {
	at := 0
	for i, c := range b.counts {
		for range c {
			dst = append(dst, b.shape.get(b.entries, at, b.first+uint32(i)))
			at++
		}
	}
	return dst
}

// runSource reads the entries of a run that are in a scope.
type runSource struct {
	run     *run
	in      scope
	buf     []byte
	block   int // the next one to decode
	read    int // blocks below are in buf, the last of them at its end
	entries []entry
	at      int
}

func (r *run) source(in scope) source {
	s := &runSource{run: r, in: in, buf: make([]byte, 0, readBlocks*blockSize)}
	q := r.shape.bucket(in.first())
	s.block = max(sort.Search(len(r.first), func(i int) bool { return r.first[i] >= q })-1, 0)
	s.read = s.block
	return s
}

func (s *runSource) next() (entry, bool, error) {
	for {
		for s.at < len(s.entries) {
			e := s.entries[s.at]
			s.at++
			if s.in.holds(e) {
				return e, true, nil
			}
			if e.hi > s.in.first().hi {
				return entry{}, false, nil
			}
		}
		if s.block == len(s.run.first) {
			return entry{}, false, nil
		}
		if err := s.fill(); err != nil {
			return entry{}, false, err
		}
	}
}

// fill decodes the next block.
func (s *runSource) fill() error {
	if s.block == s.read {
		n := min(readBlocks, len(s.run.first)-s.block)
		s.buf = s.buf[:n*blockSize]
		if err := readFull(s.run.file, s.buf, int64(s.block)*blockSize); err != nil {
			return fmt.Errorf("read %s: %w", s.run.id.file(), err)
		}
		s.read += n
	}
	at := len(s.buf) - (s.read-s.block)*blockSize
	b, err := s.run.parse(s.buf[at:at+blockSize], s.block)
	if err != nil {
		return err
	}
	s.entries, s.at = b.appendAll(s.entries[:0]), 0
	s.block++
	return nil
}
