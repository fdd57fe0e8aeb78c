package libvirt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/backstay/backstay/internal/hypervisor"
)

// header is what we need of an image file. Reading it here rather than asking
// libvirt needs no lock on the VM, so a VM that hangs does not hang the list.
type header struct {
	size          int64
	backing       string // absolute path, or a URL; "" for none
	backingFormat string // "" if the header does not record it
	dataFile      bool   // the data lies in another file
	encrypted     bool
	room          int64 // bytes of the device that it lies on; 0 for a file
}

// sector is the smallest piece of a disk that QEMU knows, in bytes.
const sector = 512

var errNotQcow2 = errors.New("not a qcow2 image")

// readHeader reads an image of the given format. The layout of a qcow2 header is
// in QEMU's docs/interop/qcow2.txt.
func readHeader(path, format string) (header, error) {
	f, err := os.Open(path)
	if err != nil {
		return header{}, err
	}
	defer f.Close()
	length, device, err := lengthOf(f)
	if err != nil {
		return header{}, err
	}
	if format == "raw" {
		// As QEMU does: the guest sees whole sectors, the last one padded with zeros.
		return header{size: (length + sector - 1) &^ (sector - 1)}, nil
	}
	b := make([]byte, 64<<10) // the header never reaches behind the first cluster
	n, err := f.ReadAt(b, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return header{}, err
	}
	if format == "luks" {
		return parseLUKS(path, b[:n], length)
	}
	h, err := parseQcow2(path, b[:n])
	if device {
		h.room = length
	}
	return h, err
}

// lengthOf is how many bytes a file or block device has.
func lengthOf(f *os.File) (length int64, device bool, err error) {
	info, err := f.Stat()
	if err != nil {
		return 0, false, err
	}
	switch kind := info.Mode().Type(); kind {
	case 0:
		return info.Size(), false, nil
	case os.ModeDevice:
		length, err = f.Seek(0, io.SeekEnd)
		return length, true, err
	}
	return 0, false, fmt.Errorf("%s is not a regular file or block device", f.Name())
}

var errNotLUKS = errors.New("not an image in LUKS 1")

// parseLUKS reads the header of a raw image in LUKS 1, the only one that QEMU
// knows: what lies behind it is the guest's.
func parseLUKS(path string, b []byte, length int64) (header, error) {
	be := binary.BigEndian
	if len(b) < 112 || !bytes.Equal(b[:6], []byte("LUKS\xba\xbe")) || be.Uint16(b[6:]) != 1 {
		return header{}, fmt.Errorf("%s: %w", path, errNotLUKS)
	}
	payload := int64(be.Uint32(b[104:])) * sector
	if payload >= length {
		return header{}, fmt.Errorf("%s: %w", path, errNotLUKS)
	}
	return header{size: length - payload, encrypted: true}, nil
}

func parseQcow2(path string, b []byte) (header, error) {
	be := binary.BigEndian
	if len(b) < 104 || !bytes.Equal(b[:4], []byte("QFI\xfb")) || be.Uint32(b[4:]) < 2 {
		return header{}, fmt.Errorf("%s: %w", path, errNotQcow2)
	}
	size := be.Uint64(b[24:])
	if size > 1<<62 {
		return header{}, fmt.Errorf("%s: %w", path, errNotQcow2)
	}
	h := header{size: int64(size), encrypted: be.Uint32(b[32:]) != 0}
	length := uint64(72)
	if be.Uint32(b[4:]) >= 3 {
		length = uint64(be.Uint32(b[100:]))
		h.dataFile = be.Uint64(b[72:])&(1<<2) != 0
	}
	if off, n := be.Uint64(b[8:]), uint64(be.Uint32(b[16:])); off != 0 {
		if n > 1023 || off > uint64(len(b)) || n > uint64(len(b))-off {
			return header{}, fmt.Errorf("%s: %w", path, errNotQcow2)
		}
		h.backing = backingPath(path, string(b[off:off+n]))
	}
	for at := length; at+8 <= uint64(len(b)); {
		kind, n := be.Uint32(b[at:]), uint64(be.Uint32(b[at+4:]))
		if kind == 0 || n > uint64(len(b))-at-8 {
			break
		}
		if kind == 0xe2792aca {
			h.backingFormat = string(b[at+8 : at+8+n])
		}
		at += 8 + (n+7)&^7
	}
	return h, nil
}

// backingPath resolves the name in a header against the image's folder.
func backingPath(path, name string) string {
	if n, ok := hypervisor.ParseNBD(name); ok {
		return n.String()
	}
	if file, ok := strings.CutPrefix(name, "file:"); ok {
		name = file
	} else if scheme, _, ok := strings.Cut(name, ":"); ok && !strings.Contains(scheme, "/") {
		return name // json:…, nbd://…
	}
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(filepath.Dir(path), name)
}

const longestChain = 200 // layers; libvirt's own bound

// link is one image of a chain. encrypted and index are what is known of it:
// index is libvirt's own number for it while the VM runs.
type link struct {
	path, format string
	encrypted    bool
	index        string
}

// walk follows the headers down from an image. recorded tells whether each
// header records the format of what it stands on, so that libvirt finds the same
// chain by itself. A raw image ends the chain whatever its guest wrote into it.
func walk(path, format string) (chain []link, recorded bool) {
	recorded = true
	for len(chain) < longestChain {
		if _, network := hypervisor.ParseNBD(path); network {
			return append(chain, link{path: path, format: format}), recorded && format == "raw"
		}
		if !filepath.IsAbs(path) {
			return append(chain, link{path: path, format: format}), false
		}
		l := link{path: path, format: format, encrypted: format == "luks"}
		if format != "qcow2" {
			return append(chain, l), recorded
		}
		h, err := readHeader(path, format)
		l.encrypted = h.encrypted
		chain = append(chain, l)
		if err != nil || h.backing == "" {
			return chain, recorded && err == nil
		}
		path, format = h.backing, h.backingFormat
		if format == "" {
			recorded = false
		}
	}
	return chain, false
}
