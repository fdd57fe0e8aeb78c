package debian

import (
	"bytes"
	"debug/elf"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
)

// ModuleFiles returns the files of the named modules and of all that they need,
// in the order in which they must be loaded. A name without a file is taken to
// be built into the kernel.
//
// It reads each module's own list of dependencies, because the index that depmod
// writes does not exist for a kernel that was only unpacked.
func ModuleFiles(dir string, names []string) ([]string, error) {
	byName := map[string]string{}
	err := filepath.WalkDir(filepath.Join(dir, "kernel"), func(path string, d fs.DirEntry, err error) error {
		if name, ok := strings.CutSuffix(filepath.Base(path), ".ko"); ok && err == nil {
			byName[ModuleName(name)] = path
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
		name = ModuleName(name)
		path, ok := byName[name]
		if !ok || seen[name] {
			return nil
		}
		seen[name] = true
		needs, err := ModuleNeeds(path)
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

// ModuleName is the form in which dependencies name a module.
func ModuleName(name string) string { return strings.ReplaceAll(name, "-", "_") }

// ModuleNeeds reads the "depends=" entry of a module's .modinfo section.
func ModuleNeeds(path string) ([]string, error) {
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
