package inside

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/backstay/backstay/internal/guest/wire"
)

// sharedMemory maps the memory that the client sees too: the one region of QEMU's
// device for that.
func sharedMemory() ([]byte, error) {
	vendors, _ := filepath.Glob("/sys/bus/pci/devices/*/vendor")
	for _, vendor := range vendors {
		dir := filepath.Dir(vendor)
		if sysText(vendor) != "0x1af4" || sysText(dir+"/device") != "0x1110" {
			continue
		}
		if err := os.WriteFile(dir+"/enable", []byte("1"), 0); err != nil {
			return nil, fmt.Errorf("enable shared memory: %w", err)
		}
		file, err := os.OpenFile(dir+"/resource2", os.O_RDWR, 0)
		if err != nil {
			return nil, fmt.Errorf("open shared memory: %w", err)
		}
		defer file.Close()
		slots, err := unix.Mmap(int(file.Fd()), 0, wire.SharedSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		if err != nil {
			return nil, fmt.Errorf("map shared memory: %w", err)
		}
		return slots, nil
	}
	return nil, errors.New("the machine has no shared memory")
}

// sysText is what a file of /sys says; "" if it cannot be read.
func sysText(path string) string {
	text, _ := os.ReadFile(path)
	return strings.TrimSpace(string(text))
}

// lend takes slots for a call. Those for a call that has ended are not used.
func (s *server) lend(f wire.Frame) error {
	var slots []uint32
	for b := f.Body; len(b) >= 4; b = b[4:] {
		slot := binary.BigEndian.Uint32(b)
		if slot >= wire.Slots || s.slots == nil {
			return fmt.Errorf("there is no slot %d", slot)
		}
		slots = append(slots, slot)
	}
	if c := s.call(f.Call); c != nil {
		c.grant(0, slots)
	}
	return nil
}

func (c *call) grant(n int, slots []uint32) {
	c.mu.Lock()
	c.credit += n
	c.lent = append(c.lent, slots...)
	c.mu.Unlock()
	select {
	case c.more <- struct{}{}:
	default:
	}
}

// room is where bytes of a stream are gathered: a slot, or memory of our own.
type room struct {
	bytes []byte
	slot  uint32
	own   bool // no slot
}

// spend waits for a slot or for credit.
func (c *call) spend(ctx context.Context) (room, error) {
	for {
		c.mu.Lock()
		if len(c.lent) > 0 {
			slot := c.lent[0]
			c.lent = c.lent[1:]
			c.mu.Unlock()
			at := int(slot) * wire.SlotSize
			return room{bytes: c.s.slots[at : at+wire.SlotSize : at+wire.SlotSize], slot: slot}, nil
		}
		if n := min(wire.SlotSize, c.credit); n > 0 {
			c.credit -= n
			c.mu.Unlock()
			return room{bytes: make([]byte, n), own: true}, nil
		}
		c.mu.Unlock()
		select {
		case <-c.more:
		case <-ctx.Done():
			return room{}, ctx.Err()
		}
	}
}

// streamWriter sends what is written to it as the stream of a call.
type streamWriter struct {
	ctx  context.Context
	c    *call
	room room
	used int // bytes of the room
}

// Write gathers bytes and sends them when a slot is full.
func (w *streamWriter) Write(p []byte) (int, error) {
	done := 0
	for done < len(p) {
		if err := w.ready(); err != nil {
			return done, err
		}
		n := copy(w.room.bytes[w.used:], p[done:])
		w.used += n
		done += n
	}
	return done, w.ctx.Err()
}

// ReadFrom sends all that is read from r.
func (w *streamWriter) ReadFrom(r io.Reader) (int64, error) {
	var done int64
	for {
		if err := w.ready(); err != nil {
			return done, err
		}
		n, err := r.Read(w.room.bytes[w.used:])
		w.used += n
		done += int64(n)
		if errors.Is(err, io.EOF) {
			return done, nil
		}
		if err = errors.Join(err, w.ctx.Err()); err != nil {
			return done, err
		}
	}
}

// ready makes sure that there is room.
func (w *streamWriter) ready() error {
	if w.room.bytes != nil && w.used < len(w.room.bytes) {
		return nil
	}
	if err := w.flush(); err != nil {
		return err
	}
	var err error
	w.room, err = w.c.spend(w.ctx)
	return err
}

// flush sends what was gathered.
func (w *streamWriter) flush() error {
	if w.used == 0 {
		return nil
	}
	f := wire.Frame{Call: w.c.id, Kind: wire.FrameData, Body: w.room.bytes[:w.used]}
	if !w.room.own {
		f.Kind = wire.FrameFilled
		f.Body = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, w.room.slot), uint32(w.used))
	}
	w.room, w.used = room{}, 0
	return w.c.s.send(f)
}
