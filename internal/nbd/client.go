// Package nbd speaks the network block device protocol, both ways.
//
// Client, over a unix socket, is what we need to read layers and write disks
// through qemu-nbd. Serve exports the disk of a recovery point to QEMU and to
// every other client. One connection carries many requests at a time.
//
// The other side is believed in nothing that could make us allocate, index or
// wait without bound: each length, offset, cookie and order of chunks is
// checked, and whoever breaks the protocol loses the connection.
//
// It does no TLS (a socket lies in a folder of ours), and knows nothing of
// images: an Export is a size and functions that read.
package nbd

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"time"
)

// The meta contexts that qemu-nbd serves.
const (
	// BaseAllocation tells holes and zeros; flags are Hole and Zero.
	BaseAllocation = "base:allocation"
	// AllocationDepth tells how deep in the chain a range is held: 0 nowhere, 1
	// in the exported layer itself, 2 in its backing file, and so on.
	AllocationDepth = "qemu:allocation-depth"
)

// The flags of an Extent in BaseAllocation.
const (
	Hole uint32 = 1 << 0 // not allocated
	Zero uint32 = 1 << 1 // reads as zeros
)

// Errors by which callers decide.
var (
	// ErrClosed: the connection was closed, by Close or by a fault; the fault is
	// wrapped with it.
	ErrClosed = errors.New("nbd connection is closed")
	// ErrNoContext: the server does not serve the meta context.
	ErrNoContext = errors.New("meta context is not served")
	// ErrReadOnly: the export cannot be written to.
	ErrReadOnly = errors.New("export is read-only")
	// ErrProtocol: the server said something that the protocol does not allow.
	ErrProtocol = errors.New("nbd protocol violation")
)

// ServerError is an error that the server answered; the connection goes on.
// errors.Is finds its number, e.g. syscall.ENOSPC.
type ServerError struct {
	Op      string // read, write, flush …
	Errno   syscall.Errno
	Message string // the server's own words; may be empty
}

// Error returns operation, number and the server's words.
func (e *ServerError) Error() string {
	if e.Message == "" {
		return fmt.Sprintf("nbd %s: %v", e.Op, e.Errno)
	}
	return fmt.Sprintf("nbd %s: %v: %s", e.Op, e.Errno, e.Message)
}

// Unwrap returns the number.
func (e *ServerError) Unwrap() error { return e.Errno }

// Options say how to connect. The zero value asks for BaseAllocation.
type Options struct {
	// Contexts are the meta contexts to ask for; nil means BaseAllocation. One
	// that the server lacks is no error until it is used.
	Contexts []string
}

// Extent is a run of bytes of an export with its flags in one meta context.
type Extent struct {
	Offset, Length int64 // bytes
	Flags          uint32
}

// Client is one connection to one export. All methods may be called
// concurrently.
type Client struct {
	conn     net.Conn
	size     int64
	flags    uint16
	maxBlock int
	minBlock int
	contexts map[string]uint32
	done     chan struct{} // closed when the reader has ended

	wmu sync.Mutex // held while a request is written

	mu      sync.Mutex
	pending map[uint64]*call // guarded by mu
	cookie  uint64           // guarded by mu
	failed  error            // guarded by mu: why the connection ended
}

// Dial connects to the export of this name on a unix socket. ctx bounds
// connecting and the handshake, not what follows.
func Dial(ctx context.Context, socket, export string, o Options) (*Client, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, fmt.Errorf("connect to nbd server: %w", err)
	}
	return newClient(ctx, conn, export, o)
}

func newClient(ctx context.Context, conn net.Conn, export string, o Options) (*Client, error) {
	c := &Client{
		conn: conn, pending: map[uint64]*call{}, contexts: map[string]uint32{},
		done: make(chan struct{}), maxBlock: defaultMaxBlock, minBlock: 1,
	}
	wanted := o.Contexts
	if wanted == nil {
		wanted = []string{BaseAllocation}
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	err := c.handshake(export, wanted)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		_ = conn.Close()
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, fmt.Errorf("open nbd export %q: %w", export, err)
	}
	go c.receive()
	return c, nil
}

// Size returns the size of the export in bytes.
func (c *Client) Size() int64 { return c.size }

// ReadOnly tells whether the export refuses writes.
func (c *Client) ReadOnly() bool { return c.flags&transReadOnly != 0 }

// MinBlock returns the size in bytes of which offsets and lengths must be
// multiples; 1 for every image that qemu-nbd opens through the page cache.
func (c *Client) MinBlock() int { return c.minBlock }

// ReadAt reads as io.ReaderAt says. It splits at the server's maximum.
func (c *Client) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("nbd read: negative offset %d", off)
	}
	if off >= c.size {
		return 0, io.EOF
	}
	var atEnd error
	if int64(len(p)) > c.size-off {
		p, atEnd = p[:c.size-off], io.EOF
	}
	for n := 0; n < len(p); {
		part := p[n:min(len(p), n+c.maxBlock)]
		k := &call{op: cmdRead, offset: off + int64(n), length: len(part), buf: part}
		if err := c.roundTrip(context.Background(), k, nil); err != nil {
			return n, err
		}
		n += len(part)
	}
	return len(p), atEnd
}

// WriteAt writes all of p or fails. What it wrote is durable after Flush.
func (c *Client) WriteAt(p []byte, off int64) (int, error) {
	if err := c.writable("write", off, int64(len(p))); err != nil {
		return 0, err
	}
	for n := 0; n < len(p); {
		part := p[n:min(len(p), n+c.maxBlock)]
		k := &call{op: cmdWrite, offset: off + int64(n), length: len(part)}
		if err := c.roundTrip(context.Background(), k, part); err != nil {
			return n, err
		}
		n += len(part)
	}
	return len(p), nil
}

var zeroBlock [1 << 20]byte

// WriteZeroes makes [off, off+length) read as zeros, as a hole if the image can.
func (c *Client) WriteZeroes(off, length int64) error {
	if err := c.writable("write zeroes", off, length); err != nil {
		return err
	}
	for length > 0 {
		step := min(length, zeroesAtOnce)
		if c.flags&transWriteZeroes == 0 {
			step = min(length, int64(len(zeroBlock)))
			if _, err := c.WriteAt(zeroBlock[:step], off); err != nil {
				return err
			}
		} else {
			k := &call{op: cmdWriteZeroes, offset: off, length: int(step)}
			if err := c.roundTrip(context.Background(), k, nil); err != nil {
				return err
			}
		}
		off, length = off+step, length-step
	}
	return nil
}

func (c *Client) writable(op string, off, length int64) error {
	switch {
	case c.ReadOnly():
		return fmt.Errorf("nbd %s: %w", op, ErrReadOnly)
	case off < 0 || length < 0 || off > c.size || length > c.size-off:
		return fmt.Errorf("nbd %s: [%d, +%d) is outside the export of %d bytes", op, off, length, c.size)
	}
	return nil
}

// Flush makes every write that has returned durable.
func (c *Client) Flush() error {
	if c.flags&transFlush == 0 {
		return nil // the server has nothing to flush: each write is durable
	}
	return c.roundTrip(context.Background(), &call{op: cmdFlush}, nil)
}

// BlockStatus describes [off, off+length) in the named meta context,
// completely, in order and without gaps; neighbours with the same flags are one
// extent. ErrNoContext if the server does not serve the context.
func (c *Client) BlockStatus(ctx context.Context, context string, off, length int64) ([]Extent, error) {
	id, ok := c.contexts[context]
	if !ok {
		return nil, fmt.Errorf("nbd block status %s: %w", context, ErrNoContext)
	}
	if off < 0 || length < 0 || off > c.size || length > c.size-off {
		return nil, fmt.Errorf("nbd block status: [%d, +%d) is outside the export of %d bytes", off, length, c.size)
	}
	var extents []Extent
	for length > 0 {
		k := &call{op: cmdBlockStatus, offset: off, length: int(min(length, zeroesAtOnce)), context: id}
		if err := c.roundTrip(ctx, k, nil); err != nil {
			return nil, err
		}
		for _, e := range k.status {
			e.Length = min(e.Length, length) // the last may reach behind what was asked
			if e.Length == 0 {
				break
			}
			if last := len(extents) - 1; last >= 0 && extents[last].Flags == e.Flags {
				extents[last].Length += e.Length
			} else {
				extents = append(extents, Extent{Offset: off, Length: e.Length, Flags: e.Flags})
			}
			off, length = off+e.Length, length-e.Length
		}
	}
	return extents, nil
}

// Close ends the connection; calls under way fail with ErrClosed. It may be
// called more than once, and returns when no goroutine of the client is left.
func (c *Client) Close() error {
	if c.wmu.TryLock() { // a writer that is stuck must not keep us from closing
		c.mu.Lock()
		alive := c.failed == nil
		c.mu.Unlock()
		if alive {
			_ = c.conn.SetWriteDeadline(time.Now().Add(time.Second))
			_, _ = c.conn.Write(requestHeader(&call{op: cmdDisc}, 0))
		}
		c.wmu.Unlock()
	}
	c.fail(ErrClosed)
	<-c.done
	return nil
}

// roundTrip sends one request and waits for its reply. The buffer of a read
// belongs to the reader until then, so only a request without one ends with ctx.
func (c *Client) roundTrip(ctx context.Context, k *call, payload []byte) error {
	k.done = make(chan error, 1)
	c.mu.Lock()
	if c.failed != nil {
		err := c.failed
		c.mu.Unlock()
		return fmt.Errorf("nbd %s: %w", k.name(), err)
	}
	c.cookie++
	cookie := c.cookie
	c.pending[cookie] = k
	c.mu.Unlock()

	c.wmu.Lock()
	bufs := net.Buffers{requestHeader(k, cookie)}
	if len(payload) > 0 {
		bufs = append(bufs, payload)
	}
	_, err := bufs.WriteTo(c.conn)
	c.wmu.Unlock()
	if err != nil { // half a request may be on the wire: nothing can follow it
		c.fail(err)
	}
	select {
	case err := <-k.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func requestHeader(k *call, cookie uint64) []byte {
	b := make([]byte, 0, 28)
	b = binary.BigEndian.AppendUint32(b, magicRequest)
	b = binary.BigEndian.AppendUint16(b, 0)
	b = binary.BigEndian.AppendUint16(b, k.op)
	b = binary.BigEndian.AppendUint64(b, cookie)
	b = binary.BigEndian.AppendUint64(b, uint64(k.offset))
	return binary.BigEndian.AppendUint32(b, uint32(k.length))
}

// fail ends the connection for the given reason, the first time it is called.
// It closes the socket, which makes the reader end; the reader answers the calls
// that wait, because until it has ended it may still write into their buffers.
func (c *Client) fail(reason error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.failed != nil {
		return
	}
	if !errors.Is(reason, ErrClosed) {
		reason = fmt.Errorf("%w: %w", ErrClosed, reason)
	}
	c.failed = reason
	_ = c.conn.Close()
}
