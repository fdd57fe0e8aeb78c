package fake

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
)

// A fake qcow2 file is a JSON header in its first page, then one byte for each
// 4 KiB page of the guest's disk, then the pages at fixed places (sparse). It is
// a file so that it survives what a test does to the processes, and can be
// renamed, removed and damaged like a real one.
const pageSize = 4096

const (
	absent = 0
	data   = 1
	zeros  = 2
)

type header struct {
	Magic         string `json:"magic"`
	Size          int64  `json:"size"`
	Backing       string `json:"backing"`
	BackingFormat string `json:"backingFormat"`
	// Secret is the UUID of the secret that opens the image, "" for plain ones.
	Secret string `json:"secret,omitempty"`
	// Key tells the value that the secret had then from others.
	Key string `json:"key,omitempty"`
}

// A fake luks image has a header in its first page and raw content behind it.
// Foreign images are qcow2 ones under another name.
const (
	magic     = "backstay fake qcow2"
	luksMagic = "backstay fake luks"
	vmdkMagic = "backstay fake vmdk"
	vhdxMagic = "backstay fake vhdx"
)

var magics = map[string]string{"qcow2": magic, "luks": luksMagic, "vmdk": vmdkMagic, "vhdx": vhdxMagic}

// format is what the magic of a header says.
func (h header) format() string {
	for format, m := range magics {
		if m == h.Magic {
			return format
		}
	}
	return ""
}

// layer is an open image with what lies below it.
type layer struct {
	path  string
	f     *os.File
	h     header
	pages []byte // nil for raw and luks
	start int64  // where raw content begins
	below *layer
}

func known(format string) error {
	if format != "qcow2" && format != "raw" && format != "luks" {
		return fmt.Errorf("format %q is not one of qcow2, raw and luks", format)
	}
	return nil
}

// carried refuses formats that are neither a VM's nor foreign.
func carried(format string) error {
	if format == "vmdk" || format == "vhdx" {
		return nil
	}
	return known(format)
}

// openLayer opens an image, and its chain unless alone.
func openLayer(path, format string, alone bool) (*layer, error) {
	if err := carried(format); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	l := &layer{path: path, f: f}
	if err := l.load(format); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("open image %s: %w", path, err)
	}
	if hypervisor.IsPath(l.h.Backing) && !alone { // what is behind an export only Remote reads
		if l.below, err = openLayer(l.h.Backing, l.h.BackingFormat, false); err != nil {
			_ = f.Close()
			return nil, fmt.Errorf("backing file of %s: %w", path, err)
		}
	}
	return l, nil
}

func (l *layer) load(format string) error {
	info, err := l.f.Stat()
	if err != nil {
		return err
	}
	if format == "raw" {
		l.h.Size = info.Size()
		return nil
	}
	if l.h, err = readHeader(l.f); err != nil {
		return err
	}
	if l.h.format() != format {
		return fmt.Errorf("not a %s image", format)
	}
	if format == "luks" {
		l.start = pageSize
		return nil
	}
	l.pages = make([]byte, (l.h.Size+pageSize-1)/pageSize)
	_, err = l.f.ReadAt(l.pages, pageSize)
	return err
}

func readHeader(r io.ReaderAt) (header, error) {
	var h header
	b := make([]byte, pageSize)
	if _, err := r.ReadAt(b, 0); err != nil {
		return h, errors.New("not a qcow2 image")
	}
	end := 0
	for end < len(b) && b[end] != 0 {
		end++
	}
	if err := json.Unmarshal(b[:end], &h); err != nil || h.format() == "" {
		return h, errors.New("not a qcow2 image")
	}
	return h, nil
}

func writeHeader(f *os.File, h header) error {
	if h.Magic == "" {
		h.Magic = magic
	}
	b, err := json.Marshal(h)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(append(b, make([]byte, pageSize-len(b))...), 0)
	return err
}

func createLayer(path, format string, h header) error {
	if h.Size <= 0 || h.Size%512 != 0 {
		return fmt.Errorf("create image %s: size %d is not a positive multiple of 512", path, h.Size)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	switch {
	case errors.Is(err, fs.ErrExist):
		return fmt.Errorf("create image %s: %w", path, hypervisor.ErrExists)
	case errors.Is(err, syscall.ENOSPC):
		return backstay.Errorf(backstay.CodeNoSpace, "no room for %s", path).Because(err)
	case err != nil:
		return err
	}
	defer f.Close()
	switch format {
	case "raw":
		return f.Truncate(h.Size)
	case "luks":
		h.Magic = luksMagic
		return errors.Join(writeHeader(f, h), f.Truncate(pageSize+h.Size))
	}
	h.Magic = magics[format]
	if err := writeHeader(f, h); err != nil {
		return err
	}
	pages := (h.Size + pageSize - 1) / pageSize
	return f.Truncate(pageSize + pages)
}

func (l *layer) close() {
	for ; l != nil; l = l.below {
		_ = l.f.Close()
	}
}

func (l *layer) dataOffset(page int64) int64 {
	return pageSize * (1 + int64(len(l.pages))/pageSize + 1 + page)
}

// depth tells in which layer below l a page is held: 1 is l itself, 0 nowhere.
func (l *layer) depth(page int64) (depth uint32, zero bool) {
	for d := uint32(1); l != nil; l, d = l.below, d+1 {
		if page*pageSize >= l.h.Size {
			return 0, true // the layers below are shorter: zeros
		}
		if l.pages == nil {
			return d, false
		}
		if l.pages[page] != absent {
			return d, l.pages[page] == zeros
		}
	}
	return 0, true
}

// readPage reads one page through the chain.
func (l *layer) readPage(p []byte, page int64) error {
	clear(p)
	for ; l != nil && page*pageSize < l.h.Size; l = l.below {
		off := l.start + page*pageSize
		if l.pages != nil {
			if l.pages[page] == absent {
				continue
			}
			if l.pages[page] == zeros {
				return nil
			}
			off = l.dataOffset(page)
		}
		if _, err := l.f.ReadAt(p, off); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		l.cipher(p)
		return nil
	}
	return nil
}

// cipher makes plain content of what an encrypted file holds, and the other way
// round. It is no cipher, and enough to tell whether plain content is in a file.
func (l *layer) cipher(p []byte) {
	if l.h.Secret == "" {
		return
	}
	for i := range p {
		p[i] ^= 0x80 | l.h.Secret[i%len(l.h.Secret)]
	}
}

// sealed is the content as the file holds it.
func (l *layer) sealed(p []byte) []byte {
	p = append([]byte(nil), p...)
	l.cipher(p)
	return p
}

// setPage makes a page of this layer data, or zeros if p is nil.
func (l *layer) setPage(p []byte, page int64) error {
	if l.pages == nil {
		if p == nil {
			p = make([]byte, pageSize)
		}
		_, err := l.f.WriteAt(l.sealed(p[:min(pageSize, l.h.Size-page*pageSize)]), l.start+page*pageSize)
		return err
	}
	l.pages[page] = zeros
	if p != nil {
		l.pages[page] = data
		if _, err := l.f.WriteAt(l.sealed(p), l.dataOffset(page)); err != nil {
			return err
		}
	}
	_, err := l.f.WriteAt(l.pages[page:page+1], pageSize+page)
	return err
}

func (l *layer) readAt(p []byte, off int64) error {
	buf := make([]byte, pageSize)
	for len(p) > 0 {
		if err := l.readPage(buf, off/pageSize); err != nil {
			return err
		}
		n := copy(p, buf[off%pageSize:])
		p, off = p[n:], off+int64(n)
	}
	return nil
}

func (l *layer) writeAt(p []byte, off int64) error {
	if off < 0 || off+int64(len(p)) > l.h.Size {
		return syscall.EINVAL
	}
	buf := make([]byte, pageSize)
	for len(p) > 0 {
		if err := l.readPage(buf, off/pageSize); err != nil {
			return err
		}
		n := copy(buf[off%pageSize:], p)
		if err := l.setPage(buf, off/pageSize); err != nil {
			return err
		}
		p, off = p[n:], off+int64(n)
	}
	return nil
}

func (l *layer) writeZeroes(off, length int64) error {
	for length > 0 {
		step := min(length, pageSize-off%pageSize)
		var err error
		if step == pageSize {
			err = l.setPage(nil, off/pageSize)
		} else {
			err = l.writeAt(make([]byte, step), off)
		}
		if err != nil {
			return err
		}
		off, length = off+step, length-step
	}
	return nil
}

// mergeDown puts what l alone holds into another layer.
func (l *layer) mergeDown(base *layer) error {
	if err := base.grow(l.h.Size); err != nil {
		return err
	}
	buf := make([]byte, pageSize)
	for page := range int64(len(l.pages)) {
		var err error
		switch l.pages[page] {
		case data:
			if _, err = l.f.ReadAt(buf, l.dataOffset(page)); err == nil {
				l.cipher(buf)
				err = base.setPage(buf, page)
			}
		case zeros:
			err = base.setPage(nil, page)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func absolute(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		return abs
	}
	return path
}
