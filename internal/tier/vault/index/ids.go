package index

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
)

const idRecord = 20 // 16 bytes and a checksum

// ids is a file of numbered ids that only grows: what is durable in it is never
// written again. The state file says how many count.
type ids struct {
	name  string
	file  file
	count int        // in the file
	tail  [][16]byte // behind those, not yet in the file
}

// Len returns how many ids there are; they are numbered from 0.
func (l *ids) len() int { return l.count + len(l.tail) }

// get returns one id: a read of 20 bytes.
func (l *ids) get(n int) ([16]byte, error) {
	if n < 0 || n >= l.len() {
		return [16]byte{}, fmt.Errorf("%s has no number %d: %w", l.name, n, ErrDamaged)
	}
	if n >= l.count {
		return l.tail[n-l.count], nil
	}
	var b [idRecord]byte
	if err := readFull(l.file, b[:], int64(n)*idRecord); err != nil {
		return [16]byte{}, fmt.Errorf("read %s: %w", l.name, err)
	}
	return l.check(b[:], n)
}

func (l *ids) check(b []byte, n int) ([16]byte, error) {
	id := [16]byte(b)
	if l.sum(id, n) != binary.BigEndian.Uint32(b[16:]) {
		return id, fmt.Errorf("number %d of %s has another checksum: %w", n, l.name, ErrDamaged)
	}
	return id, nil
}

func (l *ids) sum(id [16]byte, n int) uint32 {
	b := append(binary.BigEndian.AppendUint32(nil, uint32(n)), id[:]...)
	return crc32.Update(crc32.Checksum([]byte(l.name), castagnoli), castagnoli, b)
}

// all calls fn for the ids in the file.
func (l *ids) all(fn func([16]byte)) error {
	buf := make([]byte, 1024*idRecord)
	for n := 0; n < l.count; {
		b := buf[:min(1024, l.count-n)*idRecord]
		if err := readFull(l.file, b, int64(n)*idRecord); err != nil {
			return fmt.Errorf("read %s: %w", l.name, err)
		}
		for ; len(b) > 0; b, n = b[idRecord:], n+1 {
			id, err := l.check(b, n)
			if err != nil {
				return err
			}
			fn(id)
		}
	}
	return nil
}

// write makes the tail durable, behind what counts. The caller makes it count
// with settle when the state file says so.
func (l *ids) write() error {
	if len(l.tail) == 0 {
		return nil
	}
	b := make([]byte, 0, len(l.tail)*idRecord)
	for i, id := range l.tail {
		b = append(b, id[:]...)
		b = binary.BigEndian.AppendUint32(b, l.sum(id, l.count+i))
	}
	if _, err := l.file.WriteAt(b, int64(l.count)*idRecord); err != nil {
		return fmt.Errorf("write %s: %w", l.name, err)
	}
	if err := l.file.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", l.name, err)
	}
	return nil
}

func (l *ids) settle() { l.count, l.tail = l.len(), nil }
