package nbd

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"syscall"
)

// headRoom is kept free in front of content, so that it goes out with its head
// in one write.
const headRoom = 32

// transmission is a session's part of answering requests.
type transmission struct {
	slots chan struct{} // one for each request under way
	work  sync.WaitGroup

	wmu sync.Mutex // held while a reply is written

	mu   sync.Mutex
	free *sync.Cond
	held int // bytes of content in memory; guarded by mu
}

func (t *transmission) init() {
	t.slots = make(chan struct{}, requestsAtOnce)
	t.free = sync.NewCond(&t.mu)
}

// take waits until n bytes are within the connection's budget. Only the
// goroutine that reads requests calls it, so nobody is overtaken.
func (t *transmission) take(n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for t.held > 0 && t.held+n > connBudget {
		t.free.Wait()
	}
	t.held += n
}

func (t *transmission) give(n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.held -= n
	t.free.Signal()
}

// command is a request of a client.
type command struct {
	flags, kind uint16
	cookie      uint64
	offset      int64
	length      int64
	buf         []byte // headRoom, then the content that is read or was sent
	cost        int    // bytes that were taken of the budget
}

// refusal is a reply that is an error.
type refusal struct {
	errno uint32
	text  string
}

// transmit answers requests until the client leaves, breaks the protocol, or the
// service ends. It returns when all that were accepted are answered.
func (c *session) transmit(ctx context.Context) {
	defer c.work.Wait()
	for {
		cmd, err := c.readCommand()
		if err != nil || cmd.kind == cmdDisc {
			return
		}
		if refused := c.refuse(cmd); refused != nil {
			if err := c.skipPayload(cmd); err != nil {
				return
			}
			if err := c.replyError(cmd, *refused); err != nil {
				return
			}
			continue
		}
		if err := c.begin(ctx, cmd); err != nil {
			return
		}
	}
}

func (c *session) readCommand() (command, error) {
	var head [28]byte
	if _, err := io.ReadFull(c.in, head[:]); err != nil {
		return command{}, err
	}
	if binary.BigEndian.Uint32(head[:]) != magicRequest {
		return command{}, fmt.Errorf("%w: request starts with %x", ErrProtocol, head[:4])
	}
	return command{
		flags:  binary.BigEndian.Uint16(head[4:]),
		kind:   binary.BigEndian.Uint16(head[6:]),
		cookie: binary.BigEndian.Uint64(head[8:]),
		offset: int64(binary.BigEndian.Uint64(head[16:])), // negative: refused
		length: int64(binary.BigEndian.Uint32(head[24:])),
	}, nil
}

// commandFlags are the commands there are, with the flags that each may have.
var commandFlags = map[uint16]uint16{
	cmdRead: cmdFlagDF, cmdWrite: cmdFlagFUA, cmdFlush: 0,
	cmdWriteZeroes: cmdFlagFUA | cmdFlagNoHole, cmdBlockStatus: cmdFlagReqOne,
}

// refuse says why a request cannot be meant, or nil.
func (c *session) refuse(cmd command) *refusal {
	flags, known := commandFlags[cmd.kind]
	writes := cmd.kind == cmdWrite || cmd.kind == cmdWriteZeroes
	switch {
	case !known:
		return &refusal{wireEINVAL, "no such command"}
	case cmd.flags&^flags != 0 || cmd.flags&cmdFlagDF != 0 && !c.structured:
		return &refusal{wireEINVAL, "flags that this command does not have"}
	case writes && c.export.Writer == nil:
		return &refusal{wireEPERM, "the export is read-only"}
	case cmd.kind == cmdFlush:
		return nil // offset and length mean nothing
	case cmd.offset < 0 || cmd.offset > c.export.Size || cmd.length > c.export.Size-cmd.offset:
		if writes {
			return &refusal{wireENOSPC, "behind the end of the disk"}
		}
		return &refusal{wireEINVAL, "behind the end of the disk"}
	case (cmd.kind == cmdRead || cmd.kind == cmdWrite) && cmd.length > maxRequest:
		return &refusal{wireEINVAL, "longer than was announced"}
	case cmd.kind == cmdBlockStatus && (c.mapped != c.export || cmd.length == 0):
		return &refusal{wireEINVAL, "no meta context, or no length"}
	}
	return nil
}

// skipPayload reads away what a refused write carries. More than was ever
// allowed is not read: the connection ends.
func (c *session) skipPayload(cmd command) error {
	if cmd.kind != cmdWrite {
		return nil
	}
	if cmd.length > maxRequest {
		return fmt.Errorf("%w: write of %d bytes", ErrProtocol, cmd.length)
	}
	_, err := io.CopyN(io.Discard, c.in, cmd.length)
	return err
}

// begin reads what the request carries and answers it in a goroutine. It waits
// while the connection has as much under way as it may.
func (c *session) begin(ctx context.Context, cmd command) error {
	switch {
	case cmd.kind == cmdWrite || cmd.kind == cmdRead && (!c.structured || cmd.flags&cmdFlagDF != 0):
		cmd.cost = headRoom + int(cmd.length)
	case cmd.kind == cmdRead:
		cmd.cost = headRoom + int(min(cmd.length, pieceBytes))
	}
	c.slots <- struct{}{} // comes free: workers end, if only by the write deadline or a lost connection
	c.take(cmd.cost)
	if cmd.cost > 0 {
		cmd.buf = newBuffer(cmd.cost)
	}
	done := func() {
		if cmd.buf != nil {
			freeBuffer(cmd.buf)
		}
		c.give(cmd.cost)
		<-c.slots
	}
	if cmd.kind == cmdWrite {
		if _, err := io.ReadFull(c.in, cmd.buf[headRoom:]); err != nil {
			done()
			return err
		}
	}
	c.work.Go(func() {
		defer done()
		if err := c.answer(ctx, cmd); err != nil {
			_ = c.conn.Close() // half a reply may be on the wire: nothing can follow it
		}
	})
	return nil
}

// answer does what was asked for and replies. An error means that the reply
// could not be written.
func (c *session) answer(ctx context.Context, cmd command) error {
	if ctx.Err() != nil {
		return c.replyError(cmd, refusal{wireSHUTDOWN, "the server is ending"})
	}
	switch cmd.kind {
	case cmdRead:
		if c.structured && cmd.flags&cmdFlagDF == 0 && cmd.length > smallRead {
			return c.readPieces(cmd)
		}
		return c.readWhole(cmd)
	case cmdBlockStatus:
		return c.blockStatus(cmd)
	}
	if err := c.write(cmd); err != nil {
		return c.fail(cmd, err)
	}
	return c.replySimple(cmd, 0)
}

// write does one of the requests that change the export.
func (c *session) write(cmd command) error {
	w := c.export.Writer
	switch cmd.kind {
	case cmdWrite:
		if _, err := w.WriteAt(cmd.buf[headRoom:], cmd.offset); err != nil {
			return err
		}
	case cmdWriteZeroes:
		if err := w.WriteZeroes(cmd.offset, cmd.length); err != nil {
			return err
		}
	}
	if w != nil && (cmd.kind == cmdFlush || cmd.flags&cmdFlagFUA != 0) {
		return w.Flush()
	}
	return nil
}

// fill reads content whole, or fails.
func (e *Export) fill(b []byte, offset int64) error {
	n, err := e.Content.ReadAt(b, offset)
	if n == len(b) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// readWhole answers a read by one reply.
func (c *session) readWhole(cmd command) error {
	data := cmd.buf[headRoom:]
	if err := c.export.fill(data, cmd.offset); err != nil {
		return c.fail(cmd, err)
	}
	if !c.structured {
		simpleHead(cmd.buf[headRoom-16:headRoom], cmd.cookie, 0)
		return c.send(cmd.buf[headRoom-16:])
	}
	return c.sendData(cmd, 0, len(data), true)
}

// readPieces answers a read by several chunks: holes as such, data in pieces
// that bound what the request holds in memory.
func (c *session) readPieces(cmd command) error {
	end := cmd.offset + cmd.length
	for at := cmd.offset; at < end; {
		step := min(end-at, lastWindow)
		runs, err := c.export.runs(at, step)
		if err != nil {
			return c.failAt(cmd, at, err)
		}
		for _, r := range runs {
			if goOn, err := c.readRun(cmd, r); err != nil || !goOn {
				return err
			}
		}
		at += step
	}
	return nil
}

// readRun sends one run of a read. It tells whether there is more to be sent.
func (c *session) readRun(cmd command, r Extent) (goOn bool, err error) {
	end := cmd.offset + cmd.length
	if r.Flags&Zero != 0 {
		done := r.Offset+r.Length == end
		return !done, c.sendHole(cmd, r.Offset, r.Length, done)
	}
	for at := r.Offset; at < r.Offset+r.Length; {
		n := min(r.Offset+r.Length-at, pieceBytes)
		if err := c.export.fill(cmd.buf[headRoom:][:n], at); err != nil {
			return false, c.failAt(cmd, at, err)
		}
		if err := c.sendData(cmd, at-cmd.offset, int(n), at+n == end); err != nil {
			return false, err
		}
		at += n
	}
	return r.Offset+r.Length < end, nil
}

// sendData sends the first n bytes of the request's buffer as a chunk, or a hole
// if there is nothing in them.
func (c *session) sendData(cmd command, offset int64, n int, done bool) error {
	if n == 0 {
		return c.send(chunkHead(nil, cmd.cookie, chunkNone, 0, true))
	}
	if allZero(cmd.buf[headRoom:][:n]) {
		return c.sendHole(cmd, cmd.offset+offset, int64(n), done)
	}
	const head = 28
	b := chunkHead(cmd.buf[headRoom-head:headRoom-head], cmd.cookie, chunkOffsetData, 8+n, done)
	binary.BigEndian.AppendUint64(b, uint64(cmd.offset+offset))
	return c.send(cmd.buf[headRoom-head : headRoom+n])
}

func (c *session) sendHole(cmd command, offset, length int64, done bool) error {
	b := chunkHead(nil, cmd.cookie, chunkOffsetHole, 12, done)
	b = binary.BigEndian.AppendUint64(b, uint64(offset))
	return c.send(binary.BigEndian.AppendUint32(b, uint32(length)))
}

func (c *session) blockStatus(cmd command) error {
	runs, err := c.export.status(cmd.offset, cmd.length, cmd.flags&cmdFlagReqOne != 0)
	if err != nil {
		return c.fail(cmd, err)
	}
	b := chunkHead(nil, cmd.cookie, chunkBlockStatus, 4+8*len(runs), true)
	b = binary.BigEndian.AppendUint32(b, contextID)
	for _, r := range runs {
		b = binary.BigEndian.AppendUint32(b, uint32(r.Length))
		b = binary.BigEndian.AppendUint32(b, r.Flags)
	}
	return c.send(b)
}

// fail answers a request that the export could not answer.
func (c *session) fail(cmd command, err error) error { return c.failAt(cmd, -1, err) }

func (c *session) failAt(cmd command, at int64, err error) error {
	if c.export.Failed != nil {
		c.export.Failed(fmt.Errorf("nbd %s of %d bytes at %d: %w", (&call{op: cmd.kind}).name(), cmd.length, cmd.offset, err))
	}
	r := refusal{wireErrno(err), clip(err.Error())}
	if at < 0 || !c.structured {
		return c.replyError(cmd, r)
	}
	b := chunkHead(nil, cmd.cookie, chunkErrorOffset, 6+len(r.text)+8, true)
	return c.send(binary.BigEndian.AppendUint64(appendError(b, r), uint64(at)))
}

// wireErrno is the number that the protocol has for an error.
func wireErrno(err error) uint32 {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		switch errno {
		case syscall.EPERM, syscall.EACCES, syscall.EROFS:
			return wireEPERM
		case syscall.ENOSPC, syscall.EDQUOT, syscall.EFBIG:
			return wireENOSPC
		case syscall.ENOMEM:
			return wireENOMEM
		case syscall.EOPNOTSUPP:
			return wireENOTSUP
		}
	}
	return wireEIO
}

func (c *session) replyError(cmd command, r refusal) error {
	if !c.structured {
		return c.replySimple(cmd, r.errno)
	}
	return c.send(appendError(chunkHead(nil, cmd.cookie, chunkError, 6+len(r.text), true), r))
}

func (c *session) replySimple(cmd command, errno uint32) error {
	b := make([]byte, 16)
	simpleHead(b, cmd.cookie, errno)
	return c.send(b)
}

func (c *session) send(b []byte) error {
	c.wmu.Lock()
	defer c.wmu.Unlock()
	_, err := c.conn.Write(b)
	return err
}

func simpleHead(b []byte, cookie uint64, errno uint32) {
	binary.BigEndian.PutUint32(b, magicSimple)
	binary.BigEndian.PutUint32(b[4:], errno)
	binary.BigEndian.PutUint64(b[8:], cookie)
}

func chunkHead(b []byte, cookie uint64, kind uint16, length int, done bool) []byte {
	flags := uint16(0)
	if done {
		flags = chunkFlagDone
	}
	b = binary.BigEndian.AppendUint32(b, magicStructured)
	b = binary.BigEndian.AppendUint16(b, flags)
	b = binary.BigEndian.AppendUint16(b, kind)
	b = binary.BigEndian.AppendUint64(b, cookie)
	return binary.BigEndian.AppendUint32(b, uint32(length))
}

func appendError(b []byte, r refusal) []byte {
	b = binary.BigEndian.AppendUint32(b, r.errno)
	b = binary.BigEndian.AppendUint16(b, uint16(len(r.text)))
	return append(b, r.text...)
}
