package nbd

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// be packs integers, strings and bytes big-endian.
func be(parts ...any) []byte {
	var b []byte
	for _, p := range parts {
		switch v := p.(type) {
		case []byte:
			b = append(b, v...)
		case string:
			b = append(b, v...)
		default:
			var err error
			if b, err = binary.Append(b, binary.BigEndian, v); err != nil {
				panic(err)
			}
		}
	}
	return b
}

type request struct {
	kind   uint16
	cookie uint64
	off    int64
	length uint32
	data   []byte
}

// server is one connection's other end.
type server struct {
	net.Conn
	size     uint64
	flags    uint16
	maxBlock uint32 // 0: not announced
	simple   bool   // refuses structured replies
	// options answers an option instead of the usual; nil bytes mean the usual.
	options func(option uint32) []byte
}

func optReply(option, kind uint32, body []byte) []byte {
	return be(uint64(magicOptReply), option, kind, uint32(len(body)), body)
}

func (s *server) handshake() error {
	if _, err := s.Write(be("NBDMAGICIHAVEOPT", uint16(3))); err != nil {
		return err
	}
	if err := binary.Read(s, binary.BigEndian, new(uint32)); err != nil {
		return err
	}
	for {
		var head struct {
			Magic          uint64
			Option, Length uint32
		}
		if err := binary.Read(s, binary.BigEndian, &head); err != nil {
			return err
		}
		if _, err := io.CopyN(io.Discard, s, int64(head.Length)); err != nil {
			return err
		}
		var answer []byte
		if s.options != nil {
			answer = s.options(head.Option)
		}
		if answer == nil {
			answer = s.usual(head.Option)
		}
		if _, err := s.Write(answer); err != nil {
			return err
		}
		if head.Option == optGo {
			return nil
		}
	}
}

func (s *server) usual(option uint32) []byte {
	switch {
	case option == optStructuredReply && !s.simple:
		return optReply(option, repAck, nil)
	case option == optSetMetaContext:
		return append(optReply(option, repMetaContext, be(uint32(7), BaseAllocation)), optReply(option, repAck, nil)...)
	case option == optGo:
		b := optReply(option, repInfo, be(uint16(infoExport), s.size, s.flags|transHasFlags))
		if s.maxBlock != 0 {
			b = append(b, optReply(option, repInfo, be(uint16(infoBlockSize), uint32(1), uint32(4096), s.maxBlock))...)
		}
		return append(b, optReply(option, repAck, nil)...)
	}
	return optReply(option, repErrBit|1, nil)
}

func (s *server) read() (request, error) {
	var head struct {
		Magic       uint32
		Flags, Kind uint16
		Cookie      uint64
		Off         int64
		Length      uint32
	}
	if err := binary.Read(s, binary.BigEndian, &head); err != nil {
		return request{}, err
	}
	r := request{kind: head.Kind, cookie: head.Cookie, off: head.Off, length: head.Length}
	if r.kind == cmdDisc {
		return r, io.EOF
	}
	if r.kind == cmdWrite {
		r.data = make([]byte, r.length)
		_, err := io.ReadFull(s, r.data)
		return r, err
	}
	return r, nil
}

// chunk is one structured reply.
func chunk(done bool, kind uint16, cookie uint64, parts ...any) []byte {
	body := be(parts...)
	flags := uint16(0)
	if done {
		flags = chunkFlagDone
	}
	return be(uint32(magicStructured), flags, kind, cookie, uint32(len(body)), body)
}

// dial connects a client to a server that runs after the handshake, and checks
// that nothing of the client is left at the end.
func dial(t *testing.T, s *server, run func(*server)) *Client {
	t.Helper()
	c, err := tryDial(t, s, run)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func tryDial(t *testing.T, s *server, run func(*server)) (*Client, error) {
	t.Helper()
	t.Cleanup(func() { goleak.VerifyNone(t) })
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		s.Conn = conn
		if s.handshake() == nil && run != nil {
			run(s)
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	c, err := Dial(ctx, socket, "disk", Options{})
	t.Cleanup(func() {
		if c != nil {
			_ = c.Close()
		}
		_ = l.Close()
		wg.Wait()
	})
	return c, err
}

// disk answers requests rightly from memory until the client goes.
func disk(content []byte, seen func(request)) func(*server) {
	return func(s *server) {
		for {
			r, err := s.read()
			if err != nil {
				return
			}
			if seen != nil {
				seen(r)
			}
			answer := chunk(true, chunkNone, r.cookie)
			switch r.kind {
			case cmdRead:
				answer = chunk(true, chunkOffsetData, r.cookie, r.off, content[r.off:r.off+int64(r.length)])
			case cmdWrite:
				copy(content[r.off:], r.data)
			case cmdWriteZeroes:
				clear(content[r.off : r.off+int64(r.length)])
			}
			if _, err := s.Write(answer); err != nil {
				return
			}
		}
	}
}

func TestReadsAndWritesAreSplitAtTheServersMaximum(t *testing.T) {
	content := make([]byte, 300<<10)
	for i := range content {
		content[i] = byte(i * 7)
	}
	want := bytes.Clone(content)
	c := dial(t, &server{size: uint64(len(content)), flags: transFlush, maxBlock: 64 << 10}, disk(content, func(r request) {
		if r.length > 64<<10 {
			t.Errorf("request of %d bytes", r.length)
		}
	}))
	got := make([]byte, 200<<10)
	if n, err := c.ReadAt(got, 50<<10); err != nil || n != len(got) || !bytes.Equal(got, want[50<<10:250<<10]) {
		t.Fatalf("read %d bytes, %v", n, err)
	}
	if _, err := c.WriteAt(bytes.Repeat([]byte{9}, 150<<10), 100<<10); err != nil {
		t.Fatal(err)
	}
	if err := c.WriteZeroes(0, 10<<10); err != nil { // the server has no such command
		t.Fatal(err)
	}
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	copy(want[100<<10:], bytes.Repeat([]byte{9}, 150<<10))
	clear(want[:10<<10])
	if !bytes.Equal(content, want) {
		t.Error("the server holds something else")
	}
}

func TestReadingBehindTheEndIsEOFAndWritingThereIsRefused(t *testing.T) {
	c := dial(t, &server{size: 1000}, disk(make([]byte, 1000), nil))
	if n, err := c.ReadAt(make([]byte, 100), 950); n != 50 || !errors.Is(err, io.EOF) {
		t.Errorf("got %d, %v", n, err)
	}
	if n, err := c.ReadAt(make([]byte, 1), 1000); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("got %d, %v", n, err)
	}
	if _, err := c.ReadAt(make([]byte, 1), -1); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("got %v", err)
	}
	for _, off := range []int64{-1, 991, 1 << 62} {
		if _, err := c.WriteAt(make([]byte, 10), off); err == nil {
			t.Errorf("wrote at %d", off)
		}
		if _, err := c.BlockStatus(t.Context(), BaseAllocation, off, 10); err == nil {
			t.Errorf("status at %d", off)
		}
	}
}

func TestAReadOnlyExportIsNotWritten(t *testing.T) {
	c := dial(t, &server{size: 1000, flags: transReadOnly}, disk(make([]byte, 1000), func(r request) { t.Errorf("request %v", r) }))
	_, err := c.WriteAt([]byte{1}, 0)
	if !errors.Is(err, ErrReadOnly) || !errors.Is(c.WriteZeroes(0, 1), ErrReadOnly) {
		t.Errorf("got %v", err)
	}
}

func TestManyRequestsAreAnsweredInAnyOrder(t *testing.T) {
	const n = 32
	c := dial(t, &server{size: n << 12}, func(s *server) {
		var all []request
		for range n {
			r, err := s.read()
			if err != nil {
				t.Error(err)
				return
			}
			all = append(all, r)
		}
		for i := n - 1; i >= 0; i-- { // the first halves of all, then the second halves
			r := all[i]
			_, _ = s.Write(chunk(false, chunkOffsetData, r.cookie, r.off+2048, bytes.Repeat([]byte{byte(r.off >> 12)}, 2048)))
		}
		for _, r := range all {
			_, _ = s.Write(chunk(true, chunkOffsetHole, r.cookie, r.off, uint32(2048)))
		}
		_, _ = s.read()
	})
	var wg sync.WaitGroup
	for i := range int64(n) {
		wg.Go(func() {
			p := bytes.Repeat([]byte{0xee}, 4096)
			_, err := c.ReadAt(p, i<<12)
			if err != nil || !bytes.Equal(p, append(make([]byte, 2048), bytes.Repeat([]byte{byte(i)}, 2048)...)) {
				t.Errorf("read %d: %v", i, err)
			}
		})
	}
	wg.Wait()
}

func TestAServersErrorIsTheRequestsAndTheConnectionGoesOn(t *testing.T) {
	c := dial(t, &server{size: 8192, flags: transWriteZeroes}, func(s *server) {
		r, _ := s.read()
		_, _ = s.Write(chunk(true, chunkErrorOffset, r.cookie, uint32(5), uint16(4), "oops", r.off))
		r, _ = s.read()
		_, _ = s.Write(be(uint32(magicSimple), uint32(28), r.cookie))
		disk(make([]byte, 8192), nil)(s)
	})
	_, err := c.ReadAt(make([]byte, 10), 0)
	var answer *ServerError
	if !errors.As(err, &answer) || !errors.Is(err, syscall.EIO) || answer.Message != "oops" {
		t.Errorf("got %v", err)
	}
	if err := c.WriteZeroes(0, 100); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("got %v", err)
	}
	if _, err := c.ReadAt(make([]byte, 10), 0); err != nil {
		t.Error(err)
	}
}

func TestSimpleRepliesAreEnoughToReadAndWrite(t *testing.T) {
	c := dial(t, &server{size: 4096, simple: true}, func(s *server) {
		for {
			r, err := s.read()
			if err != nil {
				return
			}
			b := be(uint32(magicSimple), uint32(0), r.cookie)
			if r.kind == cmdRead {
				b = append(b, bytes.Repeat([]byte{3}, int(r.length))...)
			}
			_, _ = s.Write(b)
		}
	})
	p := make([]byte, 4096)
	if _, err := c.ReadAt(p, 0); err != nil || p[4095] != 3 {
		t.Errorf("got %v", err)
	}
	if _, err := c.WriteAt(p, 0); err != nil {
		t.Error(err)
	}
	if _, err := c.BlockStatus(t.Context(), BaseAllocation, 0, 10); !errors.Is(err, ErrNoContext) {
		t.Errorf("got %v", err)
	}
}

func TestBlockStatusCoversWhatWasAskedInOrder(t *testing.T) {
	const size = 3 << 30
	c := dial(t, &server{size: size}, func(s *server) {
		for {
			r, err := s.read()
			if err != nil {
				return
			}
			// Two equal neighbours, then one that reaches behind the end.
			_, _ = s.Write(chunk(true, chunkBlockStatus, r.cookie, uint32(7), uint32(4096), uint32(0), uint32(4096), uint32(0), uint32(1<<31), uint32(3)))
		}
	})
	got, err := c.BlockStatus(t.Context(), BaseAllocation, 1<<20, size-1<<20)
	if err != nil {
		t.Fatal(err)
	}
	at := int64(1 << 20)
	for i, e := range got {
		if e.Offset != at || e.Length <= 0 || (i > 0 && got[i-1].Flags == e.Flags) {
			t.Fatalf("extent %d is %+v", i, e)
		}
		at += e.Length
	}
	if at != size || got[0].Length != 8192 {
		t.Errorf("covers up to %d: %v", at, got)
	}
	if _, err := c.BlockStatus(t.Context(), AllocationDepth, 0, 1); !errors.Is(err, ErrNoContext) {
		t.Errorf("got %v", err)
	}
}

func TestAReplyThatBreaksTheProtocolEndsTheConnection(t *testing.T) {
	type reply func(r request) []byte
	for name, bad := range map[string]struct {
		status bool // the request is a block status, not a read of 4096 bytes at 4096
		reply  reply
	}{
		"unknown start":          {false, func(r request) []byte { return be(uint32(0xdeadbeef), make([]byte, 64)) }},
		"simple reply to nobody": {false, func(r request) []byte { return be(uint32(magicSimple), uint32(0), r.cookie+1, make([]byte, 4096)) }},
		"chunk to nobody":        {false, func(r request) []byte { return chunk(true, chunkOffsetData, r.cookie+1, r.off, make([]byte, 4096)) }},
		"data before the buffer": {false, func(r request) []byte { return chunk(true, chunkOffsetData, r.cookie, r.off-1, make([]byte, 4096)) }},
		"data behind the buffer": {false, func(r request) []byte { return chunk(true, chunkOffsetData, r.cookie, r.off+1, make([]byte, 4096)) }},
		"data far away":          {false, func(r request) []byte { return chunk(true, chunkOffsetData, r.cookie, uint64(1)<<63, make([]byte, 1)) }},
		"more data than asked":   {false, func(r request) []byte { return chunk(true, chunkOffsetData, r.cookie, r.off, make([]byte, 4097)) }},
		"a length of 4 GiB": {false, func(r request) []byte {
			return be(uint32(magicStructured), uint16(1), uint16(chunkOffsetData), r.cookie, uint32(0xffffffff), r.off)
		}},
		"data without an offset": {false, func(r request) []byte { return chunk(true, chunkOffsetData, r.cookie, uint32(1)) }},
		"less data than asked":   {false, func(r request) []byte { return chunk(true, chunkOffsetData, r.cookie, r.off, make([]byte, 4095)) }},
		"no data at all":         {false, func(r request) []byte { return chunk(true, chunkNone, r.cookie) }},
		"hole outside":           {false, func(r request) []byte { return chunk(true, chunkOffsetHole, r.cookie, r.off+4095, uint32(2)) }},
		"empty hole":             {false, func(r request) []byte { return chunk(false, chunkOffsetHole, r.cookie, r.off, uint32(0)) }},
		"hole of an odd size":    {false, func(r request) []byte { return chunk(true, chunkOffsetHole, r.cookie, r.off, uint64(2)) }},
		"block status to a read": {false, func(r request) []byte {
			return chunk(true, chunkBlockStatus, r.cookie, uint32(7), uint32(4096), uint32(0))
		}},
		"unknown kind":            {false, func(r request) []byte { return chunk(true, 77, r.cookie) }},
		"error without an error":  {false, func(r request) []byte { return chunk(true, chunkError, r.cookie, uint32(0), uint16(0)) }},
		"error cut short":         {false, func(r request) []byte { return chunk(true, chunkError, r.cookie, uint32(5)) }},
		"message longer than all": {false, func(r request) []byte { return chunk(true, chunkError, r.cookie, uint32(5), uint16(100), "x") }},
		"overlapping chunks": {false, func(r request) []byte {
			return append(chunk(false, chunkOffsetData, r.cookie, r.off, make([]byte, 3000)), chunk(true, chunkOffsetData, r.cookie, r.off+2000, make([]byte, 1096))...)
		}},
		"the same chunk twice": {false, func(r request) []byte {
			return append(chunk(false, chunkOffsetHole, r.cookie, r.off, uint32(2048)), chunk(true, chunkOffsetHole, r.cookie, r.off, uint32(2048))...)
		}},
		"simple reply after chunks": {false, func(r request) []byte {
			return append(chunk(false, chunkOffsetHole, r.cookie, r.off, uint32(2048)), be(uint32(magicSimple), uint32(0), r.cookie, make([]byte, 4096))...)
		}},
		"data to a block status":         {true, func(r request) []byte { return chunk(true, chunkOffsetData, r.cookie, r.off, make([]byte, 10)) }},
		"simple reply to a block status": {true, func(r request) []byte { return be(uint32(magicSimple), uint32(0), r.cookie) }},
		"empty extent": {true, func(r request) []byte {
			return chunk(true, chunkBlockStatus, r.cookie, uint32(7), uint32(0), uint32(0))
		}},
		"half an extent": {true, func(r request) []byte {
			return chunk(true, chunkBlockStatus, r.cookie, uint32(7), uint32(9), uint32(0), uint32(1))
		}},
		"no extent": {true, func(r request) []byte { return chunk(true, chunkBlockStatus, r.cookie, uint32(7)) }},
		"another context": {true, func(r request) []byte {
			return chunk(true, chunkBlockStatus, r.cookie, uint32(8), uint32(4096), uint32(0))
		}},
		"no context": {true, func(r request) []byte { return chunk(true, chunkNone, r.cookie) }},
		"status of 1 GiB": {true, func(r request) []byte {
			return be(uint32(magicStructured), uint16(1), uint16(chunkBlockStatus), r.cookie, uint32(1<<30+4))
		}},
		"status twice": {true, func(r request) []byte {
			b := chunk(false, chunkBlockStatus, r.cookie, uint32(7), uint32(4096), uint32(0))
			return append(b, chunk(true, chunkBlockStatus, r.cookie, uint32(7), uint32(4096), uint32(0))...)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			c := dial(t, &server{size: 1 << 20}, func(s *server) {
				r, err := s.read()
				if err != nil {
					t.Error(err)
					return
				}
				_, _ = s.Write(bad.reply(r))
				_, _ = io.Copy(io.Discard, s) // does not hang up by itself
			})
			var err error
			if bad.status {
				_, err = c.BlockStatus(t.Context(), BaseAllocation, 4096, 4096)
			} else {
				_, err = c.ReadAt(make([]byte, 4096), 4096)
			}
			if !errors.Is(err, ErrProtocol) || !errors.Is(err, ErrClosed) {
				t.Fatalf("got %v", err)
			}
			if _, err := c.ReadAt(make([]byte, 1), 0); !errors.Is(err, ErrClosed) {
				t.Errorf("the connection goes on: %v", err)
			}
		})
	}
}

func TestAHandshakeThatBreaksTheProtocolIsRefused(t *testing.T) {
	info := func(size uint64) []byte { return optReply(optGo, repInfo, be(uint16(infoExport), size, uint16(1))) }
	ack := optReply(optGo, repAck, nil)
	blocks := func(least, most uint32) []byte {
		return append(info(1), optReply(optGo, repInfo, be(uint16(infoBlockSize), least, least, most))...)
	}
	for name, bad := range map[string]struct {
		option uint32
		answer []byte
	}{
		"reply of 4 GiB":           {optGo, be(uint64(magicOptReply), uint32(optGo), uint32(repInfo), uint32(0xffffffff))},
		"reply to another option":  {optGo, append(optReply(optStructuredReply, repAck, nil), ack...)},
		"wrong start":              {optGo, be(uint64(1), uint32(optGo), uint32(repAck), uint32(0))},
		"no description":           {optGo, ack},
		"negative size":            {optGo, append(info(1<<63), ack...)},
		"short description":        {optGo, optReply(optGo, repInfo, be(uint16(infoExport), uint32(1)))},
		"refusal":                  {optGo, optReply(optGo, repErrBit|6, []byte("no such export"))},
		"smallest block of 3":      {optGo, blocks(3, 4096)},
		"smallest block of 0":      {optGo, blocks(0, 4096)},
		"largest below smallest":   {optGo, blocks(4096, 512)},
		"information without end":  {optGo, bytes.Repeat(info(1), 100)},
		"a context nobody wanted":  {optSetMetaContext, optReply(optSetMetaContext, repMetaContext, be(uint32(1), "x:y"))},
		"a context that is no one": {optSetMetaContext, optReply(optSetMetaContext, repMetaContext, []byte{1})},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := tryDial(t, &server{size: 1, options: func(option uint32) []byte {
				if option == bad.option {
					return bad.answer
				}
				return nil
			}}, nil)
			if err == nil || errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestAConnectionThatIsCutFailsWhatWaits(t *testing.T) {
	for cut := range 21 { // inside the header, and inside the data
		t.Run(fmt.Sprint(cut), func(t *testing.T) {
			c := dial(t, &server{size: 1 << 20}, func(s *server) {
				r, _ := s.read()
				_, _ = s.Write(chunk(true, chunkOffsetData, r.cookie, r.off, make([]byte, 4096))[:cut*2])
			})
			n, err := c.ReadAt(make([]byte, 4096), 0)
			if n != 0 || !errors.Is(err, ErrClosed) || errors.Is(err, io.EOF) {
				t.Errorf("got %d, %v", n, err)
			}
		})
	}
}

func TestCloseReleasesCallsThatWait(t *testing.T) {
	waiting := make(chan struct{})
	c := dial(t, &server{size: 1 << 30}, func(s *server) {
		_, _ = s.read()
		close(waiting)
		_, _ = io.Copy(io.Discard, s)
	})
	go func() {
		<-waiting
		_ = c.Close()
	}()
	if _, err := c.ReadAt(make([]byte, 10), 0); !errors.Is(err, ErrClosed) {
		t.Errorf("got %v", err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

func TestASilentServerHoldsNobodyBeyondTheContext(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	c := dial(t, &server{size: 1 << 30}, func(s *server) { _, _ = io.Copy(io.Discard, s) })
	if _, err := c.BlockStatus(ctx, BaseAllocation, 0, 100); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	ours, theirs := net.Pipe()
	defer theirs.Close()
	if _, err := newClient(ctx, ours, "x", Options{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}
