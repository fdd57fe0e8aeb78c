package volumes

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"
)

// programTime is how long a program may take: one that takes longer was made to hang
// by what is on the disks.
const programTime = 90 * time.Second

// maxOutput bounds what of a program's output is kept, in bytes.
const maxOutput = 8 << 20

// program is one run of a program.
type program struct {
	name  string
	args  []string
	input []byte // its standard input
	// files are given to it as descriptors 3 and up.
	files []*os.File
}

// failure is a program that failed.
type failure struct {
	name   string
	code   int // its exit status; -1 if it was ended
	stderr string
	cause  error
}

func (f *failure) Error() string {
	if line := f.lastLine(); line != "" {
		return fmt.Sprintf("%s: %s", f.name, line)
	}
	return fmt.Sprintf("%s: %v", f.name, f.cause)
}

func (f *failure) Unwrap() error { return f.cause }

// lastLine is the last thing that it complained of.
func (f *failure) lastLine() string {
	lines := strings.Split(strings.TrimSpace(f.stderr), "\n")
	return text(lines[len(lines)-1])
}

// run runs a program and returns its standard output.
func (p program) run(ctx context.Context) (stdout, stderr string, err error) {
	ctx, cancel := context.WithTimeout(ctx, programTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, p.name, p.args...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "MDADM_NO_UDEV=1", "DM_DISABLE_UDEV=1", "LVM_SUPPRESS_FD_WARNINGS=1"}
	cmd.Stdin, cmd.ExtraFiles = bytes.NewReader(p.input), p.files
	cmd.WaitDelay = time.Second
	var out, bad limited
	cmd.Stdout, cmd.Stderr = &out, &bad
	err = cmd.Run()
	if err == nil {
		return out.String(), bad.String(), nil
	}
	f := &failure{name: p.name, code: -1, stderr: bad.String(), cause: err}
	var exit *exec.ExitError
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		f.stderr = fmt.Sprintf("it did not end within %s", programTime)
	case errors.As(err, &exit):
		f.code = exit.ExitCode()
	}
	return out.String(), bad.String(), f
}

// limited keeps the first maxOutput bytes that are written to it.
type limited struct{ bytes.Buffer }

func (l *limited) Write(p []byte) (int, error) {
	if room := maxOutput - l.Len(); room > 0 {
		l.Buffer.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}
