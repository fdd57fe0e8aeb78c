package quiesce

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
)

// agentPatience bounds each question to a guest agent.
const agentPatience = 2 * time.Second

// agent asks one guest's agent.
type agent struct {
	guests hypervisor.Guests
	vm     backstay.VMID
}

// ask sends one command and decodes what it returned.
func (a agent) ask(ctx context.Context, command string, arguments, result any) error {
	request, err := json.Marshal(struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
	}{command, arguments})
	if err != nil {
		return fmt.Errorf("encode %s: %w", command, err)
	}
	answer, err := a.guests.AgentCommand(ctx, a.vm, string(request), agentPatience)
	if err != nil {
		return fromGuest{err}
	}
	whole := struct {
		Return any `json:"return"`
	}{result}
	if err := json.Unmarshal([]byte(answer), &whole); err != nil {
		return fmt.Errorf("read what the guest agent answered to %s: %w", command, err)
	}
	return nil
}

// fromGuest is an error in whose words the guest may have had a hand: they are
// shown to people on terminals, and kept.
type fromGuest struct{ err error }

func (e fromGuest) Error() string { return shown(e.err.Error(), mostOfError) }
func (e fromGuest) Unwrap() error { return e.err }

// allows tells whether the guest's owner lets the agent run all the commands.
func (a agent) allows(ctx context.Context, commands ...string) (bool, error) {
	var info struct {
		Commands []struct {
			Name    string `json:"name"`
			Enabled bool   `json:"enabled"`
		} `json:"supported_commands"`
	}
	if err := a.ask(ctx, "guest-info", nil, &info); err != nil {
		return false, err
	}
	enabled := map[string]bool{}
	for _, c := range info.Commands {
		enabled[c.Name] = c.Enabled
	}
	for _, c := range commands {
		if !enabled[c] {
			return false, nil
		}
	}
	return true, nil
}

// windows tells whether the guest says that it runs Windows. An agent that does
// not tell is taken for Linux.
func (a agent) windows(ctx context.Context) (bool, error) {
	var os struct {
		ID string `json:"id"`
	}
	err := a.ask(ctx, "guest-get-osinfo", nil, &os)
	if errors.Is(err, hypervisor.ErrAgentSilent) {
		return false, err
	}
	return os.ID == "mswindows", nil
}

// mounts lists the mount points of the guest's file systems.
func (a agent) mounts(ctx context.Context) ([]string, error) {
	var all []struct {
		Mountpoint string `json:"mountpoint"`
	}
	if err := a.ask(ctx, "guest-get-fsinfo", nil, &all); err != nil {
		return nil, err
	}
	var points []string
	for _, fs := range all {
		points = append(points, fs.Mountpoint)
	}
	return points, nil
}

// ended is how a program in the guest ended.
type ended struct {
	code     int
	signal   int
	out, err string
}

// errStillRuns: the program had not ended when its time was over.
var errStillRuns = errors.New("it still runs")

// start starts a program in the guest and returns its process id there.
func (a agent) start(ctx context.Context, path string, args []string) (int, error) {
	var started struct {
		PID int `json:"pid"`
	}
	if args == nil {
		args = []string{} // the agent takes no null
	}
	err := a.ask(ctx, "guest-exec", map[string]any{"path": path, "arg": args, "capture-output": true}, &started)
	return started.PID, err
}

// Polling begins quickly, since most programs are quick.
const firstPoll = 20 * time.Millisecond

// wait waits for a program to end, looking at most every poll.
func (a agent) wait(ctx context.Context, pid int, timeout, poll time.Duration) (ended, error) {
	deadline := time.NewTimer(timeout)
	defer deadline.Stop()
	for pause := firstPoll; ; pause = min(2*pause, poll) {
		var s struct {
			Exited   bool   `json:"exited"`
			ExitCode int    `json:"exitcode"`
			Signal   int    `json:"signal"`
			Out      string `json:"out-data"`
			Err      string `json:"err-data"`
		}
		if err := a.ask(ctx, "guest-exec-status", map[string]int{"pid": pid}, &s); err != nil {
			return ended{}, err
		}
		if s.Exited {
			return ended{s.ExitCode, s.Signal, decoded(s.Out), decoded(s.Err)}, nil
		}
		select {
		case <-ctx.Done():
			return ended{}, context.Cause(ctx)
		case <-deadline.C:
			return ended{}, errStillRuns
		case <-time.After(pause):
		}
	}
}

func decoded(data string) string {
	b, err := base64.StdEncoding.DecodeString(data)
	if err != nil {
		return ""
	}
	return string(b)
}

// run runs one of the guest's own small tools.
func (a agent) run(ctx context.Context, path string, args ...string) (ended, error) {
	pid, err := a.start(ctx, path, args)
	if err != nil {
		return ended{}, err
	}
	return a.wait(ctx, pid, toolPatience, time.Second)
}

// toolPatience bounds stat and cat in the guest.
const toolPatience = 10 * time.Second
