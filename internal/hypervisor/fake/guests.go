package fake

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
)

// Guest is what runs inside a fake VM, as far as its guest agent tells. Its zero
// value is a Linux guest with one file system at /, no files, and nothing
// forbidden. A test scripts it before use, with Host.SetGuest.
type Guest struct {
	// OS is what guest-get-osinfo answers as id; "" means debian.
	OS string
	// Mounts are the mount points of file systems that can be frozen.
	Mounts []string
	// Forbidden are agent commands that the guest's owner disabled.
	Forbidden []string
	// Files are what stat and cat, run by guest-exec, find.
	Files map[string]GuestFile
	// Run is what guest-exec of a program other than stat, cat and kill does. It
	// must not call the Host. Nil means that there is no program.
	Run func(path string, args []string) Ran
}

// GuestFile is a file or folder in a guest.
type GuestFile struct {
	UID     int
	Mode    uint32 // as in stat: type and permissions
	Content string
}

// Ran is what a program in a guest did.
type Ran struct {
	Code   int
	Output string // what it wrote to its standard error
	// Endless: it never ends.
	Endless bool
	// Missing: there is no such program.
	Missing bool
}

// SetGuest says what runs inside a VM.
func (h *Host) SetGuest(id backstay.VMID, g Guest) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.vms[id].guest = g
}

// Frozen tells whether a guest's file systems are frozen.
func (h *Host) Frozen(id backstay.VMID) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.vms[id].frozen
}

// Paused tells whether a VM's processors are stopped.
func (h *Host) Paused(id backstay.VMID) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.vms[id].paused
}

// Elsewhere is the same host for another process: calls through it do not pass
// Hook. It stands for what goes on when the process under test is dead.
func (h *Host) Elsewhere() hypervisor.Guests { return elsewhere{h} }

type elsewhere struct{ h *Host }

func (e elsewhere) PingAgent(ctx context.Context, id backstay.VMID, _ time.Duration) error {
	return e.h.ping(ctx, id, false)
}
func (e elsewhere) AgentCommand(ctx context.Context, id backstay.VMID, command string, _ time.Duration) (string, error) {
	return e.h.agentCommand(ctx, id, command, false)
}
func (e elsewhere) Freeze(ctx context.Context, id backstay.VMID, mounts []string, _ time.Duration) (int, error) {
	return e.h.freeze(ctx, id, mounts, false)
}
func (e elsewhere) Thaw(ctx context.Context, id backstay.VMID) (int, error) {
	return e.h.thaw(ctx, id, false)
}
func (e elsewhere) Pause(ctx context.Context, id backstay.VMID) error {
	return e.h.pause(ctx, id, true, false)
}
func (e elsewhere) Resume(ctx context.Context, id backstay.VMID) error {
	return e.h.pause(ctx, id, false, false)
}

// PingAgent says at once whether the agent answers.
func (h *Host) PingAgent(ctx context.Context, id backstay.VMID, _ time.Duration) error {
	return h.ping(ctx, id, true)
}

// AgentCommand does what the guest agent would, as far as Guest goes. A guest
// whose agent is not connected answers nothing.
func (h *Host) AgentCommand(ctx context.Context, id backstay.VMID, command string, _ time.Duration) (string, error) {
	return h.agentCommand(ctx, id, command, true)
}

// Freeze freezes the guest.
func (h *Host) Freeze(ctx context.Context, id backstay.VMID, mounts []string, _ time.Duration) (int, error) {
	return h.freeze(ctx, id, mounts, true)
}

// Thaw thaws the guest.
func (h *Host) Thaw(ctx context.Context, id backstay.VMID) (int, error) { return h.thaw(ctx, id, true) }

// Pause stops a VM's processors.
func (h *Host) Pause(ctx context.Context, id backstay.VMID) error {
	return h.pause(ctx, id, true, true)
}

// Resume lets a VM run on.
func (h *Host) Resume(ctx context.Context, id backstay.VMID) error {
	return h.pause(ctx, id, false, true)
}

// enterGuest is enterVM for this process, or without the hook for another.
func (h *Host) enterGuest(ctx context.Context, call string, id backstay.VMID, here bool) (*vm, error) {
	if here {
		return h.enterVM(ctx, call, id)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if h.away {
		return nil, hypervisor.ErrAway
	}
	v, ok := h.vms[id]
	if !ok {
		return nil, fmt.Errorf("%s: %w", id, hypervisor.ErrNoVM)
	}
	return v, nil
}

func (v *vm) agentAnswers() error {
	if v.live == nil || v.paused || v.agent != backstay.AgentConnected {
		return hypervisor.ErrAgentSilent
	}
	return nil
}

func (h *Host) ping(ctx context.Context, id backstay.VMID, here bool) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	v, err := h.enterGuest(ctx, "ping", id, here)
	if err != nil {
		return err
	}
	return v.agentAnswers()
}

func (h *Host) freeze(ctx context.Context, id backstay.VMID, mounts []string, here bool) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	v, err := h.enterGuest(ctx, "freeze", id, here)
	if err != nil {
		return 0, err
	}
	if err := errors.Join(v.agentAnswers(), v.quiesce); err != nil {
		return 0, fmt.Errorf("freeze VM %s: %w", id, err)
	}
	if v.frozen {
		return 0, fmt.Errorf("freeze VM %s: the command guest-fsfreeze-freeze has been disabled: the agent is in frozen state", id)
	}
	have := v.guest.mounts()
	for _, m := range mounts {
		if !slices.Contains(have, m) {
			return 0, fmt.Errorf("freeze VM %s: nothing is mounted at %s", id, m)
		}
	}
	v.frozen, v.frozenMounts = true, len(mounts)
	if len(mounts) == 0 {
		v.frozenMounts = len(have)
	}
	return v.frozenMounts, nil
}

func (h *Host) thaw(ctx context.Context, id backstay.VMID, here bool) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	v, err := h.enterGuest(ctx, "thaw", id, here)
	if err != nil || v.live == nil {
		return 0, err
	}
	if err := v.agentAnswers(); err != nil {
		return 0, fmt.Errorf("thaw %s: %w", id, err)
	}
	if !v.frozen {
		return 0, nil
	}
	v.frozen = false
	return max(1, v.frozenMounts), nil
}

func (h *Host) pause(ctx context.Context, id backstay.VMID, pause, here bool) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	call := map[bool]string{true: "pause", false: "resume"}[pause]
	v, err := h.enterGuest(ctx, call, id, here)
	if err != nil {
		return err
	}
	if pause && (v.live == nil || v.paused) {
		return fmt.Errorf("pause %s: it does not run", id)
	}
	v.paused = pause && v.live != nil
	h.changed(id)
	return nil
}

func (g *Guest) mounts() []string {
	if len(g.Mounts) == 0 {
		return []string{"/"}
	}
	return g.Mounts
}

// agentRequest is a command as the agent's protocol has it.
type agentRequest struct {
	Execute   string `json:"execute"`
	Arguments struct {
		Path string   `json:"path"`
		Arg  []string `json:"arg"`
		PID  int      `json:"pid"`
	} `json:"arguments"`
}

// whileFrozen are the commands that an agent takes when it has frozen something.
var whileFrozen = []string{"guest-ping", "guest-info", "guest-fsfreeze-status", "guest-fsfreeze-thaw"}

var agentCommands = []string{
	"guest-ping", "guest-info", "guest-get-osinfo", "guest-get-fsinfo", "guest-fsfreeze-status",
	"guest-fsfreeze-freeze", "guest-fsfreeze-freeze-list", "guest-fsfreeze-thaw", "guest-exec", "guest-exec-status",
}

func (h *Host) agentCommand(ctx context.Context, id backstay.VMID, command string, here bool) (string, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var r agentRequest
	if err := json.Unmarshal([]byte(command), &r); err != nil {
		return "", fmt.Errorf("agent command: %w", err)
	}
	v, err := h.enterGuest(ctx, r.Execute, id, here)
	if err != nil {
		return "", err
	}
	if err := v.agentAnswers(); err != nil {
		return "", err
	}
	switch {
	case !slices.Contains(agentCommands, r.Execute):
		return "", fmt.Errorf("the command %s has not been found", r.Execute)
	case slices.Contains(v.guest.Forbidden, r.Execute):
		return "", fmt.Errorf("the command %s has been disabled for this instance", r.Execute)
	case v.frozen && !slices.Contains(whileFrozen, r.Execute):
		return "", fmt.Errorf("the command %s has been disabled: the agent is in frozen state", r.Execute)
	}
	if r.Execute == "guest-exec" && r.Arguments.Arg == nil {
		return "", errors.New("invalid parameter type for 'arg', expected: array")
	}
	value, err := v.answer(&r)
	if err != nil {
		return "", err
	}
	answer, err := json.Marshal(map[string]any{"return": value})
	return string(answer), err
}

type object = map[string]any

// answer is what the agent of an unfrozen guest says.
func (v *vm) answer(r *agentRequest) (any, error) {
	switch r.Execute {
	case "guest-fsfreeze-status":
		if v.frozen {
			return "frozen", nil
		}
		return "thawed", nil
	case "guest-info":
		var all []object
		for _, name := range agentCommands {
			all = append(all, object{"name": name, "enabled": !slices.Contains(v.guest.Forbidden, name)})
		}
		return object{"version": "fake", "supported_commands": all}, nil
	case "guest-get-osinfo":
		if v.guest.OS == "" {
			return object{"id": "debian"}, nil
		}
		return object{"id": v.guest.OS}, nil
	case "guest-get-fsinfo":
		var all []object
		for i, m := range v.guest.mounts() {
			all = append(all, object{"name": fmt.Sprintf("vda%d", i+1), "mountpoint": m, "type": "ext4"})
		}
		return all, nil
	case "guest-exec":
		return v.exec(r.Arguments.Path, r.Arguments.Arg)
	case "guest-exec-status":
		return v.execStatus(r.Arguments.PID)
	}
	return object{}, nil
}

// exec runs a program at once; its end is told by execStatus.
func (v *vm) exec(path string, args []string) (any, error) {
	var ran Ran
	var out string
	switch {
	case path == "stat":
		out, ran = v.guest.stat(args[2:])
	case path == "cat":
		f, ok := v.guest.Files[args[len(args)-1]]
		out, ran.Code = f.Content, map[bool]int{true: 0, false: 1}[ok]
	case path == "kill":
	case v.guest.Run != nil:
		ran = v.guest.Run(path, args)
	default:
		ran.Missing = true
	}
	if ran.Missing {
		return nil, fmt.Errorf("guest agent command failed: Guest failed to execute: Failed to execute child process %q (No such file or directory)", path)
	}
	v.ran = append(v.ran, ranProgram{ran, out})
	return object{"pid": len(v.ran)}, nil
}

// ranProgram is a program that was run, with its standard output.
type ranProgram struct {
	Ran
	out string
}

func (v *vm) execStatus(pid int) (any, error) {
	if pid < 1 || pid > len(v.ran) {
		return nil, fmt.Errorf("PID %d does not exist", pid)
	}
	ran := v.ran[pid-1]
	if ran.Endless {
		return object{"exited": false}, nil
	}
	encode := base64.StdEncoding.EncodeToString
	return object{"exited": true, "exitcode": ran.Code, "out-data": encode([]byte(ran.out)), "err-data": encode([]byte(ran.Output))}, nil
}

// stat prints owner, mode, size and name of the files that there are. Folders
// above a file that is there are root's and 755 unless the test says otherwise.
func (g *Guest) stat(paths []string) (string, Ran) {
	var out strings.Builder
	var ran Ran
	for _, p := range paths {
		f, ok := g.Files[p]
		if !ok {
			for name := range g.Files {
				if strings.HasPrefix(name, strings.TrimSuffix(p, "/")+"/") {
					f, ok = GuestFile{Mode: 0o040755}, true
				}
			}
		}
		if !ok {
			ran.Code = 1
			continue
		}
		fmt.Fprintf(&out, "%d %x %d %s\n", f.UID, f.Mode, len(f.Content), p)
	}
	return out.String(), ran
}
