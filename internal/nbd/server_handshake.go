package nbd

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
)

// errEnough ends a connection that has no export and wants none.
var errEnough = errors.New("client left")

// session is one connection of a client.
type session struct {
	service *service
	conn    net.Conn
	in      *bufio.Reader // owned by the goroutine that serves the connection

	// What was negotiated; written in the handshake only.
	export     *Export
	noZeroes   bool
	structured bool
	mapped     *Export // the export for which base:allocation was agreed on, or nil

	transmission
}

func newSession(s *service, conn net.Conn) *session {
	c := &session{service: s, conn: conn, in: bufio.NewReaderSize(conn, 64<<10)}
	c.transmission.init()
	return c
}

// contextID is the number of base:allocation in replies.
const contextID = 1

// negotiate speaks fixed newstyle until the client has chosen an export.
func (c *session) negotiate() error {
	hello := binary.BigEndian.AppendUint64(nil, magicInit)
	hello = binary.BigEndian.AppendUint64(hello, magicOption)
	hello = binary.BigEndian.AppendUint16(hello, handshakeFixedNewstyle|handshakeNoZeroes)
	if _, err := c.conn.Write(hello); err != nil {
		return err
	}
	var flags [4]byte
	if _, err := io.ReadFull(c.in, flags[:]); err != nil {
		return err
	}
	known := uint32(handshakeFixedNewstyle | handshakeNoZeroes)
	chosen := binary.BigEndian.Uint32(flags[:])
	if chosen&^known != 0 {
		return fmt.Errorf("%w: handshake flags %#x", ErrProtocol, chosen)
	}
	c.noZeroes = chosen&handshakeNoZeroes != 0
	for range maxOptions {
		option, data, err := c.readOption()
		if err != nil {
			return err
		}
		if err := c.answerOption(option, data); err != nil || c.export != nil {
			return err
		}
	}
	return fmt.Errorf("%w: no end of options", ErrProtocol)
}

// readOption reads one option. Data that is too long to be anything of use is
// left unread and nil, with an error that ends the connection.
func (c *session) readOption() (option uint32, data []byte, err error) {
	var head [16]byte
	if _, err := io.ReadFull(c.in, head[:]); err != nil {
		return 0, nil, err
	}
	option = binary.BigEndian.Uint32(head[8:])
	length := binary.BigEndian.Uint32(head[12:])
	if binary.BigEndian.Uint64(head[:]) != magicOption {
		return 0, nil, fmt.Errorf("%w: option starts with %x", ErrProtocol, head[:8])
	}
	if length > maxOptionData {
		err := c.reply(option, repErrTooBig, []byte("option is too long"))
		return 0, nil, errors.Join(fmt.Errorf("%w: option of %d bytes", ErrProtocol, length), err)
	}
	data = make([]byte, length)
	if _, err := io.ReadFull(c.in, data); err != nil {
		return 0, nil, err
	}
	return option, data, nil
}

// answerOption answers one option; c.export is set when it was the last.
func (c *session) answerOption(option uint32, data []byte) error {
	switch option {
	case optExportName:
		return c.exportName(string(data))
	case optAbort:
		return errors.Join(c.reply(option, repAck, nil), errEnough)
	case optList:
		return c.list(data)
	case optInfo, optGo:
		return c.info(option, data)
	case optStructuredReply:
		if len(data) > 0 {
			return c.reply(option, repErrInvalid, []byte("this option has no data"))
		}
		c.structured = true
		return c.reply(option, repAck, nil)
	case optListMetaContext, optSetMetaContext:
		return c.metaContexts(option, data)
	}
	return c.reply(option, repErrUnsup, nil)
}

// exportName is the old way to choose: it has no reply to say no with.
func (c *session) exportName(name string) error {
	e := c.service.find(name)
	if e == nil {
		return fmt.Errorf("no export %q", clip(name))
	}
	b := binary.BigEndian.AppendUint64(nil, uint64(e.Size))
	b = binary.BigEndian.AppendUint16(b, e.transmissionFlags(c.structured))
	if !c.noZeroes {
		b = append(b, make([]byte, 124)...)
	}
	if _, err := c.conn.Write(b); err != nil {
		return err
	}
	c.export = e
	return nil
}

func (c *session) list(data []byte) error {
	if len(data) > 0 {
		return c.reply(optList, repErrInvalid, []byte("this option has no data"))
	}
	for _, e := range c.service.exports {
		if err := c.reply(optList, repServer, append(appendString(nil, e.Name), e.Description...)); err != nil {
			return err
		}
	}
	return c.reply(optList, repAck, nil)
}

// info answers what is wanted to be known of an export, and begins with it if
// the option is go.
func (c *session) info(option uint32, data []byte) error {
	name, rest, ok := cutString(data)
	if !ok || len(rest) < 2 || len(rest) != 2+2*int(binary.BigEndian.Uint16(rest)) {
		return c.reply(option, repErrInvalid, []byte("malformed option"))
	}
	e := c.service.find(name)
	if e == nil {
		return c.reply(option, repErrUnknown, []byte("no such export"))
	}
	about := map[uint16][]byte{
		infoExport:      binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint64(nil, uint64(e.Size)), e.transmissionFlags(c.structured)),
		infoName:        []byte(e.Name),
		infoDescription: []byte(e.Description),
		infoBlockSize:   blockSizeInfo(),
	}
	wanted := []uint16{infoExport}
	for rest = rest[2:]; len(rest) > 0; rest = rest[2:] {
		wanted = append(wanted, binary.BigEndian.Uint16(rest))
	}
	for _, kind := range wanted {
		body, ok := about[kind]
		if !ok || kind == infoDescription && len(body) == 0 {
			continue
		}
		delete(about, kind) // each once, however often it is asked for
		if err := c.reply(option, repInfo, append(binary.BigEndian.AppendUint16(nil, kind), body...)); err != nil {
			return err
		}
	}
	if err := c.reply(option, repAck, nil); err != nil {
		return err
	}
	if option == optGo {
		c.export = e
	}
	return nil
}

func blockSizeInfo() []byte {
	b := binary.BigEndian.AppendUint32(nil, 1)
	b = binary.BigEndian.AppendUint32(b, 4096)
	return binary.BigEndian.AppendUint32(b, maxRequest)
}

// metaContexts lists or agrees on the one context that we serve.
func (c *session) metaContexts(option uint32, data []byte) error {
	if !c.structured {
		return c.reply(option, repErrInvalid, []byte("structured replies come first"))
	}
	if option == optSetMetaContext {
		c.mapped = nil // whatever was agreed on before
	}
	name, queries, ok := parseQueries(data)
	if !ok {
		return c.reply(option, repErrInvalid, []byte("malformed option"))
	}
	e := c.service.find(name)
	if e == nil {
		return c.reply(option, repErrUnknown, []byte("no such export"))
	}
	serves := option == optListMetaContext && len(queries) == 0
	for _, q := range queries {
		serves = serves || q == BaseAllocation || option == optListMetaContext && q == "base:"
	}
	if serves {
		id := uint32(0) // in a list it means nothing
		if option == optSetMetaContext {
			c.mapped, id = e, contextID
		}
		if err := c.reply(option, repMetaContext, append(binary.BigEndian.AppendUint32(nil, id), BaseAllocation...)); err != nil {
			return err
		}
	}
	return c.reply(option, repAck, nil)
}

func parseQueries(data []byte) (name string, queries []string, ok bool) {
	name, data, ok = cutString(data)
	if !ok || len(data) < 4 {
		return "", nil, false
	}
	n := binary.BigEndian.Uint32(data)
	for data = data[4:]; n > 0; n-- {
		var q string
		if q, data, ok = cutString(data); !ok {
			return "", nil, false
		}
		queries = append(queries, q)
	}
	return name, queries, len(data) == 0
}

// cutString reads a length and as many bytes.
func cutString(data []byte) (s string, rest []byte, ok bool) {
	if len(data) < 4 {
		return "", nil, false
	}
	n := binary.BigEndian.Uint32(data)
	if data = data[4:]; n > maxString || int(n) > len(data) {
		return "", nil, false
	}
	return string(data[:n]), data[n:], true
}

// reply sends one reply to an option.
func (c *session) reply(option, kind uint32, data []byte) error {
	b := binary.BigEndian.AppendUint64(nil, magicOptReply)
	b = binary.BigEndian.AppendUint32(b, option)
	b = binary.BigEndian.AppendUint32(b, kind)
	b = binary.BigEndian.AppendUint32(b, uint32(len(data)))
	_, err := c.conn.Write(append(b, data...))
	return err
}
