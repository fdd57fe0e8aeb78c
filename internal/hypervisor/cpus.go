package hypervisor

import (
	"context"
	"errors"
)

// Errors by which callers of CPUs decide.
var (
	// ErrCPUMode: the host has no CPU of the mode that a definition names.
	ErrCPUMode = errors.New("the host does not offer such a CPU")
	// ErrCPUFeature: the host's CPU lacks what a definition demands.
	ErrCPUFeature = errors.New("the host's CPU lacks features")
)

// CPUs tells what a VM's start would say of its CPU.
type CPUs interface {
	// CheckCPU finds out whether the host can give a VM of this definition the CPU
	// that it demands: ErrCPUMode, ErrCPUFeature, ErrAway; nil if it can, if the
	// definition demands nothing, or if the hypervisor cannot tell beforehand.
	CheckCPU(ctx context.Context, xml string) error
}
