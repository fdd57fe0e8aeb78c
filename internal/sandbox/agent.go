package sandbox

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/digitalocean/go-libvirt"

	"github.com/backstay/backstay/internal/sandbox/guest"
)

// GuestError is a command in a guest that ended with another code than 0.
type GuestError struct {
	Command string
	Code    int
	Output  string // both standard output and standard error
}

// Error tells command, code and output.
func (e *GuestError) Error() string {
	return fmt.Sprintf("guest command %q ended with code %d: %s", e.Command, e.Code, strings.TrimSpace(e.Output))
}

// agentTimeout bounds one answer of a guest's agent, in seconds.
const agentTimeout = 10

// agent sends one command to a guest's agent and decodes the answer.
func (h *Host) agent(ctx context.Context, vm, command string, arguments, answer any) error {
	request := map[string]any{"execute": command}
	if arguments != nil {
		request["arguments"] = arguments
	}
	text, err := json.Marshal(request)
	if err != nil {
		return err
	}
	var reply struct {
		Return json.RawMessage `json:"return"`
	}
	err = h.domain(ctx, vm, func(l *libvirt.Libvirt, d libvirt.Domain) error {
		out, err := l.QEMUDomainAgentCommand(d, string(text), agentTimeout, 0)
		if err != nil {
			return err
		}
		if len(out) == 0 {
			return errors.New("the agent gave no answer")
		}
		return json.Unmarshal([]byte(out[0]), &reply)
	})
	if err != nil {
		return err
	}
	if answer == nil {
		return nil
	}
	return json.Unmarshal(reply.Return, answer)
}

// WaitAgent waits until a guest's agent answers.
func (w *World) WaitAgent(ctx context.Context, host, vm string) error {
	h, err := w.Host(host)
	if err != nil {
		return err
	}
	err = poll(ctx, 50*time.Millisecond, func() error { return h.agent(ctx, vm, "guest-ping", nil, nil) })
	if err != nil {
		console, _ := h.Console(vm)
		return fmt.Errorf("wait for the agent of VM %s: %w (its console ends: %q)", vm, err, console[max(0, len(console)-500):])
	}
	return nil
}

// Guest runs a shell command in a guest, as root, and returns its standard
// output; the error is a *GuestError if it ran and ended with another code than
// 0. It waits for the agent, and while the guest's file systems are frozen.
func (w *World) Guest(ctx context.Context, host, vm, command string) (string, error) {
	if err := w.WaitAgent(ctx, host, vm); err != nil {
		return "", err
	}
	h, err := w.Host(host)
	if err != nil {
		return "", err
	}
	var started struct {
		PID int `json:"pid"`
	}
	arguments := map[string]any{"path": "/bin/sh", "arg": []string{"-c", command}, "capture-output": true}
	err = poll(ctx, 50*time.Millisecond, func() error {
		err := h.agent(ctx, vm, "guest-exec", arguments, &started)
		if err != nil && !frozen(err) {
			return permanent{err}
		}
		return err
	})
	if err != nil {
		return "", err
	}
	var status struct {
		Exited   bool   `json:"exited"`
		ExitCode int    `json:"exitcode"`
		Out      string `json:"out-data"`
		Err      string `json:"err-data"`
	}
	err = poll(ctx, 20*time.Millisecond, func() error {
		err := h.agent(ctx, vm, "guest-exec-status", map[string]int{"pid": started.PID}, &status)
		if err != nil && !frozen(err) {
			return permanent{err}
		}
		if err == nil && !status.Exited {
			return fmt.Errorf("guest command %q still runs", command)
		}
		return err
	})
	if err != nil {
		return "", err
	}
	out, err1 := base64.StdEncoding.DecodeString(status.Out)
	stderr, err2 := base64.StdEncoding.DecodeString(status.Err)
	if err := errors.Join(err1, err2); err != nil {
		return "", fmt.Errorf("decode the agent's answer: %w", err)
	}
	if status.ExitCode != 0 {
		return string(out), &GuestError{Command: command, Code: status.ExitCode, Output: string(out) + string(stderr)}
	}
	return string(out), nil
}

// frozen tells whether the agent refused because file systems are frozen.
func frozen(err error) bool { return strings.Contains(err.Error(), "frozen") }

// Frozen tells whether a guest's file systems are frozen.
func (w *World) Frozen(ctx context.Context, host, vm string) (bool, error) {
	h, err := w.Host(host)
	if err != nil {
		return false, err
	}
	var status string
	err = h.agent(ctx, vm, "guest-fsfreeze-status", nil, &status)
	return status == "frozen", err
}

// WaitConsole waits until a guest has said on its serial console that it is up.
func (w *World) WaitConsole(ctx context.Context, host, vm string) error {
	h, err := w.Host(host)
	if err != nil {
		return err
	}
	return poll(ctx, 50*time.Millisecond, func() error {
		text, err := h.Console(vm)
		if err == nil && !strings.Contains(text, guest.Ready) {
			err = fmt.Errorf("VM %s is not up; its console ends: %q", vm, text[max(0, len(text)-500):])
		}
		return err
	})
}
