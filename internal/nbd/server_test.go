package nbd

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"syscall"
	"testing"

	"go.uber.org/goleak"
)

// memory is a disk in memory that knows its holes in steps of 4 KiB.
type memory struct {
	mu      sync.Mutex
	content []byte
	bad     int64 // the offset of a byte that cannot be read; -1 none
	flushes int
}

func newMemory(size int) *memory {
	m := &memory{content: make([]byte, size), bad: -1}
	source := rand.NewChaCha8([32]byte{7})
	_, _ = source.Read(m.content)
	return m
}

func (m *memory) ReadAt(b []byte, off int64) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.bad >= off && m.bad < off+int64(len(b)) {
		return 0, errors.New("the copy is torn")
	}
	return copy(b, m.content[off:]), nil
}

func (m *memory) WriteAt(b []byte, off int64) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return copy(m.content[off:], b), nil
}

func (m *memory) WriteZeroes(off, length int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.content[off:][:length])
	return nil
}

func (m *memory) Flush() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.flushes++
	return nil
}

func (m *memory) extents(off, length int64) ([]Extent, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []Extent
	for at := off; at < off+length; {
		n := min(4096-at%4096, off+length-at)
		e := Extent{Offset: at, Length: n}
		if allZero(m.content[at/4096*4096:][:min(4096, len(m.content)-int(at/4096*4096))]) {
			e.Flags = Hole | Zero
		}
		out = append(out, e)
		at += n
	}
	return out, nil
}

func (m *memory) export() Export {
	return Export{Name: "vda", Description: "a disk", Size: int64(len(m.content)), Content: m, Extents: m.extents}
}

// offer serves exports on a unix socket until the test ends.
func offer(t *testing.T, exports ...Export) (socket string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "s")
	l, err := ListenUnix(socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- Serve(ctx, l, exports...) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		goleak.VerifyNone(t, goleak.IgnoreCurrent())
		if _, err := os.Lstat(socket); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the socket is left behind: %v", err)
		}
	})
	return socket
}

func connect(t *testing.T, socket, name string) *Client {
	t.Helper()
	c, err := Dial(t.Context(), socket, name, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func TestAnExportIsReadAsItIs(t *testing.T) {
	m := newMemory(40<<20 + 4096)
	clear(m.content[5<<20 : 9<<20])
	clear(m.content[20<<20:][:4096])
	c := connect(t, offer(t, m.export()), "vda")
	if c.Size() != int64(len(m.content)) || !c.ReadOnly() || c.MinBlock() != 1 {
		t.Errorf("size %d, read-only %v, block %d", c.Size(), c.ReadOnly(), c.MinBlock())
	}
	var wg sync.WaitGroup
	for _, r := range [][2]int{{0, 40 << 20}, {0, 1}, {4095, 2}, {5 << 20, 4096}, {5<<20 - 1, 4<<20 + 2}, {1, 2<<20 + 1}, {20<<20 - 1, 4098}, {40 << 20, 4096}, {9 << 20, 65536}, {9<<20 - 1, 65537}} {
		wg.Go(func() {
			b := bytes.Repeat([]byte{0xff}, r[1])
			n, err := c.ReadAt(b, int64(r[0]))
			if err != nil || n != r[1] || !bytes.Equal(b, m.content[r[0]:][:r[1]]) {
				t.Errorf("read of %d at %d: %d bytes, %v", r[1], r[0], n, err)
			}
		})
	}
	wg.Wait()
}

func TestBlockStatusIsServedInSteps(t *testing.T) {
	m := newMemory(8 << 20)
	clear(m.content[1<<20 : 3<<20])
	clear(m.content[4<<20:][:4096])
	c := connect(t, offer(t, m.export()), "vda")
	got, err := c.BlockStatus(t.Context(), BaseAllocation, 4096, 8<<20-4096)
	hole := Hole | Zero
	want := []Extent{{4096, 1<<20 - 4096, 0}, {1 << 20, 2 << 20, hole}, {3 << 20, 1 << 20, 0}, {4 << 20, 4096, hole}, {4<<20 + 4096, 4<<20 - 4096, 0}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("status is %v, %v", got, err)
	}
}

func TestAStatusHasABoundedNumberOfRuns(t *testing.T) {
	e := Export{Name: "vda", Size: 1 << 40, Content: bytes.NewReader(nil), Extents: func(off, length int64) ([]Extent, error) {
		var out []Extent
		for at := off; at < off+length; at += 4096 {
			out = append(out, Extent{Offset: at, Length: 4096, Flags: uint32(at/4096%2) * 3})
		}
		return out, nil
	}}
	runs, err := e.status(0, 1<<32-4096, false)
	if err != nil || len(runs) > maxStatusRuns {
		t.Errorf("%d runs, %v", len(runs), err)
	}
	runs, err = e.status(0, 1<<32-4096, true)
	if err != nil || len(runs) != 1 || runs[0] != (Extent{Length: 4096}) {
		t.Errorf("one run is %v, %v", runs, err)
	}
}

func TestExtentsThatDoNotCoverAreNotBelieved(t *testing.T) {
	m := newMemory(2 << 20)
	for name, runs := range map[string][]Extent{
		"none": nil, "gap": {{0, 4096, 0}, {8192, 2<<20 - 8192, 0}}, "long": {{0, 3 << 20, 3}}, "short": {{0, 4096, 3}}, "empty": {{0, 0, 3}, {0, 2 << 20, 0}},
	} {
		e := m.export()
		e.Extents = func(int64, int64) ([]Extent, error) { return runs, nil }
		c := connect(t, offer(t, e), "vda")
		if _, err := c.ReadAt(make([]byte, 2<<20), 0); !errors.Is(err, syscall.EIO) {
			t.Errorf("%s: read %v", name, err)
		}
		if _, err := c.BlockStatus(t.Context(), BaseAllocation, 0, 2<<20); !errors.Is(err, syscall.EIO) {
			t.Errorf("%s: status %v", name, err)
		}
	}
}

// TestWhatCannotBeReadIsAnErrorAndNeverData: I4. The connection goes on, and the
// host is told.
func TestWhatCannotBeReadIsAnErrorAndNeverData(t *testing.T) {
	m := newMemory(4 << 20)
	m.bad = 3<<20 + 5
	var told []error
	var mu sync.Mutex
	e := m.export()
	e.Failed = func(err error) {
		mu.Lock()
		defer mu.Unlock()
		told = append(told, err)
	}
	c := connect(t, offer(t, e), "vda")
	for _, r := range [][2]int64{{0, 4 << 20}, {3 << 20, 4096}} {
		_, err := c.ReadAt(make([]byte, r[1]), r[0])
		var se *ServerError
		if !errors.As(err, &se) || se.Errno != syscall.EIO || !strings.Contains(se.Message, "torn") {
			t.Errorf("read of %d at %d: %v", r[1], r[0], err)
		}
	}
	if _, err := c.ReadAt(make([]byte, 4096), 0); err != nil {
		t.Errorf("the connection did not go on: %v", err)
	}
	if len(told) != 2 {
		t.Errorf("the host was told %v", told)
	}
}

func TestAWritableExportIsWrittenZeroedAndFlushed(t *testing.T) {
	m := newMemory(8 << 20)
	e := m.export()
	e.Writer = m
	socket := offer(t, e)
	c := connect(t, socket, "vda")
	data := bytes.Repeat([]byte("backstay"), 5<<17)
	if _, err := c.WriteAt(data, 4096); err != nil {
		t.Fatal(err)
	}
	if err := c.WriteZeroes(7<<20, 8192); err != nil {
		t.Fatal(err)
	}
	if err := c.Flush(); err != nil || m.flushes != 1 {
		t.Fatalf("flush: %v, %d", err, m.flushes)
	}
	if !bytes.Equal(m.content[4096:][:len(data)], data) || !allZero(m.content[7<<20:][:8192]) {
		t.Error("the disk is not as it was written")
	}
}

func TestAReadOnlyExportTakesNoWrites(t *testing.T) {
	m := newMemory(1 << 20)
	was := bytes.Clone(m.content)
	raw := rawClient(t, offer(t, m.export()), true)
	raw.send(magicRequest, uint16(0), uint16(cmdWrite), uint64(1), uint64(0), uint32(4096), make([]byte, 4096))
	raw.wantError(1, wireEPERM)
	raw.send(magicRequest, uint16(0), uint16(cmdWriteZeroes), uint64(2), uint64(0), uint32(4096))
	raw.wantError(2, wireEPERM)
	raw.send(magicRequest, uint16(0), uint16(cmdFlush), uint64(3), uint64(0), uint32(0))
	raw.want(be(uint32(magicSimple), uint32(0), uint64(3)))
	if !bytes.Equal(m.content, was) {
		t.Error("the disk was written to")
	}
}

// peer is a client that says whatever a test wants.
type peer struct {
	*testing.T
	net.Conn
}

func greet(t *testing.T, socket string) *peer {
	t.Helper()
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	p := &peer{t, conn}
	p.want(be("NBDMAGICIHAVEOPT", uint16(3)))
	p.send(uint32(3))
	return p
}

// rawClient is a peer in the transmission phase.
func rawClient(t *testing.T, socket string, structured bool) *peer {
	p := greet(t, socket)
	if structured {
		p.option(optStructuredReply)
		p.want(optReply(optStructuredReply, repAck, nil))
	}
	p.option(optExportName, "vda")
	if _, err := io.ReadFull(p, make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *peer) send(parts ...any) {
	p.Helper()
	for i, part := range parts {
		if n, ok := part.(int); ok {
			parts[i] = uint32(n)
		}
	}
	if _, err := p.Write(be(parts...)); err != nil {
		p.Fatal(err)
	}
}

func (p *peer) option(option uint32, parts ...any) {
	p.Helper()
	data := be(parts...)
	p.send(uint64(magicOption), option, uint32(len(data)), data)
}

func (p *peer) want(b []byte) {
	p.Helper()
	got := make([]byte, len(b))
	if n, err := io.ReadFull(p, got); err != nil || !bytes.Equal(got, b) {
		p.Fatalf("the server said\n%x (%v), want\n%x", got[:n], err, b)
	}
}

// wantError wants an error chunk of any text.
func (p *peer) wantError(cookie uint64, errno uint32) {
	p.Helper()
	p.want(be(uint32(magicStructured), uint16(chunkFlagDone), uint16(chunkError), cookie))
	var head struct {
		Length, Errno uint32
		Text          uint16
	}
	if err := binary.Read(p, binary.BigEndian, &head); err != nil {
		p.Fatal(err)
	}
	if _, err := io.CopyN(io.Discard, p, int64(head.Text)); err != nil || head.Errno != errno || head.Length != 6+uint32(head.Text) {
		p.Fatalf("error chunk %+v (%v), want number %d", head, err, errno)
	}
}

func (p *peer) wantGone() {
	p.Helper()
	if n, err := p.Read(make([]byte, 1)); n != 0 || err == nil {
		p.Fatalf("the server goes on (%d, %v)", n, err)
	}
}

func str(s string) []byte { return be(uint32(len(s)), s) }

func TestOptionsAreAnsweredAsTheProtocolSays(t *testing.T) {
	m := newMemory(1 << 20)
	second := m.export()
	second.Name, second.Description = "vdb", ""
	p := greet(t, offer(t, m.export(), second))
	p.option(5) // TLS
	p.want(optReply(5, repErrUnsup, nil))
	p.option(optList)
	p.want(optReply(optList, repServer, be(str("vda"), "a disk")))
	p.want(optReply(optList, repServer, str("vdb")))
	p.want(optReply(optList, repAck, nil))
	flags := uint16(transHasFlags | transReadOnly | transMultiConn)
	p.option(optInfo, str(""), uint16(0))
	p.want(optReply(optInfo, repInfo, be(uint16(infoExport), uint64(1<<20), flags)))
	p.want(optReply(optInfo, repAck, nil))
	p.option(optListMetaContext, str("vda"), uint32(0))
	p.want(optReply(optListMetaContext, repErrInvalid, be("structured replies come first")))
	p.option(optStructuredReply)
	p.want(optReply(optStructuredReply, repAck, nil))
	p.option(optListMetaContext, str("vda"), uint32(1), str("qemu:"))
	p.want(optReply(optListMetaContext, repAck, nil))
	p.option(optListMetaContext, str("vda"), uint32(1), str("base:"))
	p.want(optReply(optListMetaContext, repMetaContext, be(uint32(0), BaseAllocation)))
	p.want(optReply(optListMetaContext, repAck, nil))
	p.option(optSetMetaContext, str("nothing"), uint32(0))
	p.want(optReply(optSetMetaContext, repErrUnknown, be("no such export")))
	p.option(optSetMetaContext, str("vda"), uint32(9), str("base:allocation"))
	p.want(optReply(optSetMetaContext, repErrInvalid, be("malformed option")))
	p.option(optInfo, str("vdc"), uint16(0))
	p.want(optReply(optInfo, repErrUnknown, be("no such export")))
	p.option(optGo, str("vda"), uint16(4), uint16(infoName), uint16(infoBlockSize), uint16(infoBlockSize), uint16(77))
	p.want(optReply(optGo, repInfo, be(uint16(infoExport), uint64(1<<20), flags|transDF)))
	p.want(optReply(optGo, repInfo, be(uint16(infoName), "vda")))
	p.want(optReply(optGo, repInfo, be(uint16(infoBlockSize), uint32(1), uint32(4096), uint32(32<<20))))
	p.want(optReply(optGo, repAck, nil))
	// No context was agreed on for this export.
	p.send(magicRequest, uint16(0), uint16(cmdBlockStatus), uint64(4), uint64(0), uint32(4096))
	p.wantError(4, wireEINVAL)
	p.send(magicRequest, uint16(0), uint16(cmdDisc), uint64(5), uint64(0), uint32(0))
	p.wantGone()
}

func TestAClientThatAbortsIsLetGo(t *testing.T) {
	p := greet(t, offer(t, newMemory(4096).export()))
	p.option(optAbort)
	p.want(optReply(optAbort, repAck, nil))
	p.wantGone()
}

func TestOldAndSimpleClientsAreServed(t *testing.T) {
	m := newMemory(1<<20 + 512)
	m.bad = 1 << 20
	p := rawClient(t, offer(t, m.export()), false)
	p.send(magicRequest, uint16(0), uint16(cmdRead), uint64(9), uint64(512), uint32(100_000))
	p.want(be(uint32(magicSimple), uint32(0), uint64(9), m.content[512:][:100_000]))
	p.send(magicRequest, uint16(0), uint16(cmdRead), uint64(10), uint64(1<<20), uint32(512))
	p.want(be(uint32(magicSimple), uint32(wireEIO), uint64(10)))
	p.send(magicRequest, uint16(0), uint16(cmdRead), uint64(11), uint64(1<<20), uint32(513))
	p.want(be(uint32(magicSimple), uint32(wireEINVAL), uint64(11)))
}

func TestAReadThatMustNotBeCutComesInOneChunk(t *testing.T) {
	m := newMemory(4 << 20)
	clear(m.content[1<<20 : 2<<20])
	p := rawClient(t, offer(t, m.export()), true)
	p.send(magicRequest, uint16(cmdFlagDF), uint16(cmdRead), uint64(1), uint64(0), uint32(4<<20))
	p.want(be(uint32(magicStructured), uint16(chunkFlagDone), uint16(chunkOffsetData), uint64(1), uint32(8+4<<20), uint64(0), m.content))
	p.send(magicRequest, uint16(0), uint16(cmdRead), uint64(2), uint64(1<<20), uint32(1<<20))
	p.want(be(uint32(magicStructured), uint16(chunkFlagDone), uint16(chunkOffsetHole), uint64(2), uint32(12), uint64(1<<20), uint32(1<<20)))
	p.send(magicRequest, uint16(0), uint16(cmdRead), uint64(3), uint64(4<<20), uint32(0))
	p.want(be(uint32(magicStructured), uint16(chunkFlagDone), uint16(chunkNone), uint64(3), uint32(0)))
}

// TestWhatAClientCannotMeanIsRefused: and the connection goes on.
func TestWhatAClientCannotMeanIsRefused(t *testing.T) {
	p := rawClient(t, offer(t, newMemory(1<<20).export()), true)
	for i, bad := range [][]any{
		{uint16(0), uint16(99), uint64(0), uint32(0)},
		{uint16(1 << 9), uint16(cmdRead), uint64(0), uint32(1)},
		{uint16(0), uint16(cmdRead), uint64(1 << 63), uint32(1)},
		{uint16(0), uint16(cmdRead), ^uint64(0), ^uint32(0)},
		{uint16(0), uint16(cmdRead), uint64(1), uint32(1 << 20)},
		{uint16(0), uint16(cmdRead), uint64(0), uint32(maxRequest + 1)},
		{uint16(0), uint16(cmdBlockStatus), uint64(0), uint32(0)},
	} {
		p.send(magicRequest, bad[0], bad[1], uint64(i), bad[2], bad[3])
		p.wantError(uint64(i), wireEINVAL)
	}
}
