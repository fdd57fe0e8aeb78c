package live

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Exports starts exports.
type Exports interface {
	// Start returns when the export answers at its socket. No error if it does
	// already. The folder is there.
	Start(ctx context.Context, o Order) error
	// Running tells whether an export serves in this folder.
	Running(folder string) bool
}

// Processes starts exports as processes.
type Processes struct {
	// Command is what to run; it must end up in Serve.
	Command []string
}

// startPatience is how long an export may take until it listens.
const startPatience = 20 * time.Second

// report is what an export says of its start.
type report struct {
	Error string `json:"error,omitempty"`
}

// Start runs the command in a session of its own and gives it the order through a
// pipe: a key in its arguments or environment would be seen by others (I10).
func (p Processes) Start(ctx context.Context, o Order) error {
	if len(p.Command) == 0 {
		return errors.New("start export: there is no command for it")
	}
	order, err := encode(o)
	if err != nil {
		return fmt.Errorf("start export: %w", err)
	}
	cmd := exec.Command(p.Command[0], p.Command[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Dir = "/"
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return fmt.Errorf("start export: %w", err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("start export: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start export: %w", err)
	}
	answered := make(chan error, 1)
	go func() {
		_, err := in.Write(order)
		answered <- errors.Join(err, in.Close(), answerOf(out))
		_ = cmd.Wait() // it outlives us as a rule; while we live it is collected
	}()
	timer := time.NewTimer(startPatience)
	defer timer.Stop()
	select {
	case err := <-answered:
		if err != nil {
			return fmt.Errorf("start export: %w", err)
		}
		return nil
	case <-timer.C:
		err = fmt.Errorf("it did not listen within %v", startPatience)
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	return errors.Join(fmt.Errorf("start export: %w", err), cmd.Process.Kill())
}

func answerOf(out io.Reader) error {
	var r report
	if err := json.NewDecoder(out).Decode(&r); err != nil {
		return fmt.Errorf("it ended without a word: %w", err)
	}
	if r.Error != "" {
		return errors.New(r.Error)
	}
	return nil
}

// Running tells whether an export serves in this folder.
func (p Processes) Running(folder string) bool { return locked(folder) }

// locked tells whether a process holds the folder's lock.
func locked(folder string) bool {
	f, err := os.OpenFile(filepath.Join(folder, "lock"), os.O_RDWR, 0)
	if err != nil {
		return false
	}
	defer func() { _ = f.Close() }()
	// Shared, so that it is in the way of nobody who asks the same.
	return errors.Is(unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB), unix.EWOULDBLOCK)
}

// lock makes this process the one that serves in the folder; false if another one
// does. Who only asks holds the lock for an instant.
func lock(folder string) (*os.File, bool, error) {
	f, err := os.OpenFile(filepath.Join(folder, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, false, err
	}
	for range 20 {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, false, f.Close()
	}
	if err != nil {
		return nil, false, errors.Join(err, f.Close())
	}
	return f, true, nil
}
