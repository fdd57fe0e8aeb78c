package nbd

import (
	"bytes"
	"context"
	"net"
	"testing"
	"time"
)

// script is a connection whose client says what was written before, and takes
// whatever it gets.
type script struct {
	in  *bytes.Reader
	out int64
}

func (s *script) Read(b []byte) (int, error)       { return s.in.Read(b) }
func (s *script) Write(b []byte) (int, error)      { s.out += int64(len(b)); return len(b), nil }
func (s *script) Close() error                     { return nil }
func (s *script) LocalAddr() net.Addr              { return nil }
func (s *script) RemoteAddr() net.Addr             { return nil }
func (s *script) SetDeadline(time.Time) error      { return nil }
func (s *script) SetReadDeadline(time.Time) error  { return nil }
func (s *script) SetWriteDeadline(time.Time) error { return nil }

// discard is a writable disk that forgets.
type discard struct{ size int64 }

func (d discard) ReadAt(b []byte, off int64) (int, error) {
	if off < 0 || off+int64(len(b)) > d.size {
		panic("read outside of the disk")
	}
	clear(b)
	return len(b), nil
}

func (d discard) WriteAt(b []byte, off int64) (int, error) {
	if off < 0 || off+int64(len(b)) > d.size {
		panic("write outside of the disk")
	}
	return len(b), nil
}

func (d discard) WriteZeroes(off, length int64) error {
	if off < 0 || length < 0 || off+length > d.size {
		panic("zeroes outside of the disk")
	}
	return nil
}

func (d discard) Flush() error { return nil }

// FuzzServer: whatever a client says, the server does not panic, never touches
// what lies outside of the disk, and ends.
func FuzzServer(f *testing.F) {
	hello := be(uint32(3))
	option := func(n uint32, parts ...any) []byte {
		data := be(parts...)
		return be(uint64(magicOption), n, uint32(len(data)), data)
	}
	ask := func(flags, kind uint16, offset uint64, length uint32) []byte {
		return be(uint32(magicRequest), flags, kind, uint64(1), offset, length)
	}
	begin := be(hello, option(optStructuredReply), option(optSetMetaContext, str("vda"), uint32(1), str(BaseAllocation)), option(optGo, str("vda"), uint16(1), uint16(infoBlockSize)))
	f.Add(be(hello, option(optExportName, "vda"), ask(0, cmdRead, 0, 4096)))
	f.Add(be(hello, option(optList), option(optListMetaContext, str(""), uint32(0)), option(optAbort)))
	f.Add(be(begin, ask(0, cmdRead, 0, 1<<20), ask(cmdFlagDF, cmdRead, 4096, 70000), ask(cmdFlagReqOne, cmdBlockStatus, 0, 1<<20), ask(0, cmdDisc, 0, 0)))
	f.Add(be(begin, ask(cmdFlagFUA, cmdWrite, 512, 8), "backstay", ask(0, cmdWriteZeroes, 0, 4096), ask(0, cmdFlush, 0, 0)))
	f.Add(be(begin, ask(0, cmdRead, 1<<63, 1), ask(0, cmdWrite, ^uint64(0), ^uint32(0))))
	f.Fuzz(func(_ *testing.T, said []byte) {
		d := discard{1 << 20}
		s := &service{conns: map[net.Conn]struct{}{}, exports: []Export{{Name: "vda", Size: d.size, Content: d, Writer: d,
			Extents: func(off, length int64) ([]Extent, error) {
				if off < 0 || length <= 0 || off+length > d.size {
					panic("extents outside of the disk")
				}
				return []Extent{{Offset: off, Length: length, Flags: uint32(off/4096%2) * (Hole | Zero)}}, nil
			}}}}
		s.serve(context.Background(), &script{in: bytes.NewReader(said)})
	})
}
