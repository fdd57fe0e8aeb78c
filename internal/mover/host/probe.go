package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
	"github.com/backstay/backstay/internal/mover"
)

const (
	probeTimeout = 5 * time.Minute        // without another wish
	probeEvery   = 500 * time.Millisecond // between two tries
	probeOnce    = 2 * time.Second        // of one try
	settleTime   = 30 * time.Second       // to find out how a lost call ended
)

// Start starts the VM, if it does not run yet, and waits until the plan's probe
// says that it is up.
func (h *Host) Start(ctx context.Context, r mover.StageRequest) (mover.Up, error) {
	unlock, err := h.lockRestore(ctx, r.Job)
	if err != nil {
		return mover.Up{}, err
	}
	defer unlock()
	begin := h.now()
	console, err := h.startVM(ctx, r)
	if err != nil {
		if ctx.Err() != nil {
			return mover.Up{}, fmt.Errorf("start VM %s: %w", r.Plan.Name, errors.Join(context.Cause(ctx), err))
		}
		if errors.Is(err, hypervisor.ErrAway) {
			return mover.Up{}, backstay.Errorf(backstay.CodeHostAway, "VM %s could not be started", r.Plan.Name).Because(err)
		}
		return mover.Up{}, backstay.Errorf(backstay.CodeStartFailed, "VM %s did not start", r.Plan.Name).Because(err)
	}
	how, err := h.waitUp(ctx, r.Plan, console)
	if err != nil {
		return mover.Up{}, err
	}
	return mover.Up{Seconds: h.now().Sub(begin).Seconds(), How: how}, nil
}

// startVM starts the VM and returns how much its console's file held before:
// that text is of an earlier run.
func (h *Host) startVM(ctx context.Context, r mover.StageRequest) (consoleFrom int64, err error) {
	plan := r.Plan
	domain, err := h.hv.Domain(ctx, plan.UUID)
	if err != nil {
		return 0, err
	}
	if domain.VM.State == backstay.VMRunning {
		return 0, nil
	}
	if info, err := os.Stat(domain.Console); err == nil && info.Mode().IsRegular() {
		consoleFrom = info.Size()
	}
	if plan.Live {
		return consoleFrom, h.startLive(ctx, r)
	}
	err = h.hv.Start(ctx, plan.UUID)
	if err == nil {
		return consoleFrom, nil
	}
	// An earlier life of the job may have asked for it, and libvirt was not done.
	if domain, lookErr := h.hv.Domain(ctx, plan.UUID); lookErr == nil && domain.VM.State == backstay.VMRunning {
		return consoleFrom, nil
	}
	return 0, err
}

// waitUp tries the probe until it succeeds, the VM stops, or the time is over.
func (h *Host) waitUp(ctx context.Context, plan backstay.RestorePlan, consoleFrom int64) (string, error) {
	timeout := time.Duration(plan.Probe.Timeout)
	if timeout <= 0 {
		timeout = probeTimeout
	}
	waiting, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	p := h.newProbe(plan, consoleFrom)
	defer p.close()
	for {
		last := p.try(waiting)
		if last == nil {
			return p.how, nil
		}
		if ctx.Err() != nil {
			return "", fmt.Errorf("wait for VM %s: %w", plan.Name, context.Cause(ctx))
		}
		if stopped := h.stopped(waiting, plan.UUID); stopped != "" {
			return "", backstay.Errorf(backstay.CodeNotUp, "VM %s did not come up", plan.Name).Becausef("%s", stopped).
				Do("look at the VM's log on the host, then start it again")
		}
		select {
		case <-time.After(probeEvery):
		case <-waiting.Done():
			if ctx.Err() != nil {
				return "", fmt.Errorf("wait for VM %s: %w", plan.Name, context.Cause(ctx))
			}
			return "", backstay.Errorf(backstay.CodeNotUp, "VM %s did not come up in %v", plan.Name, timeout).Because(last)
		}
	}
}

// stopped says that the VM does not run any more, or "".
func (h *Host) stopped(ctx context.Context, id backstay.VMID) string {
	domain, err := h.hv.Domain(ctx, id)
	switch {
	case errors.Is(err, hypervisor.ErrNoVM):
		return "it was undefined meanwhile"
	case err == nil && domain.VM.State == backstay.VMShutOff:
		return "it stopped by itself after it was started"
	}
	return ""
}

// probe is one way to see that a VM is up.
type probe struct {
	how   string
	try   func(ctx context.Context) error
	close func()
}

func (h *Host) newProbe(plan backstay.RestorePlan, consoleFrom int64) probe {
	text := plan.Probe.Text
	switch plan.Probe.Kind {
	case backstay.ProbeNone:
		return probe{"it was started", func(ctx context.Context) error { return h.runs(ctx, plan.UUID) }, func() {}}
	case backstay.ProbeConsole:
		c := &consoleProbe{host: h, vm: plan.UUID, text: []byte(text), from: consoleFrom}
		return probe{fmt.Sprintf("the console showed %q", text), c.try, c.close}
	case backstay.ProbePort:
		return probe{fmt.Sprintf("%s accepted a connection", text), func(ctx context.Context) error { return tryPort(ctx, text) }, func() {}}
	default:
		return probe{"the guest agent answered", func(ctx context.Context) error {
			return h.hv.PingAgent(ctx, plan.UUID, probeOnce)
		}, func() {}}
	}
}

func (h *Host) runs(ctx context.Context, id backstay.VMID) error {
	domain, err := h.hv.Domain(ctx, id)
	if err != nil {
		return err
	}
	if domain.VM.State != backstay.VMRunning {
		return fmt.Errorf("the VM is %s", domain.VM.State)
	}
	return nil
}

func tryPort(ctx context.Context, address string) error {
	d := net.Dialer{Timeout: probeOnce}
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	return conn.Close()
}

// consoleProbe reads what the serial console says: a file that grows, or a
// terminal that forgets.
type consoleProbe struct {
	host *Host
	vm   backstay.VMID
	text []byte
	from int64

	file *os.File
	pty  bool
	seen []byte // the end of what was read, shorter than text
}

func (c *consoleProbe) close() {
	if c.file != nil {
		_ = c.file.Close()
	}
}

func (c *consoleProbe) try(ctx context.Context) error {
	if c.file == nil {
		if err := c.open(ctx); err != nil {
			return err
		}
	}
	buf := make([]byte, 64<<10)
	for ctx.Err() == nil {
		n, err := c.read(buf)
		c.seen = append(c.seen, buf[:n]...)
		if bytes.Contains(c.seen, c.text) {
			return nil
		}
		if over := len(c.seen) - len(c.text) + 1; over > 0 {
			c.seen = c.seen[over:]
		}
		if n == 0 || err != nil {
			break
		}
	}
	return fmt.Errorf("the console has not shown %q", c.text)
}

func (c *consoleProbe) open(ctx context.Context) error {
	domain, err := c.host.hv.Domain(ctx, c.vm)
	if err != nil {
		return err
	}
	if domain.Console == "" {
		return errors.New("the VM has no serial console that writes to a file or a terminal")
	}
	f, err := os.OpenFile(domain.Console, os.O_RDONLY|syscall.O_NOCTTY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		_ = f.Close()
		return err
	}
	c.file, c.pty = f, !info.Mode().IsRegular()
	return nil
}

// read reads what is new. A file that became shorter was begun anew.
func (c *consoleProbe) read(buf []byte) (int, error) {
	if c.pty {
		if err := c.file.SetReadDeadline(time.Now().Add(probeEvery)); err != nil {
			return 0, err
		}
		return c.file.Read(buf)
	}
	info, err := c.file.Stat()
	if err != nil {
		return 0, err
	}
	if info.Size() < c.from {
		c.from, c.seen = 0, nil
	}
	n, err := c.file.ReadAt(buf, c.from)
	c.from += int64(n)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return n, err
}
