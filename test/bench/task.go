package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
)

// task is what a worker process is to do. Which fields count depends on Op.
type task struct {
	Op      string
	Vault   string // folder of a vault: its storage units, its key, its points
	Copies  int    // storage units
	Point   string // the point's name in this benchmark: first, second …
	Parent  string
	Image   string // a raw image
	Overlay string // a qcow2 overlay with the image's changes, whose map is read
	Ranges  string // a file of ranges, as a map that is known already
	Sources string // a list of source files
	Out     string
	Bytes   int64
	Step    int
	Flat    bool // change blocks of the image, not files in it
}

// tasks are what workers can do. Each returns figures of its own.
var tasks = map[string]func(context.Context, task) (map[string]float64, error){
	"image":      makeImage,
	"change":     changeImage,
	"overlay":    makeOverlay,
	"same":       sameImages,
	"create":     createVault,
	"backup":     backupImage,
	"restore":    restorePoint,
	"primitives": measurePrimitives,
	"cold":       coldReads,
	"warm":       warmReads,
	"warm-qemu":  warmReadsQEMU,
	"plan":       planDisk,
	"index-make": makeIndex,
	"index-open": openIndex,
	"sweep":      sweep,
}

// memoryLimit is where the garbage collector begins to work harder, in bytes: the
// limit under which server and movers run (package daemon), for what they do.
const memoryLimit = 144 << 20

// work is the main of a worker process: its figures go to standard output.
func work(ctx context.Context, arg string) error {
	var t task
	if err := json.Unmarshal([]byte(arg), &t); err != nil {
		return fmt.Errorf("read task: %w", err)
	}
	fn, ok := tasks[t.Op]
	if !ok {
		return fmt.Errorf("there is no task %q", t.Op)
	}
	if t.Vault != "" || t.Op == "plan" || t.Op == "index-make" || t.Op == "index-open" {
		debug.SetMemoryLimit(memoryLimit)
	}
	said, err := fn(ctx, t)
	if err != nil {
		return fmt.Errorf("%s: %w", t.Op, err)
	}
	if said == nil {
		said = map[string]float64{}
	}
	if said["peak"], err = peak(); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(said)
}

// peak returns the most memory that this process had resident, in bytes.
func peak() (float64, error) {
	data, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	for lines := bufio.NewScanner(bytes.NewReader(data)); lines.Scan(); {
		if rest, ok := strings.CutPrefix(lines.Text(), "VmHWM:"); ok {
			kib, err := strconv.ParseFloat(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 64)
			return kib * 1024, err
		}
	}
	return 0, fmt.Errorf("the kernel does not say how much memory was used")
}
