package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
	"github.com/backstay/backstay/internal/mover"
)

// Facts describes the host.
func (h *Host) Facts(ctx context.Context) (backstay.HostFacts, error) {
	facts, err := h.hv.Facts(ctx)
	if err != nil {
		return facts, h.hostError(err, "host %s cannot be described", h.name)
	}
	return facts, nil
}

// VMs lists the VMs of the host.
func (h *Host) VMs(ctx context.Context) ([]backstay.VM, error) {
	vms, err := h.hv.VMs(ctx)
	if err != nil {
		return nil, h.hostError(err, "the VMs of host %s cannot be listed", h.name)
	}
	restored, err := h.lives()
	if err != nil {
		return nil, err
	}
	for i := range vms {
		vms[i].Host = h.name
		for _, j := range restored {
			if j.VM == vms[i].ID {
				vms[i].Reason = liveReason(j)
			}
		}
	}
	return vms, nil
}

// Watch calls fn after each change until ctx ends.
func (h *Host) Watch(ctx context.Context, fn func(backstay.VMID)) error {
	return h.hv.Watch(ctx, func(e hypervisor.Event) { fn(e.VM) })
}

// Paths describes paths on the host, and which VMs use them as disks.
func (h *Host) Paths(ctx context.Context, paths []string) ([]mover.PathInfo, error) {
	users, err := h.diskUsers(ctx, paths)
	if err != nil {
		return nil, err
	}
	journals, err := h.journals()
	if err != nil {
		return nil, err
	}
	infos := make([]mover.PathInfo, len(paths))
	for i, path := range paths {
		infos[i] = describePath(path)
		infos[i].UsedBy = users[path]
		for _, j := range journals {
			if j.Left != nil && j.takes(path) {
				infos[i].LeftBy = j.VM
			}
		}
	}
	return infos, nil
}

// diskUsers names for each path the VMs that have it in a chain of a disk.
func (h *Host) diskUsers(ctx context.Context, paths []string) (map[string][]string, error) {
	users := map[string][]string{}
	if len(paths) == 0 {
		return users, nil
	}
	vms, err := h.VMs(ctx)
	if err != nil {
		return nil, err
	}
	for _, vm := range vms {
		domain, err := h.hv.Domain(ctx, vm.ID)
		if errors.Is(err, hypervisor.ErrNoVM) {
			continue
		}
		if err != nil {
			return nil, h.hostError(err, "VM %s cannot be described", vm.Name)
		}
		for _, path := range paths {
			if domainUses(&domain, path) && !slices.Contains(users[path], vm.Name) {
				users[path] = append(users[path], vm.Name)
			}
		}
	}
	return users, nil
}

func domainUses(domain *hypervisor.Domain, path string) bool {
	for _, d := range domain.VM.Disks {
		if d.Source == path || slices.Contains(domain.Chains[d.Target], path) {
			return true
		}
	}
	return false
}

func describePath(path string) mover.PathInfo {
	info := mover.PathInfo{Path: path}
	_, err := os.Lstat(path)
	info.Exists = err == nil
	describeInside(path, &info)
	folder := filepath.Dir(path)
	if st, err := os.Stat(folder); err != nil || !st.IsDir() {
		return info
	}
	info.Folder = true
	var fs unix.Statfs_t
	if err := unix.Statfs(folder, &fs); err == nil {
		info.Available = int64(fs.Bavail) * fs.Bsize
	}
	var st unix.Stat_t
	if err := unix.Stat(folder, &st); err == nil {
		info.Device = strconv.FormatUint(st.Dev, 16)
	}
	return info
}

// hostError gives an error of the hypervisor its code, unless it has one.
func (h *Host) hostError(err error, format string, args ...any) error {
	var coded *backstay.Error
	if errors.As(err, &coded) {
		return err
	}
	code := backstay.CodeHypervisor
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("ask host %s: %w", h.name, err)
	case errors.Is(err, hypervisor.ErrNoVM):
		code = backstay.CodeUnknownVM
	case errors.Is(err, hypervisor.ErrAway):
		code = backstay.CodeHostAway
	}
	return backstay.Errorf(code, format, args...).Because(err)
}
