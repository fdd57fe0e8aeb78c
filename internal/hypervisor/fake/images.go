package fake

import (
	"context"
	"fmt"
	"os"
	"syscall"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
)

// Create makes an empty image.
func (h *Host) Create(ctx context.Context, path, format string, size int64) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.enter(ctx, "create"); err != nil {
		return err
	}
	if err := carried(format); err != nil {
		return err
	}
	if format == "luks" {
		return fmt.Errorf("create image %s: it would be encrypted, and no secret is named", path)
	}
	return createLayer(absolute(path), format, header{Size: size})
}

// CreateOverlay makes an overlay.
func (h *Host) CreateOverlay(ctx context.Context, o hypervisor.Overlay) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.enter(ctx, "create-overlay"); err != nil {
		return err
	}
	if err := known(o.Backing.Format); err != nil {
		return fmt.Errorf("create overlay: %w", err)
	}
	if err := h.unlocks(o.Backing, true); err != nil {
		return fmt.Errorf("create overlay: %w", err)
	}
	if !hypervisor.IsPath(o.Backing.Location) {
		if err := h.reachable(ctx, o.Backing.Location); err != nil {
			return fmt.Errorf("create overlay: %w", err)
		}
		return createLayer(absolute(o.Path), "qcow2", header{Size: o.Size, Backing: o.Backing.Location, BackingFormat: o.Backing.Format})
	}
	l, err := openLayer(absolute(o.Backing.Location), o.Backing.Format, true)
	if err != nil {
		return fmt.Errorf("create overlay: %w", err)
	}
	defer l.close()
	if o.Size <= 0 {
		o.Size = l.h.Size
	}
	return createLayer(absolute(o.Path), "qcow2", header{Size: o.Size, Backing: l.path, BackingFormat: o.Backing.Format, Secret: o.Backing.Secret, Key: h.keyOf(o.Backing.Secret)})
}

// Info describes a file.
func (h *Host) Info(ctx context.Context, path string) (hypervisor.ImageInfo, error) {
	if err := ctx.Err(); err != nil {
		return hypervisor.ImageInfo{}, err
	}
	return imageInfo(absolute(path))
}

func imageInfo(path string) (hypervisor.ImageInfo, error) {
	f, err := os.Open(path)
	if err != nil {
		return hypervisor.ImageInfo{}, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return hypervisor.ImageInfo{}, err
	}
	info := hypervisor.ImageInfo{Path: path, Format: "raw", VirtualSize: st.Size()}
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		info.DiskSize = sys.Blocks * 512
	}
	if head, err := readHeader(f); err == nil {
		info.Format, info.VirtualSize, info.Backing, info.Encrypted = head.format(), head.Size, head.Backing, head.Secret != ""
	}
	return info, nil
}

func imageHeader(path string) (header, error) {
	f, err := os.Open(path)
	if err != nil {
		return header{}, err
	}
	defer f.Close()
	return readHeader(f)
}

// Allocated lists what a layer alone holds.
func (h *Host) Allocated(ctx context.Context, image hypervisor.Image) ([]backstay.Range, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.enter(ctx, "allocated"); err != nil {
		return nil, err
	}
	path, format := absolute(image.Location), image.Format
	if err := known(format); err != nil {
		return nil, err
	}
	if err := h.conflict(path, false, ""); err != nil {
		return nil, err
	}
	if err := h.unlocks(image, true); err != nil {
		return nil, err
	}
	l, err := openLayer(path, format, true)
	if err != nil {
		return nil, err
	}
	defer l.close()
	if l.pages == nil {
		return []backstay.Range{{Offset: 0, Length: l.h.Size}}, nil
	}
	var ranges []backstay.Range
	for page, kind := range l.pages {
		r := backstay.Range{Offset: int64(page) * pageSize}
		r.Length = min(pageSize, l.h.Size-r.Offset)
		if kind == absent {
			continue
		}
		if last := len(ranges) - 1; last >= 0 && ranges[last].End() == r.Offset {
			ranges[last].Length += r.Length
		} else {
			ranges = append(ranges, r)
		}
	}
	return ranges, nil
}

// Commit merges an overlay into its backing file.
func (h *Host) Commit(ctx context.Context, image hypervisor.Image, o hypervisor.CommitOptions) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.enter(ctx, "commit"); err != nil {
		return err
	}
	if err := h.unlocks(image, false); err != nil {
		return err
	}
	overlay := absolute(image.Location)
	l, err := openLayer(overlay, "qcow2", false)
	if err != nil {
		return err
	}
	defer l.close()
	if l.below == nil {
		return fmt.Errorf("merge layer %s: it has no backing file", overlay)
	}
	if err := h.conflict(overlay, false, ""); err != nil {
		return err
	}
	if err := h.conflict(l.below.path, true, ""); err != nil {
		return err
	}
	return l.mergeDown(l.below)
}

// Rebase makes the overlay name another backing file.
func (h *Host) Rebase(ctx context.Context, image, backing hypervisor.Image) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.enter(ctx, "rebase"); err != nil {
		return err
	}
	if err := h.unlocks(image, true); err != nil {
		return err
	}
	overlay := absolute(image.Location)
	if err := h.conflict(overlay, true, ""); err != nil {
		return err
	}
	return setBacking(overlay, hypervisor.Location(backing.Location), backing.Format)
}

func setBacking(overlay, backing, format string) error {
	if !hypervisor.IsPath(backing) {
		return nameBacking(overlay, backing, format)
	}
	base, err := openLayer(backing, format, true)
	if err != nil {
		return err
	}
	base.close()
	return nameBacking(overlay, backing, format)
}

func nameBacking(overlay, backing, format string) error {
	l, err := openLayer(overlay, "qcow2", true)
	if err != nil {
		return err
	}
	defer l.close()
	l.h.Backing, l.h.BackingFormat = backing, format
	return writeHeader(l.f, l.h)
}

// chainOf lists an image and what lies below it.
func chainOf(path string) []string {
	var chain []string
	for path != "" && len(chain) < 1000 {
		chain = append(chain, path)
		info, err := imageInfo(path)
		if err != nil {
			break
		}
		path = info.Backing
	}
	return chain
}

// conflict applies QEMU's locks: an image that someone writes is nobody else's,
// and one that someone reads cannot be written. The VM except is left out.
func (h *Host) conflict(path string, write bool, except backstay.VMID) error {
	check := func(chain []string, writing bool) error {
		for i, file := range chain {
			if file == path && (write || (writing && i == 0)) {
				return fmt.Errorf("%s: %w", path, hypervisor.ErrLocked)
			}
		}
		return nil
	}
	for id, vm := range h.vms {
		if id == except || vm.live == nil {
			continue
		}
		for _, d := range vm.live.disks() {
			if err := check(chainOf(d.Source), true); err != nil {
				return err
			}
		}
	}
	for e := range h.exports {
		if err := check(e.chain, e.writable); err != nil {
			return err
		}
	}
	return nil
}
