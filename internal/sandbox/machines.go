package sandbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// smallMachine is the name under which movers run small machines.
const smallMachine = "backstay-small-machine"

// SmallMachines returns the small machines of all movers, the spare ones too.
func (w *World) SmallMachines() ([]int, error) {
	all, err := w.smallMachines()
	var pids []int
	for _, p := range all {
		pids = append(pids, p.PID)
	}
	return pids, err
}

// KillSmallMachines ends them as a crash does; no error if there is none.
func (w *World) KillSmallMachines(ctx context.Context) error {
	all, err := w.smallMachines()
	for _, p := range all {
		err = errors.Join(err, p.kill(ctx))
	}
	return err
}

func (w *World) smallMachines() ([]process, error) {
	all, err := processesOf(w.Dir)
	if err != nil {
		return nil, err
	}
	var found []process
	for _, p := range all {
		line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.PID))
		if err == nil && bytes.Contains(line, []byte("\x00-name\x00"+smallMachine+"\x00")) {
			found = append(found, p)
		}
	}
	return found, nil
}

// SessionFolders returns the folders of sockets that sessions of item-level restore
// have on the hosts.
func (w *World) SessionFolders() ([]string, error) {
	var all []string
	for _, h := range w.Hosts {
		found, err := filepath.Glob(filepath.Join(h.dir, "run", "backstay", "files-*"))
		if err != nil {
			return nil, err
		}
		all = append(all, found...)
	}
	return all, nil
}
