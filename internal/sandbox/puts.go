package sandbox

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// afterPuts is the fault that lets so many puts pass as its file says.
const afterPuts = "hold-after-puts"

// counted takes one of the puts that still pass; false if none does.
func (f Faults) counted() bool {
	file, err := os.OpenFile(filepath.Join(string(f), afterPuts), os.O_RDWR, 0)
	if err != nil {
		return true // it is not planned
	}
	defer file.Close()
	// Other units and other processes count at the same time.
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX); err != nil {
		return false
	}
	text := make([]byte, 20)
	n, _ := file.ReadAt(text, 0)
	left, err := strconv.Atoi(strings.TrimSpace(string(text[:n])))
	if err != nil || left <= 0 {
		return false
	}
	// Of the same length, so that who reads at the same time never finds it short.
	_, err = file.WriteAt([]byte(number(left-1)), 0)
	return err == nil
}

func number(n int) string {
	text := strconv.Itoa(n)
	return strings.Repeat(" ", max(0, 10-len(text))) + text
}

// HoldAfterPuts lets so many puts to the world's storage units pass and makes the
// others wait, until the fault "hold-after-puts" is lifted.
func (w *World) HoldAfterPuts(n int) error {
	if err := w.LiftFault(afterPuts); err != nil {
		return err
	}
	faults := w.faultsFolder()
	_ = os.Remove(filepath.Join(faults, "at-"+afterPuts))
	planned := filepath.Join(faults, ".planned")
	if err := os.WriteFile(planned, []byte(number(n)), 0o600); err != nil {
		return err
	}
	return os.Rename(planned, filepath.Join(faults, afterPuts))
}

// PutsLeft returns how many more puts would pass, and lifts the fault.
func (w *World) PutsLeft() (int, error) {
	text, err := os.ReadFile(filepath.Join(w.faultsFolder(), afterPuts))
	if err != nil {
		return 0, fmt.Errorf("read how many puts pass: %w", err)
	}
	left, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0, fmt.Errorf("read how many puts pass: %w", err)
	}
	return left, w.LiftFault(afterPuts)
}
