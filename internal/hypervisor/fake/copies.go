package fake

import (
	"context"
	"errors"
	"fmt"
	"os"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
)

// CopyLive puts a disk of a running VM on another file.
func (h *Host) CopyLive(ctx context.Context, id backstay.VMID, c hypervisor.Copy, progress func(done, total int64)) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	v, err := h.enterVM(ctx, "copy", id)
	if err != nil {
		return err
	}
	if v.live == nil {
		return fmt.Errorf("copy disk %s of %s: the VM is shut off", c.Target, id)
	}
	el := v.live.diskElement(c.Target)
	if el == nil {
		return fmt.Errorf("copy disk of %s: no disk %s", id, c.Target)
	}
	to := absolute(c.To.Location)
	if locationOf(el) == to {
		return nil
	}
	if err := h.conflict(to, true, ""); err != nil {
		return fmt.Errorf("copy disk %s of %s: %w", c.Target, id, err)
	}
	source := locationOf(el)
	format := formatOf(el)
	if err := copyImage(source, format, to, c.To.Format); err != nil {
		return fmt.Errorf("copy disk %s of %s: %w", c.Target, id, err)
	}
	if progress != nil {
		progress(1, 1)
	}
	h.changed(id)
	return errors.Join(v.live.setDisk(c.Target, to), v.inactive.setDisk(c.Target, to))
}

// Convert copies what an image shows into a new image.
func (h *Host) Convert(ctx context.Context, c hypervisor.Conversion, progress func(done, total int64)) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.enter(ctx, "convert"); err != nil {
		return err
	}
	if err := known(c.To.Format); err != nil {
		return err
	}
	from, to := absolute(c.From.Location), absolute(c.To.Location)
	if err := h.conflict(from, false, ""); err != nil {
		return err
	}
	if err := h.unlocks(c.From, false); err != nil {
		return err
	}
	if c.From.Secret != c.To.Secret {
		return fmt.Errorf("copy image %s: the copy would not be encrypted with the same secret", from)
	}
	l, err := openLayer(from, c.From.Format, false)
	if err != nil {
		return fmt.Errorf("copy image: %w", err)
	}
	size := l.h.Size
	l.close()
	if err := createLayer(to, c.To.Format, header{Size: size, Secret: c.To.Secret}); err != nil {
		return err
	}
	if err := copyImage(from, c.From.Format, to, c.To.Format); err != nil {
		return errors.Join(err, os.Remove(to))
	}
	if progress != nil {
		progress(1, 1)
	}
	return nil
}

// copyImage copies what one image shows into another that is as large.
func copyImage(from, fromFormat, to, toFormat string) error {
	source, err := openLayer(from, fromFormat, false)
	if err != nil {
		return err
	}
	defer source.close()
	target, err := openLayer(to, toFormat, true)
	if err != nil {
		return err
	}
	defer target.close()
	if target.h.Size < source.h.Size {
		return fmt.Errorf("%s has %d bytes, and the disk %d", to, target.h.Size, source.h.Size)
	}
	buf := make([]byte, pageSize)
	for page := range (source.h.Size + pageSize - 1) / pageSize {
		if _, zero := source.depth(page); zero {
			continue
		}
		if err := source.readPage(buf, page); err != nil {
			return err
		}
		if err := target.setPage(buf, page); err != nil {
			return err
		}
	}
	return nil
}
