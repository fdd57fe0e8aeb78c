package sandbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// mark is the environment variable by which the processes of a world are found
// again; its value is the world's folder.
const mark = "BACKSTAY_SANDBOX="

// process is one process; the start time, in clock ticks since the machine
// booted, tells it from a later one with the same number.
type process struct {
	PID   int
	Start uint64
}

// launch starts a command of the world in a session of its own, with its output
// in a file, and collects it when it ends.
func (w *World) launch(cmd *exec.Cmd, logPath string) (process, error) {
	out, err := os.OpenFile(logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return process{}, err
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	cmd.Env = append(cmd.Environ(), mark+w.Dir)
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setsid = true
	if err := cmd.Start(); err != nil {
		return process{}, fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	// The process outlives this call, and this program if it is `sandbox up`;
	// while we live we must collect it, or it stays as a zombie.
	go func() { _ = cmd.Wait() }()
	start, ok := startTime(cmd.Process.Pid)
	if !ok {
		return process{}, fmt.Errorf("start %s: it ended at once: %s", cmd.Path, tail(logPath))
	}
	return process{cmd.Process.Pid, start}, nil
}

// startTime returns when a process started; false if it is gone or a zombie.
func startTime(pid int) (uint64, bool) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, false
	}
	// The name is in parentheses and may hold anything; state is field 3 of
	// proc(5), and the start time field 22.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 20 || fields[0] == "X" {
		return 0, false
	}
	// The first thread of a process that was killed may be gone before the others,
	// which hold its sockets open until they are.
	if threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid)); fields[0] == "Z" && (err != nil || len(threads) <= 1) {
		return 0, false
	}
	start, err := strconv.ParseUint(fields[19], 10, 64)
	return start, err == nil
}

// alive tells whether the process still runs.
func (p process) alive() bool {
	start, ok := startTime(p.PID)
	return ok && p.PID != 0 && start == p.Start
}

// signal sends a signal; no error if the process is gone.
func (p process) signal(s unix.Signal) error {
	if !p.alive() {
		return nil
	}
	if err := unix.Kill(p.PID, s); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("signal process %d: %w", p.PID, err)
	}
	return nil
}

// gone waits until none of the processes runs.
func gone(ctx context.Context, all ...process) error {
	return poll(ctx, 10*time.Millisecond, func() error {
		for _, p := range all {
			if p.alive() {
				return fmt.Errorf("process %d still runs", p.PID)
			}
		}
		return nil
	})
}

// end asks a process to end, and kills it if it has not after the grace time.
func (p process) end(ctx context.Context, grace time.Duration) error {
	if err := p.signal(unix.SIGTERM); err != nil {
		return err
	}
	short, cancel := context.WithTimeout(ctx, grace)
	defer cancel()
	if gone(short, p) == nil {
		return nil
	}
	return p.kill(ctx)
}

// kill ends a process as a crash does.
func (p process) kill(ctx context.Context) error {
	if err := p.signal(unix.SIGKILL); err != nil {
		return err
	}
	return gone(ctx, p)
}

// permanent is an error that ends a poll.
type permanent struct{ error }

func (p permanent) Unwrap() error { return p.error }

// poll calls try until it returns nil or a permanent error, or ctx ends; then it
// returns try's last error.
func poll(ctx context.Context, every time.Duration, try func() error) error {
	for {
		err := try()
		if err == nil || errors.As(err, &permanent{}) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ctx.Err(), err)
		case <-time.After(every):
		}
	}
}

// processesOf finds every process of a world: those in the namespace of one of
// its hosts, whoever started them, and those that carry its mark. It needs
// nothing that the world's creator remembered, so it serves after its death too.
func processesOf(dir string) ([]process, error) {
	libs, err := filepath.Glob(filepath.Join(dir, "*", "lib"))
	if err != nil {
		return nil, err
	}
	var hosts []os.FileInfo
	for _, lib := range libs {
		if info, err := os.Stat(lib); err == nil {
			hosts = append(hosts, info)
		}
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var found []process
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		start, ok := startTime(pid)
		if ok && (marked(pid, dir) || inside(pid, hosts)) {
			found = append(found, process{pid, start})
		}
	}
	return found, nil
}

// marked tells whether a process was started by, or under, a world.
func marked(pid int, dir string) bool {
	env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	return err == nil && bytes.Contains(append([]byte{0}, env...), []byte("\x00"+mark+dir+"\x00"))
}

// inside tells whether a process sees a host's folder as /var/lib/libvirt.
func inside(pid int, hosts []os.FileInfo) bool {
	info, err := os.Stat(fmt.Sprintf("/proc/%d/root/var/lib/libvirt", pid))
	if err != nil {
		return false
	}
	for _, host := range hosts {
		if os.SameFile(info, host) {
			return true
		}
	}
	return false
}

// tail returns the end of a log for an error message.
func tail(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	if len(text) > 2000 {
		text = append([]byte("…"), text[len(text)-2000:]...)
	}
	return strings.TrimSpace(string(text))
}
