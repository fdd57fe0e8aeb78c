package filemount

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	backstay "github.com/backstay/backstay"
)

// startPatience is how long a process may take until it shows the point.
const startPatience = 30 * time.Second

// Started is a process that shows a point.
type Started struct {
	PID int
	// Address is that of a disk. It is a secret: it is told to nobody else.
	Address string
}

// Start starts a process that shows what the order says, in a session of its own so
// that it outlives this one, and returns when it does. command must end up in Serve.
func Start(ctx context.Context, command []string, o Order) (Started, error) {
	cmd := exec.Command(command[0], command[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Dir = "/"
	// It has its ticket, and no use for more rights than that.
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "BACKSTAY_TOKEN=") })
	in, err := cmd.StdinPipe()
	if err != nil {
		return Started{}, fmt.Errorf("start %s: %w", o.Kind, err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return Started{}, fmt.Errorf("start %s: %w", o.Kind, err)
	}
	if err := cmd.Start(); err != nil {
		return Started{}, fmt.Errorf("start %s: %w", o.Kind, err)
	}
	answered := make(chan answer, 1)
	go func() {
		err := json.NewEncoder(in).Encode(orderWire{o, o.Ticket.Reveal()})
		a := answerOf(out)
		a.err = errors.Join(err, in.Close(), a.err)
		answered <- a
		_ = cmd.Wait() // it outlives us as a rule; while we live it is collected
	}()
	timer := time.NewTimer(startPatience)
	defer timer.Stop()
	select {
	case a := <-answered:
		return Started{cmd.Process.Pid, a.Address}, a.err
	case <-timer.C:
		err = fmt.Errorf("it did not begin within %v", startPatience)
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	// It ends its session and cleans up.
	return Started{}, errors.Join(fmt.Errorf("start %s: %w", o.Kind, err), cmd.Process.Signal(syscall.SIGTERM))
}

type answer struct {
	report
	err error
}

func answerOf(out io.Reader) answer {
	var a answer
	switch err := json.NewDecoder(out).Decode(&a.report); {
	case err != nil:
		a.err = fmt.Errorf("it ended without a word: %w", err)
	case a.Error != "":
		a.err = errors.New(a.Error)
	}
	return a
}

// leftover is what a process leaves that is killed.
type leftover struct {
	Dir    string // a mount of Name is there
	Name   string
	Folder string // of a socket
}

// guardWire is what a guard is told.
type guardWire struct {
	Order    orderWire
	Leftover leftover
}

// guard is the process that cleans up after this one.
type guard struct{ in io.WriteCloser }

// startGuard starts one. It has this process's pipe, whose end means that this process
// is gone.
func (s Server) startGuard(o Order, left leftover) (guard, error) {
	if len(s.Guard) == 0 {
		return guard{}, nil
	}
	cmd := exec.Command(s.Guard[0], s.Guard[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Env = append(os.Environ(), "GOMAXPROCS=1", "GOMEMLIMIT=32MiB")
	cmd.Dir = "/"
	in, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return guard{}, fmt.Errorf("start the guard: %w", err)
	}
	go func() { _ = cmd.Wait() }()
	if err := json.NewEncoder(in).Encode(guardWire{orderWire{o, o.Ticket.Reveal()}, left}); err != nil {
		return guard{}, fmt.Errorf("start the guard: %w", err)
	}
	return guard{in}, nil
}

// disarm tells the guard that there is nothing to clean up.
func (g guard) disarm() {
	if g.in == nil {
		return
	}
	_, _ = io.WriteString(g.in, "{}\n") // if it is gone it does nothing either
	_ = g.in.Close()
}

// CleanUp is a guard process: it waits for the end of the process that started it, and
// takes away what that left if it was killed: its mount, its socket, its session.
func (s Server) CleanUp(ctx context.Context, in io.Reader) error {
	d := json.NewDecoder(in)
	var w guardWire
	if err := d.Decode(&w); err != nil {
		return fmt.Errorf("read what to guard: %w", err)
	}
	var done struct{}
	if d.Decode(&done) == nil {
		return nil
	}
	var failed error
	if w.Leftover.Dir != "" {
		id, mounted, err := MountedOn(w.Leftover.Dir)
		if failed = err; mounted && sourceName(id) == w.Leftover.Name {
			failed = unmount(w.Leftover.Dir)
		}
	}
	if w.Leftover.Folder != "" {
		failed = errors.Join(failed, os.RemoveAll(w.Leftover.Folder))
	}
	o := w.Order.Order
	o.Ticket = backstay.NewSecret(w.Order.Ticket)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endPatience)
	defer cancel()
	if err := s.Connect(o).End(ctx); err != nil && !over(err) {
		failed = errors.Join(failed, err)
	}
	return failed
}
