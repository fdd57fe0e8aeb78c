package mover

import (
	"context"

	backstay "github.com/backstay/backstay"
)

// DrillRequest asks to make ready for a drill. Its VMs are made by Stage, Define
// and Start of plans that name it, and go by Abandon.
type DrillRequest struct {
	Job backstay.JobID
	// Network is the name of the isolated network that is made.
	Network string
	// Subnet is as in backstay.DrillPlan.
	Subnet string
}

// DrillNetwork is the isolated network of a drill.
type DrillNetwork struct {
	Name string
	// Subnet has the host's address in it; empty if the host is not in it, and Note
	// says why that is so.
	Subnet string
	Note   string
}

// DrillProbeRequest asks to try one probe of one VM of a drill.
type DrillProbeRequest struct {
	Job     backstay.JobID
	Network string
	VM      backstay.VMID
	Probe   backstay.DrillProbe
}

// DrillProbed is what one try found.
type DrillProbed struct {
	OK     bool
	Detail string
	// Address is that of the VM in the network, as far as it is known.
	Address string
}

// DrillSeen is whether anything was heard of a VM of a drill.
type DrillSeen struct {
	// How says by what; empty if nothing was heard.
	How     string
	Address string
	// Stopped says that the VM does not run any more, and why if that is known; empty
	// if it runs.
	Stopped string
}

// Picture is what a VM shows.
type Picture struct {
	PNG []byte
	Of  string // display or console
}

// Drills carries out what a drill needs beside restores. Each call is safe to repeat.
type Drills interface {
	// OpenDrill makes the drill's network, and journals it first. Where the host cannot be
	// kept safe from what is in it, the network is made without the host.
	OpenDrill(ctx context.Context, r DrillRequest) (DrillNetwork, error)
	// LookDrill tells whether the VM was heard of: by its agent or in the network.
	LookDrill(ctx context.Context, r DrillProbeRequest) (DrillSeen, error)
	// ProbeDrill tries a probe once, for some seconds at most. That it did not pass is no
	// error.
	ProbeDrill(ctx context.Context, r DrillProbeRequest) (DrillProbed, error)
	// Picture draws what a VM shows: its display or, if it has none, the end of what its
	// serial console said. CodeNotUp if there is neither.
	Picture(ctx context.Context, vm backstay.VMID) (Picture, error)
	// CloseDrill removes what OpenDrill made. Its VMs must be gone.
	CloseDrill(ctx context.Context, job backstay.JobID) error
}
