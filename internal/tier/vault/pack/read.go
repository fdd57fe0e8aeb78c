package pack

import (
	"encoding/binary"
	"fmt"

	"github.com/backstay/backstay/internal/tier/vault/chunk"
	"github.com/backstay/backstay/internal/tier/vault/seal"
)

// layout is a pack's clear frame, checked to be consistent.
type layout struct {
	head         seal.Head
	clear, names []byte
	at, count    int
}

// ReadDirectory reads the directory of a pack of the given size through ask,
// which returns a range of its bytes: three small reads.
func ReadDirectory(keys *seal.Keys, id ID, size int64, ask func(offset, length int64) ([]byte, error)) (Directory, error) {
	d := Directory{ID: id}
	get := func(offset, length int64) ([]byte, error) {
		b, err := ask(offset, length)
		if err == nil && int64(len(b)) != length { // says nothing of the pack (I5)
			err = fmt.Errorf("read pack %s: %d bytes instead of %d", id, len(b), length)
		}
		return b, err
	}
	if size < seal.HeadSize+footerSize+seal.Overhead || size > Target {
		return d, fmt.Errorf("pack of %d bytes: %w", size, seal.ErrWrong)
	}
	footer, err := get(size-footerSize, footerSize)
	if err != nil {
		return d, err
	}
	at := int64(binary.BigEndian.Uint32(footer))
	if at < seal.HeadSize || at > size-footerSize {
		return d, fmt.Errorf("pack's directory is outside of it: %w", seal.ErrWrong)
	}
	middle, err := get(at, size-footerSize-at)
	if err != nil {
		return d, err
	}
	head, err := get(0, seal.HeadSize)
	if err != nil {
		return d, err
	}
	l, err := parse(head, middle, footer)
	if err != nil {
		return d, err
	}
	if _, err := keys.CheckHead(head, seal.Pack, id); err != nil {
		return d, err
	}
	d.Epoch, d.Size = l.head.Epoch, uint32(size)
	d.Entries, err = l.entries(keys)
	return d, err
}

// Parse is ReadDirectory for the bytes of a whole pack.
func Parse(keys *seal.Keys, id ID, data []byte) (Directory, error) {
	return ReadDirectory(keys, id, int64(len(data)), func(offset, length int64) ([]byte, error) {
		return data[offset : offset+length], nil
	})
}

// parse checks the frame with no key.
func parse(head, middle, footer []byte) (layout, error) {
	var l layout
	h, err := seal.ParseHead(head)
	if err != nil {
		return l, err
	}
	at, count := int(binary.BigEndian.Uint32(footer)), int(binary.BigEndian.Uint32(footer[4:]))
	sealed, reserved := int(binary.BigEndian.Uint32(footer[8:])), binary.BigEndian.Uint32(footer[12:])
	if reserved != 0 || [16]byte(footer[48:]) != footerMagic || h.Type != seal.Pack {
		return l, fmt.Errorf("pack's footer is not one: %w", seal.ErrWrong)
	}
	if sealed != count*nameEntry+seal.Overhead || len(middle) != count*clearEntry+sealed {
		return l, fmt.Errorf("pack's directory has another length than its footer says: %w", seal.ErrWrong)
	}
	l = layout{head: h, clear: middle[:count*clearEntry], names: middle[count*clearEntry:], at: at, count: count}
	if !seal.Equal(seal.Hash(head, l.clear, l.names, footer[:16]), [32]byte(footer[16:48])) {
		return l, fmt.Errorf("pack's directory has another hash than its footer says: %w", seal.ErrWrong)
	}
	next := uint32(seal.HeadSize)
	for i := range count {
		offset, length := l.place(i)
		if offset != next || int(length) < seal.Overhead+chunk.Overhead || int(length) > at-int(offset) {
			return l, fmt.Errorf("pack's directory is inconsistent at chunk %d: %w", i, seal.ErrWrong)
		}
		next += length
	}
	if int(next) != at {
		return l, fmt.Errorf("pack has bytes that no chunk claims: %w", seal.ErrWrong)
	}
	return l, nil
}

func (l layout) place(i int) (offset, length uint32) {
	e := l.clear[i*clearEntry:]
	return binary.BigEndian.Uint32(e), binary.BigEndian.Uint32(e[4:])
}

func (l layout) entries(keys *seal.Keys) ([]Entry, error) {
	box, err := keys.Box(l.head, nil)
	if err != nil {
		return nil, err
	}
	bound := append(l.head.Encode(nil), l.clear...)
	names, err := box.Open(nil, namesCounter, l.names, bound)
	if err != nil {
		return nil, fmt.Errorf("open pack's names: %w", err)
	}
	entries := make([]Entry, l.count)
	for i := range entries {
		n := names[i*nameEntry : (i+1)*nameEntry]
		e := Entry{Kind: chunk.Kind(n[0]), Plain: binary.BigEndian.Uint32(n[1:]), Name: chunk.Name(n[5:]), Ordinal: uint32(i)}
		e.Offset, e.Sealed = l.place(i)
		if int(e.Plain) > e.Kind.Max() {
			return nil, fmt.Errorf("chunk %d says to hold %d bytes: %w", i, e.Plain, seal.ErrWrong)
		}
		entries[i] = e
	}
	return entries, nil
}

// Check checks the bytes of a whole pack with no key: its frame, and the hash of
// every sealed chunk. It finds accidents; against intent only the keys help.
func Check(data []byte) error {
	if len(data) < seal.HeadSize+footerSize+seal.Overhead || len(data) > Target {
		return fmt.Errorf("pack of %d bytes: %w", len(data), seal.ErrWrong)
	}
	footer := data[len(data)-footerSize:]
	at := int(binary.BigEndian.Uint32(footer))
	if at < seal.HeadSize || at > len(data)-footerSize {
		return fmt.Errorf("pack's directory is outside of it: %w", seal.ErrWrong)
	}
	l, err := parse(data[:seal.HeadSize], data[at:len(data)-footerSize], footer)
	if err != nil {
		return err
	}
	for i := range l.count {
		offset, length := l.place(i)
		want := [32]byte(l.clear[i*clearEntry+8 : (i+1)*clearEntry])
		if !seal.Equal(seal.Hash(data[offset:offset+length]), want) {
			return fmt.Errorf("chunk %d of the pack has another hash: %w", i, seal.ErrWrong)
		}
	}
	return nil
}

// Verify checks a whole pack with the keys: every byte of it is accounted for,
// every chunk goes through the decoder, and every name is computed anew.
func Verify(keys *seal.Keys, id ID, data []byte) (Directory, error) {
	if err := Check(data); err != nil {
		return Directory{}, err
	}
	d, err := Parse(keys, id, data)
	if err != nil {
		return d, err
	}
	box, err := Box(keys, id, d.Epoch)
	if err != nil {
		return d, err
	}
	var buf []byte
	for _, e := range d.Entries {
		if buf, err = Open(keys, box, e, buf, data[e.Offset:e.Offset+e.Sealed]); err != nil {
			return d, err
		}
	}
	return d, nil
}
