package guestagent

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
)

// Script has the guest's shell run a script, which goes to its standard input: paths
// in it may be any bytes, and stand in no list of processes. After patience, or when
// ctx ends, the shell is killed. What it printed is returned if it ended with 0.
func (a Agent) Script(ctx context.Context, script []byte, patience time.Duration) (string, error) {
	// The shell reads a compound command whole before it runs any of it, and what it
	// runs then does not eat the script.
	whole := append(append([]byte("{\n"), script...), "\n} </dev/null\n"...)
	pid, err := a.start(ctx, "/bin/sh", []string{"-s"}, whole)
	if err != nil {
		return "", fmt.Errorf("run a script in the guest: %w", err)
	}
	ended, err := a.wait(ctx, pid, waiting{patience, time.Second, startPatience})
	switch {
	case err != nil:
		a.kill(ctx, pid)
		return "", fmt.Errorf("run a script in the guest: %w", err)
	case ended.Signal != 0:
		return "", fmt.Errorf("run a script in the guest: it was ended by signal %d", ended.Signal)
	case ended.Code != 0:
		return "", fmt.Errorf("run a script in the guest: it ended with code %d: %s", ended.Code, Shown(ended.Err, MostOfError))
	}
	return ended.Out, nil
}

// kill asks a shell that takes too long to end, and gives it a moment: what comes
// next would meet it.
func (a Agent) kill(ctx context.Context, pid int) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), ToolPatience)
	defer cancel()
	if _, err := a.Start(ctx, "kill", []string{"-TERM", fmt.Sprint(pid)}); err != nil {
		return
	}
	_, _ = a.Wait(ctx, pid, Patience, time.Second)
}

// Quote makes one word of any bytes, for the shell.
func Quote(word string) string { return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'" }

// WhileFrozen passes questions on and asks again those that an agent refused, doing
// nothing: because the guest is frozen, for at most as long as the limit; and because
// not all of the question reached it, a few times.
func WhileFrozen(guests hypervisor.Guests, limit time.Duration) hypervisor.Guests {
	return patient{guests, limit}
}

type patient struct {
	hypervisor.Guests
	limit time.Duration
}

// mostGarbled is how often a question is asked again that did not reach the agent whole.
const mostGarbled = 5

// frozenPause is how often a frozen guest is asked again.
const frozenPause = 100 * time.Millisecond

// AgentCommand implements hypervisor.Guests.
func (p patient) AgentCommand(ctx context.Context, id backstay.VMID, command string, timeout time.Duration) (string, error) {
	limit := time.NewTimer(p.limit)
	defer limit.Stop()
	for garbled := 0; ; {
		answer, err := p.Guests.AgentCommand(ctx, id, command, timeout)
		switch {
		case err == nil || errors.Is(err, hypervisor.ErrAgentSilent):
			return answer, err
		case strings.Contains(err.Error(), "frozen"):
		case strings.Contains(err.Error(), "JSON parse error") && garbled < mostGarbled:
			garbled++
		default:
			return answer, err
		}
		select {
		case <-ctx.Done():
			return "", context.Cause(ctx)
		case <-limit.C:
			return "", err
		case <-time.After(frozenPause):
		}
	}
}
