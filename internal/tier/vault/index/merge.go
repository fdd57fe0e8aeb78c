package index

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// source gives entries in order.
type source interface {
	next() (e entry, ok bool, err error)
}

// merge gives the entries of all sources in order, equal ones once.
func merge(sources []source, fn func(entry) error) error {
	heads := make([]entry, 0, len(sources))
	live := make([]source, 0, len(sources))
	for _, s := range sources {
		e, ok, err := s.next()
		if err != nil {
			return err
		}
		if ok {
			heads, live = append(heads, e), append(live, s)
		}
	}
	var last entry
	for n := 0; len(live) > 0; n++ {
		least := 0 // a handful of sources: no heap is faster
		for i := 1; i < len(heads); i++ {
			if compareEntries(heads[i], heads[least]) < 0 {
				least = i
			}
		}
		e := heads[least]
		if n == 0 || e != last {
			if err := fn(e); err != nil {
				return err
			}
		}
		last = e
		next, ok, err := live[least].next()
		if err != nil {
			return err
		}
		if ok {
			heads[least] = next
			continue
		}
		end := len(live) - 1
		heads[least], live[least] = heads[end], live[end]
		heads, live = heads[:end], live[:end]
	}
	return nil
}

// runWriter writes a run. Its memory is one buffer and 4 bytes for each block.
type runWriter struct {
	run   *run
	disk  disk
	last  entry
	at    int64 // in the file, of buf
	buf   []byte
	block struct {
		first   uint32
		counts  []byte
		entries []entry
	}
}

// writeRun starts a run. The caller finishes or drops it.
func writeRun(d disk, id runID, in scope, s shape) (*runWriter, error) {
	f, err := d.Create(id.file())
	if err != nil {
		return nil, fmt.Errorf("create %s: %w", id.file(), err)
	}
	return &runWriter{disk: d, run: &run{id: id, in: in, shape: s, file: f}, buf: make([]byte, 0, readBlocks*blockSize)}, nil
}

// add adds an entry that is behind the one before.
func (w *runWriter) add(e entry) error {
	r := w.run
	if !r.in.holds(e) || r.count > 0 && compareEntries(e, w.last) <= 0 || e.pack>>(r.shape.packBits-1)>>1 != 0 {
		return fmt.Errorf("write %s: entries are not in order: %w", r.id.file(), ErrDamaged)
	}
	q, b := r.shape.bucket(e), &w.block
	gap := 0 // buckets to add for it
	if n := len(b.counts); n > 0 {
		gap = int(q - b.first - uint32(n-1))
		full := gap == 0 && b.counts[n-1] == 255
		if full || blockHead+n+gap+r.shape.bytes(len(b.entries)+1) > blockSize {
			if err := w.endBlock(); err != nil {
				return err
			}
		}
	}
	if len(b.counts) == 0 {
		b.first, gap = q, 1
	}
	for range gap {
		b.counts = append(b.counts, 0)
	}
	b.counts[len(b.counts)-1]++
	b.entries = append(b.entries, e)
	w.last = e
	r.count++
	return nil
}

func (w *runWriter) endBlock() error {
	b := &w.block
	if len(b.counts) == 0 {
		return nil
	}
	n := len(w.buf)
	w.buf = w.buf[:n+blockSize]
	out := w.buf[n:]
	clear(out)
	binary.BigEndian.PutUint32(out[4:], b.first)
	binary.BigEndian.PutUint16(out[8:], uint16(len(b.counts)))
	binary.BigEndian.PutUint16(out[10:], uint16(len(b.entries)))
	copy(out[blockHead:], b.counts)
	for i, e := range b.entries {
		w.run.shape.put(out[blockHead+len(b.counts):], i, e)
	}
	binary.BigEndian.PutUint32(out, crc32.Update(w.run.id.seed(len(w.run.first)), castagnoli, out[4:]))
	w.run.first = append(w.run.first, b.first)
	b.counts, b.entries = b.counts[:0], b.entries[:0]
	if len(w.buf) == cap(w.buf) {
		return w.write()
	}
	return nil
}

func (w *runWriter) write() error {
	if _, err := w.run.file.WriteAt(w.buf, w.at); err != nil {
		return fmt.Errorf("write %s: %w", w.run.id.file(), err)
	}
	w.at += int64(len(w.buf))
	w.buf = w.buf[:0]
	return nil
}

// finish makes the content durable and returns the run, open for reading. Its
// name becomes durable with the next Sync of the disk.
func (w *runWriter) finish() (*run, error) {
	r := w.run
	if err := w.endBlock(); err != nil {
		return nil, err
	}
	if err := w.write(); err != nil {
		return nil, err
	}
	table := make([]byte, 0, 4*len(r.first)+runFoot)
	for _, q := range r.first {
		table = binary.BigEndian.AppendUint32(table, q)
	}
	if _, err := r.file.WriteAt(append(table, r.foot(crc32.Checksum(table, castagnoli))...), w.at); err != nil {
		return nil, fmt.Errorf("write %s: %w", r.id.file(), err)
	}
	if err := r.file.Sync(); err != nil {
		return nil, fmt.Errorf("sync %s: %w", r.id.file(), err)
	}
	return r, nil
}

// drop takes back a run that nothing names.
func (w *runWriter) drop() error { return discard(w.disk, w.run) }

func discard(d disk, r *run) error {
	return errors.Join(r.file.Close(), d.Remove(r.id.file()))
}

// foot returns the last bytes of the file.
func (r *run) foot(table uint32) []byte {
	b := make([]byte, runFoot)
	copy(b, runMagic)
	binary.BigEndian.PutUint32(b[8:], cacheFormat)
	b[12], b[13], b[14] = byte(r.in.bits), byte(r.shape.bucketBits), byte(r.shape.packBits)
	binary.BigEndian.PutUint64(b[16:], r.id.number)
	binary.BigEndian.PutUint32(b[24:], r.in.value)
	binary.BigEndian.PutUint32(b[28:], uint32(len(r.first)))
	binary.BigEndian.PutUint64(b[32:], uint64(r.count))
	copy(b[40:], r.id.cache[:])
	binary.BigEndian.PutUint32(b[56:], table)
	binary.BigEndian.PutUint32(b[60:], crc32.Checksum(b[:60], castagnoli))
	return b
}
