package vault

import (
	"context"
	"errors"
	"fmt"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/tier/vault/pack"
	"github.com/backstay/backstay/internal/tier/vault/seal"
)

// copyAll moves what is in line into new packs, side by side in its order, and
// proves them. Chunks are authenticated and sealed anew, because what is sealed
// is bound to its pack; they are not compressed or named again.
func (p *repack) copyAll(ctx context.Context) error {
	there, err := p.resume(ctx)
	if err != nil {
		return err
	}
	c := &copier{repack: p, boxes: map[uint32]*seal.Box{}}
	defer c.drop()
	for _, at := range p.line {
		c.total += int64(p.entry(at).Sealed)
	}
	line := p.line[:0:0]
	for _, at := range p.line {
		e := p.entry(at)
		if id, ok := there[nameOfKind{e.Kind, e.Name}]; ok {
			p.lead(nameOfKind{e.Kind, e.Name}, id)
			c.done += int64(e.Sealed)
			continue
		}
		line = append(line, at)
	}
	for len(line) > 0 {
		n := p.run(line)
		if err := c.copyRun(ctx, line[:n]); err != nil {
			return err
		}
		line = line[n:]
	}
	return c.finish(ctx)
}

// lead notes for every old pack that has the chunk that this one has it now.
func (p *repack) lead(name nameOfKind, to pack.ID) {
	p.to[p.at[name].pack][to] = true
	if !p.twice[name] {
		return
	}
	for i, d := range p.from {
		if containsChunk(d, name) {
			p.to[i][to] = true
		}
	}
}

func containsChunk(d pack.Directory, name nameOfKind) bool {
	for _, e := range d.Entries {
		if e.Kind == name.kind && e.Name == name.name {
			return true
		}
	}
	return false
}

// resume proves the packs of an earlier attempt and says which chunks they have.
// One that is condemned by now, or is not sound, is left where it is.
func (p *repack) resume(ctx context.Context) (map[nameOfKind]pack.ID, error) {
	there := map[nameOfKind]pack.ID{}
	for _, text := range p.r.o.Packs {
		id, err := pack.ParseID(text)
		if err != nil {
			return nil, backstay.Errorf(backstay.CodeUsage, "a pack to go on from is not one").Because(err)
		}
		if p.view.condemned(id) {
			continue
		}
		d, err := p.r.v.provePack(ctx, id)
		if backstay.IsCode(err, backstay.CodeValidateFailed) {
			continue
		}
		if err != nil {
			return nil, err
		}
		used := false
		for _, e := range d.Entries {
			n := nameOfKind{e.Kind, e.Name}
			at, ok := p.at[n]
			if used = used || ok && p.live[at.pack][at.entry]; ok {
				there[n] = id
			}
		}
		if used {
			p.made = append(p.made, d)
		}
	}
	return there, nil
}

// run is how many chunks at the start of a line one ranged get can answer.
func (p *repack) run(line []chunkIndex) int {
	n := 1
	first, last := p.entry(line[0]), p.entry(line[0])
	for n < len(line) && line[n].pack == line[0].pack {
		next := p.entry(line[n])
		if next.Offset < last.Offset || next.Offset > last.Offset+last.Sealed+gapBytes || next.Offset+next.Sealed-first.Offset > runBytes {
			break
		}
		last = next
		n++
	}
	return n
}

// copier writes the new packs.
type copier struct {
	*repack
	boxes       map[uint32]*seal.Box // by index into from
	open        *pack.Builder
	done, total int64
}

// copyRun moves neighbours that were read by one get. What that does not give
// unharmed is read chunk by chunk, from the other copies too.
func (c *copier) copyRun(ctx context.Context, run []chunkIndex) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("repack: %w", context.Cause(ctx))
	}
	d := c.from[run[0].pack]
	box := c.boxes[run[0].pack]
	if box == nil {
		var err error
		if box, err = pack.Box(c.r.v.keys, d.ID, d.Epoch); err != nil {
			return err
		}
		c.boxes[run[0].pack] = box
	}
	first, last := c.entry(run[0]), c.entry(run[len(run)-1])
	data, _ := getRange(ctx, c.r.v.copies[0], d.ID.Object(), blobRange{int64(first.Offset), int64(last.Offset + last.Sealed - first.Offset)})
	for _, at := range run {
		e := c.entry(at)
		var encoded []byte
		err := errors.New("not read")
		if data != nil {
			encoded, err = pack.Encoded(box, e, data[e.Offset-first.Offset:][:e.Sealed])
		}
		if err != nil {
			if encoded, err = c.encoded(ctx, d, box, e); err != nil {
				return err
			}
		}
		if err := c.add(ctx, e, encoded); err != nil {
			return err
		}
		c.done += int64(e.Sealed)
		c.r.o.Progress(c.done, c.total)
	}
	return nil
}

// encoded reads one chunk from whichever copy has it unharmed.
func (c *copier) encoded(ctx context.Context, d pack.Directory, box *seal.Box, e pack.Entry) ([]byte, error) {
	var errs []error
	for i, from := range c.r.v.copies {
		sealed, err := getRange(ctx, from, d.ID.Object(), blobRange{int64(e.Offset), int64(e.Sealed)})
		if err == nil {
			var encoded []byte
			if encoded, err = pack.Encoded(box, e, sealed); err == nil {
				return encoded, nil
			}
		}
		errs = append(errs, fmt.Errorf("%s in %s: %w", d.ID.Object(), unitName(ctx, from, i), err))
	}
	return nil, c.r.halt("move a chunk", readError(d.ID.Object(), errs...))
}

// add puts a chunk into the open pack.
func (c *copier) add(ctx context.Context, e pack.Entry, encoded []byte) error {
	if c.open != nil && !c.open.Fits(len(encoded)) {
		if err := c.finish(ctx); err != nil {
			return err
		}
	}
	if c.open == nil {
		b, err := pack.NewBuilder(c.r.v.keys, pack.NewID(), c.r.v.header.Epoch)
		if err != nil {
			return err
		}
		c.open = b
	}
	c.open.Add(e.Kind, e.Name, int(e.Plain), encoded)
	c.lead(nameOfKind{e.Kind, e.Name}, c.open.ID())
	return nil
}

// finish puts the open pack, tells of it, and proves it in every copy.
func (c *copier) finish(ctx context.Context) error {
	if c.open == nil {
		return nil
	}
	id, data := c.open.ID(), c.open.Finish()
	c.open = nil
	err := c.r.v.store.Put(ctx, id.Object(), data)
	pack.Recycle(data)
	if err != nil && !errors.Is(err, blob.ErrExist) {
		return writeError(id.Object(), err)
	}
	if c.r.o.OnPack != nil {
		if err := c.r.o.OnPack(id.String()); err != nil {
			return fmt.Errorf("tell of a new pack: %w", err)
		}
	}
	d, err := c.r.v.provePack(ctx, id)
	if err != nil {
		return err
	}
	c.made = append(c.made, d)
	return nil
}

// drop lets go of a pack that was not finished.
func (c *copier) drop() { c.open = nil }
