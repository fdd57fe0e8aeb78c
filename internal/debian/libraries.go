package debian

import (
	"bytes"
	"debug/elf"
	"fmt"
	"path/filepath"
)

// libraryFolders is where Debian's loader looks.
var libraryFolders = []string{"/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib"}

// Libraries returns the shared libraries that a program needs, with those that
// they need in turn, and the loader: path in the system that it is meant for to
// path here. It looks for them below the roots in their order; "/" is this machine.
func Libraries(program string, roots ...string) (map[string]string, error) {
	c := closure{found: map[string]string{}, roots: roots}
	return c.found, c.add(program)
}

// Library returns one library with all that it needs, as Libraries does.
func Library(name string, roots ...string) (map[string]string, error) {
	c := closure{found: map[string]string{}, roots: roots}
	return c.found, c.addLibrary(name)
}

type closure struct {
	found map[string]string
	roots []string
}

func (c *closure) add(path string) error {
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
		if err := c.addLoader(string(bytes.TrimRight(loader, "\x00"))); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	needs, err := file.ImportedLibraries()
	if err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	for _, need := range needs {
		if err := c.addLibrary(need); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	return nil
}

// addLoader records the program loader. Its name in packages leads through links
// whose targets are absolute, so it is looked for in the folder of libraries too.
func (c *closure) addLoader(name string) error {
	for _, root := range c.roots {
		for _, dir := range append([]string{filepath.Dir(name)}, libraryFolders...) {
			path := filepath.Join(root, dir, filepath.Base(name))
			if real, err := filepath.EvalSymlinks(path); err == nil {
				c.found[name] = real
				return nil
			}
		}
	}
	return fmt.Errorf("loader %s is in none of %v", name, c.roots)
}

// addLibrary finds one library by name, records it, and adds what it needs.
func (c *closure) addLibrary(name string) error {
	for _, root := range c.roots {
		for _, dir := range libraryFolders {
			path := filepath.Join(dir, name)
			if _, ok := c.found[path]; ok {
				return nil
			}
			real, err := filepath.EvalSymlinks(filepath.Join(root, path))
			if err != nil {
				continue
			}
			c.found[path] = real
			return c.add(real)
		}
	}
	return fmt.Errorf("shared library %s is in none of %v", name, c.roots)
}
