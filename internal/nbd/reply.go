package nbd

import (
	"bufio"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"syscall"
)

// call is one request under way. After it was sent only the reader touches it,
// until something is sent on done.
type call struct {
	op      uint16
	offset  int64
	length  int
	context uint32 // of a block status
	buf     []byte // of a read

	filled   []span // parts of buf that the server has sent, in order
	status   []Extent
	answered bool  // the block status has been seen
	err      error // the first error chunk
	done     chan error
}

// span is a part of a read's buffer.
type span struct{ from, to int }

func (k *call) name() string {
	switch k.op {
	case cmdRead:
		return "read"
	case cmdWrite:
		return "write"
	case cmdFlush:
		return "flush"
	case cmdWriteZeroes:
		return "write zeroes"
	case cmdBlockStatus:
		return "block status"
	}
	return "request"
}

// receive reads replies until the connection ends, then fails the calls that wait.
func (c *Client) receive() {
	r := bufio.NewReaderSize(c.conn, 64<<10)
	for {
		if err := c.receiveOne(r); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF // nobody said goodbye
			}
			c.fail(err)
			break
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for cookie, k := range c.pending {
		k.done <- fmt.Errorf("nbd %s: %w", k.name(), c.failed)
		delete(c.pending, cookie)
	}
	close(c.done)
}

func (c *Client) receiveOne(r *bufio.Reader) error {
	var magic [4]byte
	if _, err := io.ReadFull(r, magic[:]); err != nil {
		return err
	}
	switch binary.BigEndian.Uint32(magic[:]) {
	case magicSimple:
		return c.simpleReply(r)
	case magicStructured:
		return c.structuredReply(r)
	}
	return fmt.Errorf("%w: reply starts with %x", ErrProtocol, magic)
}

func (c *Client) lookup(cookie uint64) (*call, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k, ok := c.pending[cookie]
	if !ok {
		return nil, fmt.Errorf("%w: reply to no request (cookie %d)", ErrProtocol, cookie)
	}
	return k, nil
}

// finish answers a call. It is forgotten first: a second reply to it is a fault.
func (c *Client) finish(cookie uint64, k *call, err error) {
	c.mu.Lock()
	delete(c.pending, cookie)
	c.mu.Unlock()
	k.done <- err
}

func (c *Client) simpleReply(r io.Reader) error {
	var head struct {
		Errno  uint32
		Cookie uint64
	}
	if err := binary.Read(r, binary.BigEndian, &head); err != nil {
		return err
	}
	k, err := c.lookup(head.Cookie)
	if err != nil {
		return err
	}
	switch {
	case k.filled != nil || k.err != nil || k.answered:
		return fmt.Errorf("%w: simple reply after chunks", ErrProtocol)
	case head.Errno != 0:
		c.finish(head.Cookie, k, serverError(k, head.Errno, ""))
		return nil
	case k.op == cmdBlockStatus:
		return fmt.Errorf("%w: simple reply to a block status", ErrProtocol)
	}
	if _, err := io.ReadFull(r, k.buf); err != nil {
		return err
	}
	c.finish(head.Cookie, k, nil)
	return nil
}

func (c *Client) structuredReply(r io.Reader) error {
	var head struct {
		Flags, Kind uint16
		Cookie      uint64
		Length      uint32
	}
	if err := binary.Read(r, binary.BigEndian, &head); err != nil {
		return err
	}
	k, err := c.lookup(head.Cookie)
	if err != nil {
		return err
	}
	switch {
	case head.Kind == chunkNone && head.Length == 0 && head.Flags&chunkFlagDone != 0:
	case head.Kind == chunkOffsetData && k.op == cmdRead:
		err = k.dataChunk(r, head.Length)
	case head.Kind == chunkOffsetHole && k.op == cmdRead && head.Length == 12:
		err = k.holeChunk(r)
	case head.Kind == chunkBlockStatus && k.op == cmdBlockStatus:
		err = k.statusChunk(r, head.Length)
	case head.Kind&chunkErrorBit != 0:
		err = k.errorChunk(r, head.Kind, head.Length)
	default:
		err = fmt.Errorf("%w: chunk of kind %d and %d bytes to a %s", ErrProtocol, head.Kind, head.Length, k.name())
	}
	if err != nil {
		return err
	}
	if head.Flags&chunkFlagDone == 0 {
		return nil
	}
	answer, err := k.complete()
	if err != nil {
		return err
	}
	c.finish(head.Cookie, k, answer)
	return nil
}

// complete checks the end of a structured reply: what the caller gets, or how
// the server broke the protocol.
func (k *call) complete() (answer, violation error) {
	if k.err != nil {
		return k.err, nil
	}
	if k.op == cmdBlockStatus && !k.answered {
		return nil, fmt.Errorf("%w: block status without an answer", ErrProtocol)
	}
	if k.op != cmdRead {
		return nil, nil
	}
	covered := 0
	for _, s := range k.filled {
		covered += s.to - s.from
	}
	if covered != len(k.buf) {
		return nil, fmt.Errorf("%w: read of %d bytes got %d", ErrProtocol, len(k.buf), covered)
	}
	return nil, nil
}

// fill reserves a part of the buffer for a chunk. Chunks may come in any order
// but never overlap, so that the sum of their lengths proves a read complete.
func (k *call) fill(offset uint64, length uint64) ([]byte, error) {
	rel := offset - uint64(k.offset) // wraps far out of range when too small
	if length == 0 || rel > uint64(len(k.buf)) || length > uint64(len(k.buf))-rel {
		return nil, fmt.Errorf("%w: chunk [%d, +%d) outside the read [%d, +%d)", ErrProtocol, offset, length, k.offset, len(k.buf))
	}
	s := span{int(rel), int(rel + length)}
	at, _ := slices.BinarySearchFunc(k.filled, s, func(a, b span) int { return cmp.Compare(a.from, b.from) })
	if (at > 0 && k.filled[at-1].to > s.from) || (at < len(k.filled) && k.filled[at].from < s.to) {
		return nil, fmt.Errorf("%w: chunks of a read overlap", ErrProtocol)
	}
	switch {
	case at > 0 && k.filled[at-1].to == s.from:
		k.filled[at-1].to = s.to // the usual case: in order, one span in all
	case len(k.filled) >= maxSpans:
		return nil, fmt.Errorf("%w: a read in more than %d pieces", ErrProtocol, maxSpans)
	default:
		k.filled = slices.Insert(k.filled, at, s)
	}
	return k.buf[s.from:s.to], nil
}

func (k *call) dataChunk(r io.Reader, length uint32) error {
	if length < 9 {
		return fmt.Errorf("%w: data chunk of %d bytes", ErrProtocol, length)
	}
	var offset [8]byte
	if _, err := io.ReadFull(r, offset[:]); err != nil {
		return err
	}
	part, err := k.fill(binary.BigEndian.Uint64(offset[:]), uint64(length-8))
	if err != nil {
		return err
	}
	_, err = io.ReadFull(r, part)
	return err
}

func (k *call) holeChunk(r io.Reader) error {
	var hole struct {
		Offset uint64
		Length uint32
	}
	if err := binary.Read(r, binary.BigEndian, &hole); err != nil {
		return err
	}
	part, err := k.fill(hole.Offset, uint64(hole.Length))
	if err != nil {
		return err
	}
	clear(part)
	return nil
}

func (k *call) statusChunk(r io.Reader, length uint32) error {
	if length < 12 || length > maxStatusChunk || (length-4)%8 != 0 {
		return fmt.Errorf("%w: block status of %d bytes", ErrProtocol, length)
	}
	body := make([]byte, length)
	if _, err := io.ReadFull(r, body); err != nil {
		return err
	}
	if binary.BigEndian.Uint32(body) != k.context {
		return nil // another context that was negotiated too
	}
	if k.answered {
		return fmt.Errorf("%w: block status comes twice", ErrProtocol)
	}
	k.answered = true
	for body = body[4:]; len(body) > 0; body = body[8:] {
		n := binary.BigEndian.Uint32(body)
		if n == 0 {
			return fmt.Errorf("%w: empty extent in a block status", ErrProtocol)
		}
		k.status = append(k.status, Extent{Length: int64(n), Flags: binary.BigEndian.Uint32(body[4:])})
	}
	return nil
}

func (k *call) errorChunk(r io.Reader, kind uint16, length uint32) error {
	if length < 6 || length > maxErrorChunk {
		return fmt.Errorf("%w: error chunk of %d bytes", ErrProtocol, length)
	}
	body := make([]byte, length)
	if _, err := io.ReadFull(r, body); err != nil {
		return err
	}
	words := int(binary.BigEndian.Uint16(body[4:]))
	if words > len(body)-6 || words > maxString {
		return fmt.Errorf("%w: error message of %d bytes in a chunk of %d", ErrProtocol, words, length)
	}
	errno := binary.BigEndian.Uint32(body)
	if (kind == chunkError || kind == chunkErrorOffset) && errno == 0 {
		return fmt.Errorf("%w: error chunk without an error", ErrProtocol)
	}
	if k.err == nil {
		k.err = serverError(k, errno, string(body[6:6+words]))
	}
	return nil
}

// serverError makes the caller's error. The protocol's numbers are Linux's.
func serverError(k *call, errno uint32, message string) error {
	number := syscall.Errno(errno)
	if errno == 0 || errno > 4095 {
		number = syscall.EIO // an unknown kind of error chunk is an error all the same
	}
	return &ServerError{Op: k.name(), Errno: number, Message: clip(message)}
}
