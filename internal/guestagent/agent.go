// Package guestagent asks the agent of one guest for something: what the guest is,
// to run a program, to write a file. It bounds how long each answer may take, and
// makes what a guest says fit to be shown.
//
// It promises nothing for a caller that dies between two questions, and decides
// nothing: freezing is internal/quiesce's, putting files back is mover/host's.
package guestagent

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
)

// Patience bounds each question whose answer needs no work.
const Patience = 2 * time.Second

// ToolPatience bounds the guest's own small tools.
const ToolPatience = 10 * time.Second

// Agent asks one guest's agent. It has no state: it may be copied and used
// concurrently.
type Agent struct {
	Guests hypervisor.Guests
	VM     backstay.VMID
}

// Ask sends one command and decodes what it returned.
func (a Agent) Ask(ctx context.Context, command string, arguments, result any) error {
	return a.ask(ctx, Patience, command, question{arguments, result})
}

// question is what a command takes and returns.
type question struct{ arguments, result any }

func (a Agent) ask(ctx context.Context, patience time.Duration, command string, q question) error {
	request, err := json.Marshal(struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
	}{command, q.arguments})
	if err != nil {
		return fmt.Errorf("encode %s: %w", command, err)
	}
	answer, err := a.Guests.AgentCommand(ctx, a.VM, string(request), patience)
	if err != nil {
		return Error{err}
	}
	whole := struct {
		Return any `json:"return"`
	}{q.result}
	if err := json.Unmarshal([]byte(answer), &whole); err != nil {
		return fmt.Errorf("read what the guest agent answered to %s: %w", command, err)
	}
	return nil
}

// Allows tells whether the guest's owner lets the agent run all the commands.
func (a Agent) Allows(ctx context.Context, commands ...string) (bool, error) {
	forbidden, err := a.Forbidden(ctx, commands...)
	return err == nil && len(forbidden) == 0, err
}

// Forbidden returns those of the commands that the guest's owner does not let the
// agent run, or that it does not know.
func (a Agent) Forbidden(ctx context.Context, commands ...string) ([]string, error) {
	var info struct {
		Commands []struct {
			Name    string `json:"name"`
			Enabled bool   `json:"enabled"`
		} `json:"supported_commands"`
	}
	if err := a.Ask(ctx, "guest-info", nil, &info); err != nil {
		return nil, err
	}
	enabled := map[string]bool{}
	for _, c := range info.Commands {
		enabled[c.Name] = c.Enabled
	}
	return slices.DeleteFunc(slices.Clone(commands), func(c string) bool { return enabled[c] }), nil
}

// Windows tells whether the guest says that it runs Windows. An agent that does
// not tell is taken for Linux.
func (a Agent) Windows(ctx context.Context) (bool, error) {
	var os struct {
		ID string `json:"id"`
	}
	err := a.Ask(ctx, "guest-get-osinfo", nil, &os)
	if errors.Is(err, hypervisor.ErrAgentSilent) {
		return false, err
	}
	return os.ID == "mswindows", nil
}

// Mounts lists the mount points of the guest's file systems.
func (a Agent) Mounts(ctx context.Context) ([]string, error) {
	var all []struct {
		Mountpoint string `json:"mountpoint"`
	}
	if err := a.Ask(ctx, "guest-get-fsinfo", nil, &all); err != nil {
		return nil, err
	}
	var points []string
	for _, fs := range all {
		points = append(points, fs.Mountpoint)
	}
	return points, nil
}

// Frozen tells whether the guest's file systems are frozen.
func (a Agent) Frozen(ctx context.Context) (bool, error) {
	var status string
	err := a.Ask(ctx, "guest-fsfreeze-status", nil, &status)
	return status == "frozen", err
}

// Ended is how a program in the guest ended, and what it wrote.
type Ended struct {
	Code     int
	Signal   int
	Out, Err string
}

// ErrStillRuns: the program had not ended when its time was over.
var ErrStillRuns = errors.New("it still runs")

// Start starts a program in the guest and returns its process id there.
func (a Agent) Start(ctx context.Context, path string, args []string) (int, error) {
	return a.start(ctx, path, args, nil)
}

// startPatience is how long a program may take to start that is given input.
const startPatience = 20 * time.Second

func (a Agent) start(ctx context.Context, path string, args []string, input []byte) (int, error) {
	var started struct {
		PID int `json:"pid"`
	}
	if args == nil {
		args = []string{} // the agent takes no null
	}
	arguments := map[string]any{"path": path, "arg": args, "capture-output": true}
	patience := Patience
	if input != nil {
		arguments["input-data"], patience = input, startPatience
	}
	err := a.ask(ctx, patience, "guest-exec", question{arguments, &started})
	return started.PID, err
}

// Polling begins quickly, since most programs are quick.
const firstPoll = 20 * time.Millisecond

// Wait waits for a program to end, looking at most every poll.
func (a Agent) Wait(ctx context.Context, pid int, timeout, poll time.Duration) (Ended, error) {
	return a.wait(ctx, pid, waiting{timeout, poll, Patience})
}

// waiting is how long a program is waited for, how often it is looked at, and how
// long each look may take.
type waiting struct{ timeout, poll, look time.Duration }

func (a Agent) wait(ctx context.Context, pid int, w waiting) (Ended, error) {
	deadline := time.NewTimer(w.timeout)
	defer deadline.Stop()
	for pause := firstPoll; ; pause = min(2*pause, w.poll) {
		ended, running, err := a.status(ctx, pid, w.look)
		if err != nil || !running {
			return ended, err
		}
		select {
		case <-ctx.Done():
			return Ended{}, context.Cause(ctx)
		case <-deadline.C:
			return Ended{}, ErrStillRuns
		case <-time.After(pause):
		}
	}
}

func (a Agent) status(ctx context.Context, pid int, patience time.Duration) (ended Ended, running bool, err error) {
	var s struct {
		Exited   bool   `json:"exited"`
		ExitCode int    `json:"exitcode"`
		Signal   int    `json:"signal"`
		Out      string `json:"out-data"`
		Err      string `json:"err-data"`
	}
	if err := a.ask(ctx, patience, "guest-exec-status", question{map[string]int{"pid": pid}, &s}); err != nil {
		return Ended{}, false, err
	}
	return Ended{s.ExitCode, s.Signal, decoded(s.Out), decoded(s.Err)}, !s.Exited, nil
}

func decoded(data string) string {
	b, err := base64.StdEncoding.DecodeString(data)
	if err != nil {
		return ""
	}
	return string(b)
}

// Run runs one of the guest's own small tools.
func (a Agent) Run(ctx context.Context, path string, args ...string) (Ended, error) {
	pid, err := a.Start(ctx, path, args)
	if err != nil {
		return Ended{}, err
	}
	return a.Wait(ctx, pid, ToolPatience, time.Second)
}
