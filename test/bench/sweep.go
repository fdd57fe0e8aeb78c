package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/tier/raw"
)

// sweepBytes is how much of the first image each setting is tried on.
const sweepBytes = 512 * mib

// setting is one way to cut and pack content.
type setting struct {
	level zstd.EncoderLevel
	name  string
	chunk int64
	frame int64 // content is compressed in frames of this size
}

func settings() []setting {
	var all []setting
	for _, level := range []struct {
		l    zstd.EncoderLevel
		name string
	}{{zstd.SpeedFastest, "fastest"}, {zstd.SpeedDefault, "default"}, {zstd.SpeedBetterCompression, "better"}} {
		for _, size := range []int64{64 << 10, 128 << 10, 256 << 10, 512 << 10, mib, 2 * mib} {
			all = append(all, setting{level.l, level.name, size, size})
		}
		for _, frame := range []int64{64 << 10, 128 << 10, 256 << 10} {
			all = append(all, setting{level.l, level.name, mib, frame})
		}
	}
	return all
}

// key names a setting's figures.
func (s setting) key() string { return fmt.Sprintf("%s/%dK/%dK", s.name, s.chunk>>10, s.frame>>10) }

// sweep tries chunk sizes, framings and levels of compression on both workloads,
// on one core: the first image, and the change as extents (only what changed is
// stored) and as fixed chunks (every chunk that was touched is).
func sweep(ctx context.Context, t task) (map[string]float64, error) {
	windows, _, err := sample(t.Image, sweepBytes)
	if err != nil {
		return nil, err
	}
	ranges, err := loadRanges(t.Ranges)
	if err != nil {
		return nil, err
	}
	said := map[string]float64{}
	for _, s := range settings() {
		enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(s.level), zstd.WithEncoderCRC(false), zstd.WithEncoderConcurrency(1))
		if err != nil {
			return nil, err
		}
		c := &cutter{setting: s, enc: enc}
		if err := c.first(ctx, t.Image, windows); err != nil {
			return nil, err
		}
		said[s.key()+"/ratio"] = float64(c.plain) / float64(c.packed)
		said[s.key()+"/speed"] = float64(c.plain) / c.spent.Seconds() / mib
		for name, rs := range map[string][]backstay.Range{"extents": ranges, "fixed": touched(ranges, s.chunk)} {
			c.plain, c.packed = 0, 0
			if err := c.change(ctx, t.Overlay, rs); err != nil {
				return nil, err
			}
			said[s.key()+"/"+name] = float64(c.packed)
		}
	}
	return said, nil
}

// touched widens ranges to whole chunks.
func touched(ranges []backstay.Range, size int64) []backstay.Range {
	var out []backstay.Range
	for _, r := range ranges {
		from, to := r.Offset/size*size, (r.End()+size-1)/size*size
		if n := len(out); n > 0 && from <= out[n-1].End() {
			out[n-1].Length = max(out[n-1].End(), to) - out[n-1].Offset
			continue
		}
		out = append(out, backstay.Range{Offset: from, Length: to - from})
	}
	return out
}

// cutter packs content by one setting.
type cutter struct {
	setting
	enc           *zstd.Encoder
	out           []byte
	plain, packed int64
	spent         time.Duration
}

// pack counts one chunk.
func (c *cutter) pack(content []byte) {
	start := cpuTime()
	for len(content) > 0 {
		part := content[:min(int64(len(content)), c.frame)]
		c.out = c.enc.EncodeAll(part, c.out[:0])
		c.packed += int64(min(len(c.out), len(part)))
		c.plain += int64(len(part))
		content = content[len(part):]
	}
	c.spent += cpuTime() - start
}

// cpuTime is what this process has used of processors: others that run beside it
// do not count.
func cpuTime() time.Duration {
	var u unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func (c *cutter) first(ctx context.Context, path string, windows []int64) error {
	m, err := raw.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = m.Close() }()
	buf := make([]byte, max(c.chunk, mib))
	for _, at := range windows {
		n, err := m.ReadAt(buf, at)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil && err != io.EOF {
			return err
		}
		for from := int64(0); from < int64(n); from += c.chunk {
			c.pack(buf[from:min(from+c.chunk, int64(n))])
		}
	}
	return nil
}

// change packs what of each window of the chunk's size lies in the ranges.
func (c *cutter) change(ctx context.Context, path string, ranges []backstay.Range) error {
	m, err := raw.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = m.Close() }()
	buf := make([]byte, 0, c.chunk)
	window := int64(-1)
	for _, r := range ranges {
		for at := r.Offset; at < min(r.End(), m.Size()); at += block {
			if at/c.chunk != window {
				c.pack(buf)
				buf, window = buf[:0], at/c.chunk
			}
			b := buf[len(buf) : len(buf)+block]
			if _, err := m.ReadAt(b, at); err != nil && err != io.EOF {
				return err
			}
			if [block]byte(b) != zeroBlock {
				buf = buf[:len(buf)+block]
			}
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	c.pack(buf)
	return nil
}
