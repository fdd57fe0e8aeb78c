package sandbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
)

// Exports returns the processes that serve points to VMs which are restored live.
func (w *World) Exports() ([]int, error) {
	all, err := w.exports()
	var pids []int
	for _, p := range all {
		pids = append(pids, p.PID)
	}
	return pids, err
}

// KillExports ends them as a crash does; no error if there is none.
func (w *World) KillExports(ctx context.Context) error {
	all, err := w.exports()
	for _, p := range all {
		err = errors.Join(err, p.kill(ctx))
	}
	return err
}

func (w *World) exports() ([]process, error) {
	all, err := processesOf(w.Dir)
	if err != nil {
		return nil, err
	}
	var found []process
	for _, p := range all {
		line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.PID))
		if err == nil && bytes.HasSuffix(line, []byte("\x00export\x00")) {
			found = append(found, p)
		}
	}
	return found, nil
}
