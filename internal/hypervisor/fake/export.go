package fake

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/backstay/backstay/internal/hypervisor"
)

// export is an NBD server in this process: as much of the protocol as a client
// of qemu-nbd uses, one request at a time for each connection.
type export struct {
	host     *Host
	listener net.Listener
	socket   string
	top      *layer
	chain    []string
	writable bool
	clients  sync.WaitGroup
	mu       sync.Mutex
	conns    map[net.Conn]bool // guarded by mu
	once     sync.Once

	// A pull's exports share the socket of the first.
	name     string
	siblings []*export
	bitmap   string // the meta context of dirty; "" for none
	dirty    map[int64]bool
}

// Export serves an image.
func (h *Host) Export(ctx context.Context, path string, o hypervisor.ExportOptions) (hypervisor.Export, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.enter(ctx, "export"); err != nil {
		return nil, err
	}
	path = absolute(path)
	if err := h.unlocks(hypervisor.Image{Location: path, Format: o.Format, Secret: o.Secret}, o.Alone); err != nil {
		return nil, err
	}
	top, err := openLayer(path, o.Format, o.Alone)
	if err != nil {
		return nil, err
	}
	chain := []string{path}
	if !o.Alone {
		chain = chainOf(path)
	}
	for i, file := range chain {
		if err := h.conflict(file, o.Writable && i == 0, ""); err != nil {
			top.close()
			return nil, err
		}
	}
	e := &export{host: h, top: top, chain: chain, writable: o.Writable, conns: map[net.Conn]bool{}}
	e.socket = filepath.Join(h.dir, strings.ToLower(rand.Text()[:8])+".sock")
	if e.listener, err = net.Listen("unix", e.socket); err != nil {
		top.close()
		return nil, err
	}
	h.exports[e] = true
	e.clients.Go(e.accept)
	return e, nil
}

func (e *export) Socket() string { return e.socket }
func (e *export) Name() string   { return "disk" }

func (e *export) Close() error {
	e.once.Do(func() {
		e.hangUp()
		e.top.close()
		_ = os.Remove(e.socket)
		e.host.mu.Lock()
		delete(e.host.exports, e)
		e.host.mu.Unlock()
	})
	return nil
}

// hangUp ends the connections and waits for them.
func (e *export) hangUp() {
	_ = e.listener.Close()
	e.mu.Lock()
	for c := range e.conns {
		_ = c.Close()
	}
	e.conns = nil
	e.mu.Unlock()
	e.clients.Wait()
}

// named is the export that a client asks for: a length comes before the name.
func (e *export) named(body []byte) *export {
	for _, s := range e.siblings {
		if len(body) >= 4 && strings.HasPrefix(string(body[4:]), s.name) {
			return s
		}
	}
	return e
}

func (e *export) accept() {
	for {
		conn, err := e.listener.Accept()
		if err != nil {
			return
		}
		e.mu.Lock()
		if e.conns == nil {
			_ = conn.Close()
		} else {
			e.conns[conn] = true
			e.clients.Go(func() {
				_ = e.serve(conn) // a client that breaks off ends here
				_ = conn.Close()
			})
		}
		e.mu.Unlock()
	}
}

func pack(parts ...any) []byte {
	var b []byte
	for _, p := range parts {
		switch v := p.(type) {
		case []byte:
			b = append(b, v...)
		case string:
			b = append(b, v...)
		default:
			b, _ = binary.Append(b, binary.BigEndian, v) // fixed-size integers: cannot fail
		}
	}
	return b
}

func (e *export) serve(c net.Conn) error {
	if _, err := c.Write(pack("NBDMAGICIHAVEOPT", uint16(3))); err != nil {
		return err
	}
	if err := binary.Read(c, binary.BigEndian, new(uint32)); err != nil {
		return err
	}
	chosen, contexts, err := e.negotiate(c)
	for err == nil {
		err = chosen.request(c, contexts)
	}
	return err
}

// negotiate answers options until the client goes on to transmission.
func (e *export) negotiate(c net.Conn) (chosen *export, contexts []string, err error) {
	for {
		var head struct {
			Magic          uint64
			Option, Length uint32
		}
		if err := binary.Read(c, binary.BigEndian, &head); err != nil {
			return nil, nil, err
		}
		if head.Length > pageSize {
			return nil, nil, fmt.Errorf("option of %d bytes", head.Length)
		}
		body := make([]byte, head.Length)
		if _, err := io.ReadFull(c, body); err != nil {
			return nil, nil, err
		}
		reply := func(kind uint32, b []byte) {
			if err == nil {
				_, err = c.Write(pack(uint64(0x3e889045565a9), head.Option, kind, uint32(len(b)), b))
			}
		}
		switch head.Option {
		case 8: // structured replies
			reply(1, nil)
		case 10: // meta contexts: ids count from 1
			for _, name := range []string{"base:allocation", "qemu:allocation-depth", e.named(body).bitmap} {
				if name != "" && strings.Contains(string(body), name) {
					contexts = append(contexts, name)
					reply(4, pack(uint32(len(contexts)), name))
				}
			}
			reply(1, nil)
		case 7: // go
			e = e.named(body)
			flags := uint16(1<<0 | 1<<2 | 1<<6)
			if !e.writable {
				flags |= 1 << 1
			}
			reply(3, pack(uint16(0), uint64(e.top.h.Size), flags))
			reply(1, nil)
			return e, contexts, err
		default:
			reply(1<<31|1, nil)
		}
		if err != nil {
			return nil, nil, err
		}
	}
}

func (e *export) request(c net.Conn, contexts []string) error {
	var r struct {
		Magic       uint32
		Flags, Kind uint16
		Cookie      uint64
		Offset      int64
		Length      uint32
	}
	if err := binary.Read(c, binary.BigEndian, &r); err != nil {
		return err
	}
	length := int64(r.Length)
	bad := r.Offset < 0 || r.Offset > e.top.h.Size || length > e.top.h.Size-r.Offset
	if r.Magic != 0x25609513 || r.Kind == 2 || ((r.Kind == 1 || r.Kind == 0) && length > 64<<20) {
		return io.EOF
	}
	buf := []byte(nil)
	if r.Kind == 1 || (r.Kind == 0 && !bad) {
		buf = make([]byte, length)
	}
	if r.Kind == 1 {
		if _, err := io.ReadFull(c, buf); err != nil {
			return err
		}
	}
	e.host.io.Lock()
	defer e.host.io.Unlock()
	failed := bad || (!e.writable && (r.Kind == 1 || r.Kind == 6))
	var chunks []byte
	switch chunk := uint16(0); {
	case failed:
	case r.Kind == 0:
		failed, chunk = e.top.readAt(buf, r.Offset) != nil, 1
		chunks = pack(uint32(0x668e33ef), uint16(1), chunk, r.Cookie, uint32(8+length), r.Offset, buf)
	case r.Kind == 1:
		failed = e.top.writeAt(buf, r.Offset) != nil
	case r.Kind == 6:
		failed = e.top.writeZeroes(r.Offset, length) != nil
	case r.Kind == 7:
		chunks = e.blockStatus(r.Cookie, r.Offset, length, contexts)
	}
	if failed {
		chunks = pack(uint32(0x668e33ef), uint16(1), uint16(1<<15|1), r.Cookie, uint32(6), uint32(22), uint16(0))
	} else if chunks == nil {
		chunks = pack(uint32(0x668e33ef), uint16(1), uint16(0), r.Cookie, uint32(0))
	}
	_, err := c.Write(chunks)
	return err
}

func (e *export) blockStatus(cookie uint64, off, length int64, contexts []string) []byte {
	var chunks []byte
	for i, name := range contexts {
		var extents []uint32
		for at := off; at < off+length; {
			page := at / pageSize
			n := uint32(min((page+1)*pageSize, off+length) - at)
			depth, zero := e.top.depth(page)
			flags := depth
			switch {
			case name == "base:allocation":
				flags = 0
				if zero {
					flags = 3
				}
			case name == e.bitmap:
				flags = 0
				if e.dirty[page] {
					flags = 1
				}
			}
			if last := len(extents) - 2; last >= 0 && extents[last+1] == flags {
				extents[last] += n
			} else {
				extents = append(extents, n, flags)
			}
			at += int64(n)
		}
		done := uint16(0)
		if i == len(contexts)-1 {
			done = 1
		}
		chunks = append(chunks, pack(uint32(0x668e33ef), done, uint16(5), cookie, uint32(4+4*len(extents)), uint32(i+1), extents)...)
	}
	return chunks
}
