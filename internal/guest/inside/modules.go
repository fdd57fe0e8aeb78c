package inside

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// moduleFolder holds the kernel's modules, and the file "order" that says for each
// in which order it and what it needs are loaded.
const moduleFolder = "/modules/"

var modules struct {
	mu     sync.Mutex
	order  map[string][]string // guarded by mu; nil until read
	loaded map[string]bool     // guarded by mu
}

// load loads modules of the kernel and what they need. One that the image does
// not have is taken to be built in.
func load(names ...string) error {
	modules.mu.Lock()
	defer modules.mu.Unlock()
	if modules.order == nil {
		text, err := os.ReadFile(moduleFolder + "order")
		if err != nil {
			return fmt.Errorf("load modules: %w", err)
		}
		modules.order, modules.loaded = map[string][]string{}, map[string]bool{}
		for line := range strings.Lines(string(text)) {
			name, chain, _ := strings.Cut(strings.TrimSpace(line), ":")
			modules.order[name] = strings.Fields(chain)
		}
	}
	for _, name := range names {
		for _, m := range modules.order[strings.ReplaceAll(name, "-", "_")] {
			if modules.loaded[m] {
				continue
			}
			if err := insert(m); err != nil {
				return fmt.Errorf("load module %s: %w", m, err)
			}
			modules.loaded[m] = true
		}
	}
	return nil
}

func insert(name string) error {
	file, err := os.Open(moduleFolder + name + ".ko")
	if err != nil {
		return err
	}
	defer file.Close()
	if err := unix.FinitModule(int(file.Fd()), "", 0); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	return nil
}
