package main

import (
	"hash/maphash"
	"io"
	"runtime"
	"sync"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/errgroup"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/tier/raw"
)

// block is the step in which images are compared: that of an overlay's change map.
const block = 4096

// readAtOnce is how much of an image one goroutine reads at a time.
const readAtOnce int64 = 4 << 20

// dataRun is a run of an image that is no hole.
type dataRun struct {
	file     *raw.Image
	from, to int64
}

// eachData calls fn for what of a raw image is no hole.
func eachData(path string, fn func(dataRun) error) error {
	m, err := raw.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = m.Close() }()
	extents, err := m.Extents(0, m.Size())
	if err != nil {
		return err
	}
	for _, e := range extents {
		if e.Zero {
			continue
		}
		if err := fn(dataRun{file: m, from: e.Offset, to: e.End()}); err != nil {
			return err
		}
	}
	return nil
}

// prints are fingerprints of an image's blocks; 0 stands for zeros. They hold in
// one process only.
type prints []uint64

var (
	seed      = maphash.MakeSeed()
	zeroBlock [block]byte
	zeroPrint = maphash.Bytes(seed, zeroBlock[:])
)

// fingerprint reads an image, on all cores.
func fingerprint(path string) (prints, error) {
	m, err := raw.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = m.Close() }()
	extents, err := m.Extents(0, m.Size())
	if err != nil {
		return nil, err
	}
	p := make(prints, (m.Size()+block-1)/block)
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	next := int64(0) // a hole may end inside a block: whole blocks are looked at, each once
	for _, e := range extents {
		if e.Zero {
			continue
		}
		from, to := max(e.Offset/block*block, next), min((e.End()+block-1)/block*block, m.Size())
		for at := from; at < to; at += readAtOnce {
			g.Go(func() error { return p.read(m, at, min(readAtOnce, to-at)) })
		}
		next = max(next, to)
	}
	return p, g.Wait()
}

var readBuffers = sync.Pool{New: func() any { return new([readAtOnce]byte) }}

func (p prints) read(m *raw.Image, at, length int64) error {
	buf := readBuffers.Get().(*[readAtOnce]byte)
	defer readBuffers.Put(buf)
	part := buf[:length]
	if _, err := m.ReadAt(part, at); err != nil && err != io.EOF {
		return err
	}
	p.note(part, at)
	return nil
}

func (p prints) note(part []byte, at int64) {
	for i := 0; i < len(part); i += block {
		h := maphash.Bytes(seed, part[i:min(i+block, len(part))])
		if h == zeroPrint {
			h = 0
		}
		p[(at+int64(i))/block] = h
	}
}

// changes returns the ranges in which two images of one size differ.
func (p prints) changes(q prints) []backstay.Range {
	var out []backstay.Range
	for i := range p {
		if p[i] == q[i] {
			continue
		}
		at := int64(i) * block
		if n := len(out); n > 0 && out[n-1].End() == at {
			out[n-1].Length += block
		} else {
			out = append(out, backstay.Range{Offset: at, Length: block})
		}
	}
	return out
}

// inBlocks counts how many bytes ranges touch when counted in blocks of a size.
// The ranges are in order.
func inBlocks(ranges []backstay.Range, size int64) int64 {
	var blocks int64
	next := int64(0) // first block that is not counted yet
	for _, r := range ranges {
		from, to := max(r.Offset/size, next), (r.End()+size-1)/size
		if to > from {
			blocks += to - from
			next = to
		}
	}
	return blocks * size
}

// squeeze returns the length of the content of ranges after zstd at its fastest,
// in pieces of up to 1 MiB of what changed, put side by side; and in single
// blocks. Blocks of zeros cost nothing.
func squeeze(path string, ranges []backstay.Range) (together, single int64, err error) {
	m, err := raw.Open(path)
	if err != nil {
		return 0, 0, err
	}
	defer func() { _ = m.Close() }()
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderCRC(false), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return 0, 0, err
	}
	var out []byte
	size := func(b []byte) int64 {
		out = enc.EncodeAll(b, out[:0])
		return int64(min(len(out), len(b)))
	}
	piece := make([]byte, 0, 1<<20)
	for _, r := range ranges {
		for at := r.Offset; at < r.End(); at += block {
			if len(piece) == cap(piece) {
				together += size(piece)
				piece = piece[:0]
			}
			b := piece[len(piece) : len(piece)+block]
			n, err := m.ReadAt(b, at)
			if err != nil && err != io.EOF {
				return 0, 0, err
			}
			clear(b[n:])
			if [block]byte(b) == zeroBlock {
				continue
			}
			single += size(b)
			piece = piece[:len(piece)+block]
		}
	}
	return together + size(piece), single, nil
}
