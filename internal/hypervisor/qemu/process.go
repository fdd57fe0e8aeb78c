package qemu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"github.com/backstay/backstay/internal/hypervisor"
)

// toolNice is the niceness of the tools: a tenth of the weight of a guest's QEMU.
const toolNice = 10

// process is a child that dies with us.
type process struct {
	cmd    *exec.Cmd
	stderr *tail
	done   chan struct{} // closed when it has ended and been waited for
	err    error         // how it ended; read after done
}

// start starts a program. PR_SET_PDEATHSIG is bound to the thread that forks, so
// each child keeps a goroutine on a locked thread for as long as it lives:
// otherwise the runtime might end the thread, and the child with it.
func start(name string, stdout io.Writer, args ...string) (*process, error) {
	return startWith(name, stdout, nil, args...)
}

// startWith is start with a file that the child finds as its fourth; nil for none.
func startWith(name string, stdout io.Writer, extra *os.File, args ...string) (*process, error) {
	p := &process{cmd: exec.Command(name, args...), stderr: &tail{}, done: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), "LC_ALL=C") // errors are matched by their words
	p.cmd.Stdout, p.cmd.Stderr = stdout, p.stderr
	if extra != nil {
		p.cmd.ExtraFiles = []*os.File{extra}
	}
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		if err == nil {
			// The tools work for backups; a guest that wants a core goes first (I12).
			_ = syscall.Setpriority(syscall.PRIO_PROCESS, p.cmd.Process.Pid, toolNice)
		}
		started <- err
		if err == nil {
			p.err = p.cmd.Wait()
			close(p.done)
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", filepath.Base(name), err)
	}
	return p, nil
}

// wait waits for the end; when ctx ends first the child is killed.
func (p *process) wait(ctx context.Context) error {
	select {
	case <-p.done:
		return p.failure()
	case <-ctx.Done():
		_ = p.cmd.Process.Kill()
		<-p.done
		return ctx.Err()
	}
}

// failure is how the child ended, with its own words.
func (p *process) failure() error {
	if p.err == nil {
		return nil
	}
	return toolError(filepath.Base(p.cmd.Path), p.stderr.String(), p.err)
}

// run runs a tool to its end and returns its standard output.
func (im *Images) run(ctx context.Context, name string, args ...string) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var out bytes.Buffer
	p, err := start(name, &out, args...)
	if err != nil {
		return nil, err
	}
	if err := p.wait(ctx); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// toolError turns a tool's words into an error by which callers can decide. The
// tools have one exit code for everything.
func toolError(tool, words string, exit error) error {
	words = strings.TrimSpace(words)
	cause := exit
	switch {
	case strings.Contains(words, "Failed to get ") && strings.Contains(words, " lock"),
		strings.Contains(words, "Is another process using the image"):
		cause = hypervisor.ErrLocked
	case strings.Contains(words, "No space left on device"):
		cause = syscall.ENOSPC
	case strings.Contains(words, "Disk quota exceeded"):
		cause = syscall.EDQUOT
	case strings.Contains(words, "No such file or directory"):
		cause = os.ErrNotExist
	}
	if words == "" {
		return fmt.Errorf("%s: %w", tool, cause)
	}
	if cause == exit {
		return &wordsError{words: words, cause: exit}
	}
	return fmt.Errorf("%w: %s", cause, words)
}

// wordsError prints the tool's words, which say more than "exit status 1".
type wordsError struct {
	words string
	cause error
}

func (e *wordsError) Error() string { return e.words }
func (e *wordsError) Unwrap() error { return e.cause }

// tail keeps the last 4 KiB of what a child says. It is written by the child's
// own copier and read after the child's end.
type tail struct{ buf []byte }

const tailSize = 4096

func (t *tail) Write(p []byte) (int, error) {
	t.buf = append(t.buf, p...)
	if over := len(t.buf) - tailSize; over > 0 {
		t.buf = t.buf[over:]
	}
	return len(p), nil
}

func (t *tail) String() string { return string(t.buf) }

var errEnded = errors.New("the server process has ended")
