package libvirt

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/digitalocean/go-libvirt"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
)

// agentSlack is what libvirt may need beyond the guest agent's own time, before
// we stop waiting for libvirt.
const agentSlack = 300 * time.Millisecond

// PingAgent asks the guest agent for a sign of life. libvirt counts in seconds,
// so a timeout is rounded up to the next, and its own wait for the agent to be
// in step may come on top; ctx bounds all of it.
func (h *Host) PingAgent(ctx context.Context, id backstay.VMID, timeout time.Duration) error {
	if _, err := h.ask(ctx, id, `{"execute":"guest-ping"}`, timeout); err != nil {
		return fmt.Errorf("ping guest agent of %s: %w", id, err)
	}
	return nil
}

// AgentCommand sends one command to the guest agent and returns its answer.
func (h *Host) AgentCommand(ctx context.Context, id backstay.VMID, command string, timeout time.Duration) (string, error) {
	answer, err := h.ask(ctx, id, command, timeout)
	if err != nil {
		return "", fmt.Errorf("ask guest agent of %s for %s: %w", id, commandName(command), err)
	}
	return answer, nil
}

// commandName is a command without its arguments, which may hold what no log
// should (I10).
func commandName(command string) string {
	var c struct {
		Execute string `json:"execute"`
	}
	if json.Unmarshal([]byte(command), &c) != nil || c.Execute == "" {
		return "something"
	}
	return c.Execute
}

// ask sends one command and waits no longer than the timeout.
func (h *Host) ask(ctx context.Context, id backstay.VMID, command string, timeout time.Duration) (string, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, errTooLong)
	defer cancel()
	answer, err := call(ctx, h, timeout+callPatience, func(l *libvirt.Libvirt) (string, error) {
		d, err := lookup(l, id)
		if err != nil {
			return "", err
		}
		answer, err := l.QEMUDomainAgentCommand(d, command, seconds(timeout), 0)
		if err != nil || len(answer) == 0 {
			return "", err
		}
		return answer[0], nil
	})
	return answer, agentError(ctx, err)
}

// errTooLong is why our own wait for an agent ends.
var errTooLong = errors.New("it took too long")

// agentError makes ErrAgentSilent of what libvirt, or our own clock, says of an
// agent that does not answer.
func agentError(ctx context.Context, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, context.DeadlineExceeded) && errors.Is(context.Cause(ctx), errTooLong):
		return fmt.Errorf("%w: it did not answer in time", hypervisor.ErrAgentSilent)
	case isCode(err, libvirt.ErrAgentUnresponsive, libvirt.ErrAgentUnsynced, libvirt.ErrAgentCommandTimeout),
		strings.Contains(err.Error(), "QEMU guest agent is not"):
		return &knownError{hypervisor.ErrAgentSilent, err}
	}
	return err
}

// Freeze sets how long libvirt waits for the agent, and freezes.
func (h *Host) Freeze(ctx context.Context, id backstay.VMID, mounts []string, timeout time.Duration) (int, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, timeout+agentSlack, errTooLong)
	defer cancel()
	n, err := call(ctx, h, timeout+callPatience, func(l *libvirt.Libvirt) (int32, error) {
		d, err := lookup(l, id)
		if err != nil {
			return 0, err
		}
		if _, err := l.DomainAgentSetResponseTimeout(d, seconds(timeout), 0); err != nil && !isCode(err, libvirt.ErrNoSupport) {
			return 0, err
		}
		return l.DomainFsfreeze(d, mounts, 0)
	})
	if err != nil {
		return 0, fmt.Errorf("freeze VM %s: %w", id, agentError(ctx, err))
	}
	return int(n), nil
}

// Thaw thaws, without asking first: the guest waits for it.
func (h *Host) Thaw(ctx context.Context, id backstay.VMID) (int, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, thawTimeout, errTooLong)
	defer cancel()
	n, err := call(ctx, h, callPatience, func(l *libvirt.Libvirt) (int32, error) {
		d, err := lookup(l, id)
		if err != nil {
			return 0, err
		}
		n, err := l.DomainFsthaw(d, nil, 0)
		if isCode(err, libvirt.ErrOperationInvalid) { // it does not run
			return 0, nil
		}
		return n, err
	})
	if err != nil {
		return 0, fmt.Errorf("thaw VM %s: %w", id, agentError(ctx, err))
	}
	return int(n), nil
}

// Pause stops a running VM's processors.
func (h *Host) Pause(ctx context.Context, id backstay.VMID) error {
	err := h.do(ctx, callPatience, func(l *libvirt.Libvirt) error {
		d, err := lookup(l, id)
		if err != nil {
			return err
		}
		state, err := vmState(l, d)
		if err != nil {
			return err
		}
		if state != backstay.VMRunning {
			return fmt.Errorf("it does not run (%s)", state)
		}
		return l.DomainSuspend(d)
	})
	if err != nil {
		return fmt.Errorf("pause VM %s: %w", id, err)
	}
	return nil
}

// Resume lets a paused VM run on.
func (h *Host) Resume(ctx context.Context, id backstay.VMID) error {
	err := h.do(ctx, callPatience, func(l *libvirt.Libvirt) error {
		d, err := lookup(l, id)
		if err != nil {
			return err
		}
		state, err := vmState(l, d)
		if err != nil || state != backstay.VMPaused {
			return err
		}
		return l.DomainResume(d)
	})
	if err != nil {
		return fmt.Errorf("resume VM %s: %w", id, err)
	}
	return nil
}
