// Package daemon is the assembly drawing: the one place that names adapters. It
// puts the server of a region together from its parts, and the mover of a host
// ("backstay agent"), and makes a new region ("backstay init").
//
// It holds no logic of its own beyond starting, stopping and keeping up with
// the hosts; what is decided is decided in the engines.
package daemon

import (
	"context"
	"os"
	"runtime/debug"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/blob"
)

// Hooks let the sandbox interfere where a fault would. The zero value does
// nothing, and `backstay` itself uses no other.
type Hooks struct {
	// BeforeStep is called before each step of each job; it may block.
	BeforeStep func(ctx context.Context, job backstay.Job, step string)
	// Unit wraps each storage unit as it is opened.
	Unit func(url string, s blob.Store) blob.Store
	// Held is called while a guest is frozen or paused, before its disks are
	// switched; it may block.
	Held func(ctx context.Context, vm backstay.VMID)
}

// Daemon is the set of long-running commands. Its zero value is what users run.
type Daemon struct {
	Hooks Hooks
	// Self is the command to which guard or export is added to run Guard or Export
	// in a process of its own; empty means this program.
	Self []string
}

// memoryLimit is where the garbage collector begins to work harder, in bytes:
// well below the 256 MiB that a server or mover may take beside the guests. A
// backup of 2 GiB of random data used 187 MiB at most with a limit of 192 MiB,
// 156 with 144 and 127 with 112, and no more processor time with the lower ones.
const memoryLimit = 144 << 20

// limitMemory sets the limit, unless the user did with GOMEMLIMIT.
func limitMemory() {
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(memoryLimit)
	}
}
