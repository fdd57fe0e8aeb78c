package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Tidy returns an error that names everything a job may not leave behind when it
// has ended (I9): a paused VM, a frozen guest, a disk image that no VM stands on,
// an unfinished record, a helper process, a socket. It needs idle hosts.
func (w *World) Tidy(ctx context.Context) error {
	var all error
	for _, h := range w.Hosts {
		all = errors.Join(all, w.tidyVMs(ctx, h), h.tidyFiles(ctx), h.tidyProcesses(w.Dir))
	}
	return all
}

func (w *World) tidyVMs(ctx context.Context, h *Host) error {
	names, err := h.VMs(ctx)
	if err != nil {
		return err
	}
	var all error
	for _, name := range names {
		state, err := h.State(ctx, name)
		switch {
		case err != nil:
			all = errors.Join(all, err)
		case state == Paused:
			all = errors.Join(all, fmt.Errorf("host %s: VM %s is paused", h.Name, name))
		case state == Running:
			// A guest without an agent cannot be asked, nor have been frozen.
			if frozen, err := w.Frozen(ctx, h.Name, name); err == nil && frozen {
				all = errors.Join(all, fmt.Errorf("host %s: the guest of VM %s is frozen", h.Name, name))
			}
		}
	}
	return all
}

// tidyFiles looks for images that no VM stands on and for unfinished files.
func (h *Host) tidyFiles(ctx context.Context) error {
	used, err := h.imagesInUse(ctx)
	if err != nil {
		return err
	}
	var all error
	err = filepath.WalkDir(filepath.Join(h.dir, "lib"), func(path string, d fs.DirEntry, err error) error {
		inside := "/var/lib/libvirt" + strings.TrimPrefix(path, filepath.Join(h.dir, "lib"))
		switch {
		case errors.Is(err, fs.ErrNotExist): // a running VM's file that went
			return nil
		case err != nil:
			return err
		case d.Type()&fs.ModeSocket != 0 && !strings.HasPrefix(inside, "/var/lib/libvirt/qemu/"):
			all = errors.Join(all, fmt.Errorf("host %s: socket %s is left", h.Name, inside))
		case d.IsDir():
		case strings.HasPrefix(d.Name(), ".new-") || filepath.Base(filepath.Dir(inside)) == "intents":
			all = errors.Join(all, fmt.Errorf("host %s: unfinished file %s is left", h.Name, inside))
		case filepath.Dir(inside) == Images && !used[inside]:
			all = errors.Join(all, fmt.Errorf("host %s: no VM stands on the file %s", h.Name, inside))
		}
		return nil
	})
	return errors.Join(err, all)
}

// imagesInUse returns every image of the chains of all VMs.
func (h *Host) imagesInUse(ctx context.Context) (map[string]bool, error) {
	names, err := h.VMs(ctx)
	if err != nil {
		return nil, err
	}
	used := map[string]bool{}
	for _, name := range names {
		disks, err := h.Disks(ctx, name)
		if err != nil {
			return nil, err
		}
		for _, disk := range disks {
			if disk.Path == "" { // an empty drive
				continue
			}
			chain, err := h.Chain(ctx, disk.Path)
			if err != nil {
				return nil, err
			}
			for _, path := range chain {
				used[path] = true
			}
		}
	}
	return used, nil
}

// Chain returns an image file and all that it stands on, from the top down.
func (h *Host) Chain(ctx context.Context, path string) ([]string, error) {
	out, err := h.Command(ctx, "qemu-img", "info", "-U", "--backing-chain", "--output=json", path).Output()
	if err != nil {
		return nil, fmt.Errorf("host %s: read image %s: %w", h.Name, path, err)
	}
	var chain []struct {
		Filename string `json:"filename"`
	}
	if err := json.Unmarshal(out, &chain); err != nil {
		return nil, fmt.Errorf("host %s: read image %s: %w", h.Name, path, err)
	}
	var paths []string
	for _, image := range chain {
		paths = append(paths, image.Filename)
	}
	return paths, nil
}

// helpers are the programs that serve a job only for its time.
var helpers = []string{"qemu-nbd", "qemu-img", "qemu-storage-daemon"}

func (h *Host) tidyProcesses(dir string) error {
	info, err := os.Stat(filepath.Join(h.dir, "lib"))
	if err != nil {
		return err
	}
	all, err := processesOf(dir)
	if err != nil {
		return err
	}
	var left error
	for _, p := range all {
		program, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", p.PID))
		if err != nil || !inside(p.PID, []os.FileInfo{info}) {
			continue
		}
		for _, helper := range helpers {
			if filepath.Base(program) == helper {
				left = errors.Join(left, fmt.Errorf("host %s: process %d (%s) is left", h.Name, p.PID, helper))
			}
		}
	}
	return left
}
