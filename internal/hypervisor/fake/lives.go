package fake

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
)

// Remote reads the NBD export of this location, of which a VM's disks are made to
// stand on one. Close lets go of it.
type Remote func(ctx context.Context, location string) (content io.ReaderAt, size int64, closeIt func() error, err error)

// StartPaused starts a VM that stands still.
func (h *Host) StartPaused(ctx context.Context, id backstay.VMID) error {
	if err := h.Start(ctx, id); err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.vms[id].paused = true
	return nil
}

// Reconnect notes that the disks wait for what they stand on; see Waits.
func (h *Host) Reconnect(ctx context.Context, id backstay.VMID, disks []hypervisor.Below) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	v, err := h.enterVM(ctx, "reconnect", id)
	if err != nil {
		return err
	}
	if v.live == nil {
		return fmt.Errorf("connect the disks of %s: the VM is shut off", id)
	}
	for _, b := range disks {
		el := v.live.diskElement(b.Target)
		if el == nil {
			return fmt.Errorf("connect disk %s of %s: no such disk", b.Target, id)
		}
		chain := chainOf(locationOf(el))
		if len(chain) == 1 {
			continue
		}
		if chain[len(chain)-1] != b.Location() {
			return fmt.Errorf("connect disk %s of %s: it stands on %s", b.Target, id, chain[len(chain)-1])
		}
		if v.waits == nil {
			v.waits = map[backstay.DiskTarget]bool{}
		}
		v.waits[b.Target] = true
	}
	return nil
}

// Waits tells whether a disk's requests wait while what it stands on is away, in
// the VM's present run.
func (h *Host) Waits(id backstay.VMID, target backstay.DiskTarget) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.vms[id].live != nil && h.vms[id].waits[target]
}

// CopyIn copies what a disk's image does not hold into it.
func (h *Host) CopyIn(ctx context.Context, id backstay.VMID, c hypervisor.CopyIn, progress func(done, total int64)) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	v, err := h.enterVM(ctx, "copy-in", id)
	if err != nil {
		return err
	}
	if v.live == nil {
		return fmt.Errorf("copy disk %s of %s in: the VM is shut off", c.Target, id)
	}
	el := v.live.diskElement(c.Target)
	if el == nil {
		return fmt.Errorf("copy disk of %s in: no disk %s", id, c.Target)
	}
	path := locationOf(el)
	info, err := imageInfo(path)
	if err != nil || info.Backing == "" {
		return err
	}
	if err := h.fillIn(ctx, path, info.Backing); err != nil {
		return fmt.Errorf("copy disk %s of %s in: %w", c.Target, id, err)
	}
	if progress != nil {
		progress(info.VirtualSize, info.VirtualSize)
	}
	h.changed(id)
	return nil
}

// fillIn makes an image hold all that it shows, and stand on nothing.
func (h *Host) fillIn(ctx context.Context, path, backing string) error {
	if h.Remote == nil {
		return errors.New("the fake has no way to exports")
	}
	content, size, closeIt, err := h.Remote(ctx, backing)
	if err != nil {
		return err
	}
	defer func() { _ = closeIt() }()
	l, err := openLayer(path, "qcow2", true)
	if err != nil {
		return err
	}
	defer l.close()
	buf := make([]byte, pageSize)
	for page := range int64(len(l.pages)) {
		if l.pages[page] != absent || page*pageSize >= size {
			continue
		}
		clear(buf)
		if n, err := content.ReadAt(buf[:min(pageSize, size-page*pageSize)], page*pageSize); err != nil && n == 0 {
			return err
		}
		if err := l.setPage(buf, page); err != nil {
			return err
		}
	}
	l.h.Backing, l.h.BackingFormat = "", ""
	return writeHeader(l.f, l.h)
}

// SetPolicies changes the persistent definition.
func (h *Host) SetPolicies(ctx context.Context, id backstay.VMID, disks map[backstay.DiskTarget]hypervisor.Policies) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	v, err := h.enterVM(ctx, "set-policies", id)
	if err != nil {
		return err
	}
	for target, p := range disks {
		el := v.inactive.diskElement(target)
		if el == nil {
			continue
		}
		driver := el.SelectElement("driver")
		for name, value := range map[string]string{"error_policy": p.Write, "rerror_policy": p.Read} {
			driver.RemoveAttr(name)
			if value != "" {
				driver.CreateAttr(name, value)
			}
		}
	}
	return nil
}

// QEMUUser is the user of the test.
func (h *Host) QEMUUser(context.Context) (uid, gid int, err error) {
	return os.Getuid(), os.Getgid(), nil
}

// reachable tells whether what lies below a VM's disks answers, as libvirt finds
// out when it starts the VM.
func (h *Host) reachable(ctx context.Context, location string) error {
	if h.Remote == nil {
		return fmt.Errorf("failed to connect to %s", location)
	}
	_, _, closeIt, err := h.Remote(ctx, location)
	if err != nil {
		return err
	}
	return closeIt()
}
