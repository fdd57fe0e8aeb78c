package nbd

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"
)

// handshake speaks fixed newstyle up to the transmission phase.
func (c *Client) handshake(export string, contexts []string) error {
	if len(export) > maxString {
		return fmt.Errorf("name of %d bytes is too long", len(export))
	}
	var hello struct {
		Init, Option uint64
		Flags        uint16
	}
	if err := binary.Read(c.conn, binary.BigEndian, &hello); err != nil {
		return fmt.Errorf("read greeting: %w", err)
	}
	if hello.Init != magicInit || hello.Option != magicOption || hello.Flags&handshakeFixedNewstyle == 0 {
		return fmt.Errorf("%w: not a fixed newstyle server", ErrProtocol)
	}
	flags := uint32(hello.Flags & (handshakeFixedNewstyle | handshakeNoZeroes))
	if err := binary.Write(c.conn, binary.BigEndian, flags); err != nil {
		return fmt.Errorf("answer greeting: %w", err)
	}
	structured, err := c.negotiateStructured()
	if err != nil {
		return err
	}
	if structured && len(contexts) > 0 {
		if err := c.negotiateContexts(export, contexts); err != nil {
			return err
		}
	}
	return c.negotiateGo(export)
}

func (c *Client) negotiateStructured() (bool, error) {
	if err := c.sendOption(optStructuredReply, nil); err != nil {
		return false, err
	}
	kind, _, err := c.optionReply(optStructuredReply)
	if err != nil {
		return false, err
	}
	return kind == repAck, nil // an error reply means: simple replies only
}

func (c *Client) negotiateContexts(export string, contexts []string) error {
	data := appendString(nil, export)
	data = binary.BigEndian.AppendUint32(data, uint32(len(contexts)))
	wanted := map[string]bool{}
	for _, name := range contexts {
		data = appendString(data, name)
		wanted[name] = true
	}
	if err := c.sendOption(optSetMetaContext, data); err != nil {
		return err
	}
	for {
		kind, body, err := c.optionReply(optSetMetaContext)
		switch {
		case err != nil:
			return err
		case kind == repAck:
			return nil
		case kind&repErrBit != 0:
			clear(c.contexts) // none is served; BlockStatus will say so
			return nil
		case kind != repMetaContext || len(body) < 4:
			return fmt.Errorf("%w: reply %d to the meta context option", ErrProtocol, kind)
		}
		name := string(body[4:])
		if _, twice := c.contexts[name]; twice || !wanted[name] {
			return fmt.Errorf("%w: meta context %q was not asked for, or comes twice", ErrProtocol, clip(name))
		}
		c.contexts[name] = binary.BigEndian.Uint32(body)
	}
}

func (c *Client) negotiateGo(export string) error {
	data := appendString(nil, export)
	data = binary.BigEndian.AppendUint16(data, 1)
	data = binary.BigEndian.AppendUint16(data, infoBlockSize)
	if err := c.sendOption(optGo, data); err != nil {
		return err
	}
	// Each kind of information comes once; a server that keeps talking is cut off.
	for described, replies := false, 0; replies < 64; replies++ {
		kind, body, err := c.optionReply(optGo)
		switch {
		case err != nil:
			return err
		case kind == repAck && described:
			return nil
		case kind == repAck:
			return fmt.Errorf("%w: the export was not described", ErrProtocol)
		case kind&repErrBit != 0:
			return fmt.Errorf("server refused (reply %#x): %s", kind, clip(string(body)))
		case kind != repInfo || len(body) < 2:
			return fmt.Errorf("%w: reply %d to the go option", ErrProtocol, kind)
		}
		switch binary.BigEndian.Uint16(body) {
		case infoExport:
			described = true
			err = c.exportInfo(body[2:])
		case infoBlockSize:
			err = c.blockSizes(body[2:])
		}
		if err != nil {
			return err
		}
	}
	return fmt.Errorf("%w: no end of information", ErrProtocol)
}

func (c *Client) exportInfo(body []byte) error {
	if len(body) != 10 {
		return fmt.Errorf("%w: export information of %d bytes", ErrProtocol, len(body))
	}
	size := binary.BigEndian.Uint64(body)
	if size > math.MaxInt64 {
		return fmt.Errorf("%w: export of %d bytes", ErrProtocol, size)
	}
	c.size = int64(size)
	if c.flags = binary.BigEndian.Uint16(body[8:]); c.flags&transHasFlags == 0 {
		c.flags = 0
	}
	return nil
}

func (c *Client) blockSizes(body []byte) error {
	if len(body) != 12 {
		return fmt.Errorf("%w: block sizes of %d bytes", ErrProtocol, len(body))
	}
	least, most := binary.BigEndian.Uint32(body), binary.BigEndian.Uint32(body[8:])
	if least == 0 || least&(least-1) != 0 || least > 64<<10 || most < max(least, smallestMax) {
		return fmt.Errorf("%w: block sizes from %d to %d", ErrProtocol, least, most)
	}
	c.minBlock = int(least)
	most = min(most, defaultMaxBlock)
	c.maxBlock = int(most - most%least)
	return nil
}

func (c *Client) sendOption(option uint32, data []byte) error {
	b := binary.BigEndian.AppendUint64(nil, magicOption)
	b = binary.BigEndian.AppendUint32(b, option)
	b = binary.BigEndian.AppendUint32(b, uint32(len(data)))
	if _, err := c.conn.Write(append(b, data...)); err != nil {
		return fmt.Errorf("send option %d: %w", option, err)
	}
	return nil
}

func (c *Client) optionReply(option uint32) (kind uint32, body []byte, err error) {
	var head struct {
		Magic                uint64
		Option, Kind, Length uint32
	}
	if err := binary.Read(c.conn, binary.BigEndian, &head); err != nil {
		return 0, nil, fmt.Errorf("read reply to option %d: %w", option, err)
	}
	if head.Magic != magicOptReply || head.Option != option || head.Length > maxOptionReply {
		return 0, nil, fmt.Errorf("%w: reply to option %d (for %d, %d bytes)", ErrProtocol, option, head.Option, head.Length)
	}
	body = make([]byte, head.Length)
	if _, err := io.ReadFull(c.conn, body); err != nil {
		return 0, nil, fmt.Errorf("read reply to option %d: %w", option, err)
	}
	return head.Kind, body, nil
}

func appendString(b []byte, s string) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(s)))
	return append(b, s...)
}

// clip bounds what a server's words may add to an error.
func clip(s string) string {
	if len(s) > 200 {
		s = s[:200]
	}
	return s
}
