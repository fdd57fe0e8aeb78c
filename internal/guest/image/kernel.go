package image

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/pierrec/lz4/v4"
)

// maxKernel is the most that a kernel may have uncompressed, in bytes.
const maxKernel = 256 << 20

// uncompressed returns the kernel proper out of an image that starts itself: QEMU
// starts it without the emulated machine uncompressing it first, which takes it
// half a second. See the kernel's Documentation/arch/x86/boot.rst.
func uncompressed(image []byte) ([]byte, error) {
	if len(image) < 0x250 || string(image[0x202:0x206]) != "HdrS" {
		return nil, errors.New("not a kernel image")
	}
	sectors := int64(image[0x1f1])
	if sectors == 0 {
		sectors = 4
	}
	start := (sectors+1)*512 + int64(binary.LittleEndian.Uint32(image[0x248:]))
	end := start + int64(binary.LittleEndian.Uint32(image[0x24c:]))
	if end > int64(len(image)) || end-start < 8 {
		return nil, errors.New("the kernel image is cut off")
	}
	payload := image[start:end]
	if !bytes.HasPrefix(payload, []byte("\x02\x21\x4c\x18")) {
		return nil, errors.New("the kernel is not compressed with LZ4, as Debian's for virtual machines is")
	}
	// The last four bytes say how much comes out.
	size := int64(binary.LittleEndian.Uint32(payload[len(payload)-4:]))
	if size > maxKernel {
		return nil, fmt.Errorf("the kernel has %d bytes", size)
	}
	kernel := make([]byte, size)
	if _, err := io.ReadFull(lz4.NewReader(bytes.NewReader(payload[:len(payload)-4])), kernel); err != nil {
		return nil, err
	}
	if !bytes.HasPrefix(kernel, []byte("\x7fELF")) {
		return nil, errors.New("what was compressed is no kernel")
	}
	return kernel, nil
}

func sortedKeys(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }
