package vault

import (
	"context"
	"encoding/json"
	"fmt"
	"io"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/tier"
	"github.com/backstay/backstay/internal/tier/vault/chunk"
	"github.com/backstay/backstay/internal/tier/vault/pack"
	"github.com/backstay/backstay/internal/tier/vault/point"
)

// Point is an opened point: its manifest was authenticated, and its root
// recomputed over all that it names. It may be used concurrently.
type Point struct {
	v          *Vault
	header     Header
	body       point.Body
	packs      []pack.ID // that the point needs
	definition tier.Definition
}

// OpenPoint opens a point. CodeUnknownPoint if the vault does not offer it: no
// copy has it, it was dropped, or its commit broke off. CodeDamaged if every copy
// of its manifest is wrong, or if it was taken away. With a chain that cannot be
// read the point opens, and its Header says so (Unchained).
func (v *Vault) OpenPoint(ctx context.Context, id backstay.PointID) (*Point, error) {
	if _, err := point.ParseID(id); err != nil {
		return nil, backstay.Errorf(backstay.CodeUnknownPoint, "there is no such recovery point").Because(err)
	}
	var errs []error
	var units []string // that were wrong
	for i, c := range v.copies {
		data, err := c.Get(ctx, point.Object(id), 0, -1)
		if err == nil {
			var p *Point
			if p, err = v.decodePoint(ctx, id, data); err == nil {
				v.sawDamage(point.Object(id), units)
				return p, nil
			}
			if backstay.IsCode(err, backstay.CodeUnknownPoint) {
				return nil, err
			}
		}
		errs = append(errs, err)
		if damaged(err) {
			units = append(units, unitName(ctx, c, i))
		}
	}
	err := noPoint(id, errs)
	if backstay.IsCode(err, backstay.CodeUnknownPoint) && v.chained() {
		st, chainErr := v.chainState(ctx, true)
		if _, live := st.Live[id]; live && chainErr == nil {
			return nil, lostManifest(id, false)
		}
	}
	return nil, err
}

// decodePoint opens a point whose manifest is data, if the chain vouches for it.
func (v *Vault) decodePoint(ctx context.Context, id backstay.PointID, data []byte) (*Point, error) {
	h, body, err := point.Decode(v.keys, id, data)
	if err != nil {
		return nil, err
	}
	p := &Point{v: v, header: *v.publicHeader(id, h), body: body, packs: h.Packs}
	if err := json.Unmarshal(body.Definition, &p.definition); err != nil {
		return nil, fmt.Errorf("definition: %w", point.ErrBad)
	}
	p.header.Unchained, err = v.vouched(ctx, id, h.Root)
	return p, err
}

// Header returns the point's header; its Copies are not counted.
func (p *Point) Header() Header { return p.header }

// Facts returns what was recorded of the point when it was committed.
func (p *Point) Facts() backstay.RecoveryPoint { return p.body.Facts }

// Definition returns the VM's definition, secrets included (I10).
func (p *Point) Definition() tier.Definition { return p.definition }

func (p *Point) disk(target backstay.DiskTarget) (*point.Disk, bool) {
	for i := range p.body.Disks {
		if p.body.Disks[i].Target == target {
			return &p.body.Disks[i], true
		}
	}
	return nil, false
}

// Disk opens a disk of the point for reading. ctx bounds all reads of the image,
// which is a BulkReader as well. CodeUnknownPoint if the point has no such disk.
func (p *Point) Disk(ctx context.Context, target backstay.DiskTarget) (tier.Image, error) {
	d, ok := p.disk(target)
	if !ok {
		return nil, backstay.Errorf(backstay.CodeUnknownPoint, "the point %s has no disk %s in the vault", p.header.Point, target).
			Do("see the point's disks with `backstay point show`")
	}
	return &image{ctx: ctx, v: p.v, disk: d}, nil
}

// image is one disk of a point.
type image struct {
	ctx  context.Context
	v    *Vault
	disk *point.Disk
}

// Size returns the guest-visible size in bytes.
func (m *image) Size() int64 { return m.disk.Size }

// DataRanges returns ranges outside which the disk is known to be zeros without
// reading anything, in order.
func (m *image) DataRanges() []backstay.Range {
	var ranges []backstay.Range
	for i := range m.disk.PageCount() {
		if m.disk.Page(i).IsZero() {
			continue
		}
		start := int64(i) * m.disk.PageBytes
		ranges = append(ranges, backstay.Range{Offset: start, Length: min(m.disk.PageBytes, m.disk.Size-start)})
	}
	return ranges
}

// Close has nothing to let go of.
func (m *image) Close() error { return nil }

func (m *image) page(ctx context.Context, i int) (*point.Page, error) {
	return m.v.page(ctx, m.disk.Page(i), m.disk.Place(i), m.disk.PageUnits(i))
}

// piece is a run of the disk that is zeros or lies in one chunk, in bytes.
type piece struct {
	offset, length int64
	name           chunk.Name // zero: zeros
	place          point.Place
	at             int64 // offset in the chunk
}

// pieces calls fn for what [offset, offset+length) consists of, in order. The
// range must lie in the disk.
func (m *image) pieces(offset, length int64, fn func(piece) error) error {
	end := offset + length
	for offset < end {
		i := offset / m.disk.PageBytes
		page, err := m.page(m.ctx, int(i))
		if err != nil {
			return err
		}
		start := i * m.disk.PageBytes
		stop := min(end, start+m.disk.PageBytes)
		from, to := (offset-start)/chunk.Unit, (stop-start+chunk.Unit-1)/chunk.Unit
		err = page.Slice(uint32(from), uint32(to), func(e point.Extent) error {
			p := piece{offset: start + int64(e.Start)*chunk.Unit, name: page.Name(e), place: page.Place(e), at: int64(e.Offset) * chunk.Unit}
			last := min(p.offset+int64(e.Units)*chunk.Unit, stop)
			if p.offset < offset {
				p.at += offset - p.offset
				p.offset = offset
			}
			p.length = last - p.offset
			return fn(p)
		})
		if err != nil {
			return err
		}
		offset = stop
	}
	return nil
}

// part returns a piece's bytes out of its chunk's content.
func (p piece) part(content []byte) ([]byte, error) {
	if p.at+p.length > int64(len(content)) {
		return nil, readError(fmt.Sprintf("chunk %s", p.name), fmt.Errorf("%d bytes at %d wanted of %d: %w", p.length, p.at, len(content), point.ErrBad))
	}
	return content[p.at : p.at+p.length], nil
}

// ReadAt fills b with authenticated content, or fails. Behind the disk's end
// there is io.EOF, as io.ReaderAt has it.
func (m *image) ReadAt(b []byte, offset int64) (int, error) {
	if offset < 0 {
		return 0, fmt.Errorf("read disk %s at %d: negative offset", m.disk.Target, offset)
	}
	if offset >= m.disk.Size {
		if len(b) == 0 {
			return 0, nil
		}
		return 0, io.EOF
	}
	var eof error
	if int64(len(b)) > m.disk.Size-offset {
		b, eof = b[:m.disk.Size-offset], io.EOF
	}
	done := 0
	err := m.pieces(offset, int64(len(b)), func(p piece) error {
		to := b[p.offset-offset:][:p.length]
		if p.name.IsZero() {
			clear(to)
		} else {
			content, err := m.v.chunk(m.ctx, p.name, p.place)
			if err != nil {
				return err
			}
			part, err := p.part(content)
			if err != nil {
				return err
			}
			copy(to, part)
		}
		done += int(p.length)
		return nil
	})
	if err != nil {
		return done, err
	}
	return done, eof
}

// Extents tells data from zeros.
func (m *image) Extents(offset, length int64) ([]tier.Extent, error) {
	if offset < 0 || length < 0 || offset > m.disk.Size || length > m.disk.Size-offset {
		return nil, fmt.Errorf("extents of disk %s: %d bytes at %d are outside of it", m.disk.Target, length, offset)
	}
	var out []tier.Extent
	err := m.pieces(offset, length, func(p piece) error {
		if n := len(out); n > 0 && out[n-1].Zero == p.name.IsZero() {
			out[n-1].Length += p.length
			return nil
		}
		out = append(out, tier.Extent{Range: backstay.Range{Offset: p.offset, Length: p.length}, Zero: p.name.IsZero()})
		return nil
	})
	return out, err
}
