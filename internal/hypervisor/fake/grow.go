package fake

import (
	"fmt"

	backstay "github.com/backstay/backstay"
)

// largest is the most bytes that a fake qcow2 image can grow to: its map of
// pages lies before them.
const largest = pageSize * pageSize

// grow makes an image larger; what is new reads as zeros.
func (l *layer) grow(size int64) error {
	if size <= l.h.Size {
		return nil
	}
	if l.pages == nil {
		l.h.Size = size
		return l.f.Truncate(size)
	}
	if size > largest {
		return fmt.Errorf("grow image %s: a fake image has at most %d bytes", l.path, largest)
	}
	pages := (size + pageSize - 1) / pageSize
	info, err := l.f.Stat()
	if err != nil {
		return err
	}
	if info.Size() < pageSize+pages {
		if err := l.f.Truncate(pageSize + pages); err != nil {
			return err
		}
	}
	l.pages = append(l.pages, make([]byte, pages-int64(len(l.pages)))...)
	l.h.Size = size
	return writeHeader(l.f, l.h)
}

// GrowGuest makes a disk of a VM larger, as its owner would: the file that the
// VM writes to.
func (h *Host) GrowGuest(id backstay.VMID, target backstay.DiskTarget, size int64) error {
	return h.guest(id, target, func(_ *vm, l *layer) error { return l.grow(size) })
}
