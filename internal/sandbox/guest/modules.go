package guest

import (
	"bytes"
	"debug/elf"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
)

// drivers are what the guest needs to find its disks and to talk to its host.
var drivers = []string{
	"virtio_pci", "virtio_blk", "virtio_scsi", "sd_mod",
	"virtio_console", "virtio_net", "virtio-rng", "virtio_balloon",
}

// moduleFiles returns the files of the named modules and of all that they need,
// in the order in which they must be loaded. A name without a file is taken to
// be built into the kernel.
//
// It reads each module's own list of dependencies, because the index that depmod
// writes does not exist for a kernel that was only unpacked.
func moduleFiles(dir string, names []string) ([]string, error) {
	byName := map[string]string{}
	err := filepath.WalkDir(filepath.Join(dir, "kernel"), func(path string, d fs.DirEntry, err error) error {
		if name, ok := strings.CutSuffix(filepath.Base(path), ".ko"); ok && err == nil {
			byName[moduleName(name)] = path
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list kernel modules: %w", err)
	}
	var order []string
	seen := map[string]bool{}
	var add func(name string) error
	add = func(name string) error {
		name = moduleName(name)
		path, ok := byName[name]
		if !ok || seen[name] {
			return nil
		}
		seen[name] = true
		needs, err := moduleNeeds(path)
		if err != nil {
			return err
		}
		for _, need := range needs {
			if err := add(need); err != nil {
				return err
			}
		}
		order = append(order, path)
		return nil
	}
	for _, name := range names {
		if err := add(name); err != nil {
			return nil, err
		}
	}
	if len(order) == 0 {
		return nil, fmt.Errorf("list kernel modules: none of %v is in %s", names, dir)
	}
	return order, nil
}

// moduleName is the form in which dependencies name a module.
func moduleName(name string) string { return strings.ReplaceAll(name, "-", "_") }

// moduleNeeds reads the "depends=" entry of a module's .modinfo section.
func moduleNeeds(path string) ([]string, error) {
	file, err := elf.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read module %s: %w", path, err)
	}
	defer file.Close()
	section := file.Section(".modinfo")
	if section == nil {
		return nil, nil
	}
	data, err := section.Data()
	if err != nil {
		return nil, fmt.Errorf("read module %s: %w", path, err)
	}
	for entry := range bytes.SplitSeq(data, []byte{0}) {
		if list, ok := strings.CutPrefix(string(entry), "depends="); ok && list != "" {
			return strings.Split(list, ","), nil
		}
	}
	return nil, nil
}

// libraryFolders is where Debian's loader looks.
var libraryFolders = []string{"/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib"}

// libraries returns the shared libraries that a program needs, with those that
// they need in turn, and the loader: path in the guest to path here.
func libraries(program string) (map[string]string, error) {
	found := map[string]string{}
	var add func(path string) error
	add = func(path string) error {
		file, err := elf.Open(path)
		if err != nil {
			return fmt.Errorf("read %s: %w", path, err)
		}
		defer file.Close()
		if s := file.Section(".interp"); s != nil {
			loader, err := s.Data()
			if err != nil {
				return fmt.Errorf("read %s: %w", path, err)
			}
			name := string(bytes.TrimRight(loader, "\x00"))
			found[name] = name
		}
		needs, err := file.ImportedLibraries()
		if err != nil {
			return fmt.Errorf("read %s: %w", path, err)
		}
		for _, need := range needs {
			if err := addLibrary(found, need, add); err != nil {
				return fmt.Errorf("%s: %w", path, err)
			}
		}
		return nil
	}
	return found, add(program)
}

// addLibrary finds one library by name, records it, and adds what it needs.
func addLibrary(found map[string]string, name string, add func(string) error) error {
	for _, dir := range libraryFolders {
		path := filepath.Join(dir, name)
		if _, ok := found[path]; ok {
			return nil
		}
		if _, err := filepath.EvalSymlinks(path); err != nil {
			continue
		}
		found[path] = path
		return add(path)
	}
	return fmt.Errorf("shared library %s is not on this machine", name)
}
