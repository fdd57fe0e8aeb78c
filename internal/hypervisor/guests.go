package hypervisor

import (
	"context"
	"errors"
	"time"

	backstay "github.com/backstay/backstay"
)

// ErrAgentSilent: the guest has no agent, or it did not answer in time. Whether
// it will still do what it was asked is unknown. What the agent answers with an
// error is not this.
var ErrAgentSilent = errors.New("guest agent does not answer")

// Guests asks something of what runs inside a VM, through its guest agent, or
// stops the VM for a moment. It promises nothing for the case that the caller
// dies between two calls: internal/quiesce does (I9). Every method fails with
// ErrNoVM for a VM that is not there and with ErrAway when the hypervisor does
// not answer; every one may be called concurrently, and is bounded by ctx.
type Guests interface {
	// PingAgent returns nil if the guest agent answered within the timeout.
	PingAgent(ctx context.Context, id backstay.VMID, timeout time.Duration) error
	// AgentCommand sends one command in the agent's own protocol, a JSON object,
	// and returns the whole JSON object that it answered with. ErrAgentSilent
	// after the timeout, which is rounded up to whole seconds; the agent's own
	// errors (a command that is forbidden, or that a frozen guest refuses) come
	// with its words.
	AgentCommand(ctx context.Context, id backstay.VMID, command string, timeout time.Duration) (string, error)
	// Freeze freezes the guest's file systems at the mount points, or all of them
	// if mounts is empty, and returns how many were. After an error, also that of
	// a ctx which ended, the guest may be frozen or may yet become so: call Thaw
	// until it answers.
	Freeze(ctx context.Context, id backstay.VMID, mounts []string, timeout time.Duration) (int, error)
	// Thaw thaws whatever the guest agent froze, and returns how many file
	// systems that were: 0 if none was frozen, or if the VM does not run.
	// ErrAgentSilent if nobody can tell.
	Thaw(ctx context.Context, id backstay.VMID) (int, error)
	// Pause stops the processors of a running VM; an error if it does not run.
	Pause(ctx context.Context, id backstay.VMID) error
	// Resume lets a paused VM run on. No error if it runs or is shut off.
	Resume(ctx context.Context, id backstay.VMID) error
}
