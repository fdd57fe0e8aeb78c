package sandbox

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
)

// gets is the file in the folder of faults to which every get of a storage unit
// adds a line, for as long as it is there.
const gets = "count-gets"

// got notes a get that succeeded. A line is short enough to be written whole.
func (f Faults) got(n int) {
	log, err := os.OpenFile(filepath.Join(string(f), gets), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return
	}
	_, _ = log.WriteString(strconv.Itoa(n) + "\n")
	_ = log.Close()
}

// CountGets begins to count what the world's server and movers get from storage
// units, below every cache of theirs.
func (w *World) CountGets() error { return w.PlanFault(gets) }

// Gets returns how many gets there were since CountGets and how many bytes they
// brought, and ends the count.
func (w *World) Gets() (requests, size int64, err error) {
	text, err := os.ReadFile(filepath.Join(w.faultsFolder(), gets))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, 0, errors.New("gets were not counted")
	}
	if err != nil {
		return 0, 0, err
	}
	for line := range bytes.Lines(text) {
		n, err := strconv.ParseInt(string(bytes.TrimSpace(line)), 10, 64)
		if err != nil {
			return 0, 0, fmt.Errorf("count gets: %w", err)
		}
		requests, size = requests+1, size+n
	}
	return requests, size, w.LiftFault(gets)
}
