package guest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	backstay "github.com/backstay/backstay"
)

// Options are how small machines are made. The zero value of each field but Run is
// right.
type Options struct {
	// Run is a folder on a disk that only this pool uses: overlays without a name are
	// made in it, and running machines are recorded.
	Run       string
	Parts     string        // the folder of vmlinux and initrd; "" looks for it, see FindParts
	QEMU      string        // the program; "" is qemu-system-x86_64 from the PATH
	Accel     string        // AccelKVM or AccelTCG; "" finds out
	Memory    int64         // bytes of a machine; 0 is DefaultMemory
	Overlay   int64         // bytes that a machine may write to one disk; 0 is DefaultOverlay
	Most      int           // machines at a time; 0 is DefaultMost
	Keep      time.Duration // how long a spare machine waits after the last use; 0 is DefaultKeep, less than 0 keeps none
	SpareIn   time.Duration // how long after a use the spare is started, so as not to slow it; 0 is DefaultSpareIn
	BootLimit time.Duration // until it must answer; 0 is DefaultBootLimit
	CallLimit time.Duration // how long a call may be without news; 0 is DefaultCallLimit
	Life      time.Duration // of one machine; 0 is DefaultLife
	Log       *slog.Logger  // nil is slog.Default
}

// The ways to run a machine: on the processor, or emulated.
const (
	AccelKVM = "kvm"
	AccelTCG = "tcg"
)

// The defaults of Options.
const (
	DefaultMemory    = 512 << 20
	DefaultOverlay   = 2 << 30
	DefaultMost      = 8
	DefaultKeep      = 30 * time.Minute
	DefaultSpareIn   = 10 * time.Second
	DefaultBootLimit = 2 * time.Minute
	DefaultCallLimit = 10 * time.Minute
	DefaultLife      = backstay.MaxSessionLife + time.Hour
)

func (o Options) orDefaults() Options {
	or := func(d *time.Duration, value time.Duration) {
		if *d == 0 {
			*d = value
		}
	}
	or(&o.Keep, DefaultKeep)
	or(&o.SpareIn, DefaultSpareIn)
	or(&o.BootLimit, DefaultBootLimit)
	or(&o.CallLimit, DefaultCallLimit)
	or(&o.Life, DefaultLife)
	if o.QEMU == "" {
		o.QEMU = "qemu-system-x86_64"
	}
	if o.Memory == 0 {
		o.Memory = DefaultMemory
	}
	if o.Overlay == 0 {
		o.Overlay = DefaultOverlay
	}
	if o.Most == 0 {
		o.Most = DefaultMost
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	return o
}

// Pool makes small machines, and keeps one ready once the first was used.
type Pool struct {
	o       Options
	ctx     context.Context // of spares that are being started; ends with Close
	cancel  context.CancelFunc
	work    sync.WaitGroup // goroutines of the pool
	proving sync.Mutex     // held while it is found out how machines run

	mu    sync.Mutex
	open  map[*Machine]bool // those that run, with the spare; guarded by mu; nil when closed
	made  int               // those in open and those that are being started; guarded by mu
	spare *Machine          // nil if there is none; guarded by mu
	later *time.Timer       // starts the next spare; guarded by mu
	idle  *time.Timer       // ends the spare; guarded by mu
	accel string            // "" until it is known; guarded by mu
}

// NewPool returns a pool, and ends what an earlier one left. Nothing is started
// before it is needed.
func NewPool(o Options) (*Pool, error) {
	if err := os.MkdirAll(o.Run, 0o700); err != nil {
		return nil, fmt.Errorf("make the folder of small machines: %w", err)
	}
	if err := sweep(o.Run); err != nil {
		return nil, err
	}
	p := &Pool{o: o.orDefaults(), open: map[*Machine]bool{}, accel: o.Accel}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	return p, nil
}

// Need is what a machine is wanted for.
type Need struct {
	Memory int64 // bytes; 0 is that of the pool's Options
}

// Machine returns a machine without disks: the spare one, or one that it starts.
// Whoever got it closes it. When as many run as may, it fails.
func (p *Pool) Machine(ctx context.Context, need Need) (*Machine, error) {
	m, err := p.takeSpare(need)
	if m == nil && err == nil {
		m, err = p.make(ctx, need)
	}
	if err != nil {
		return nil, err
	}
	m.live(p.o.Life)
	p.spareLater()
	return m, nil
}

// takeSpare returns the spare machine, or nil if there is none that will do. One
// that is too small is ended, which makes room for another.
func (p *Pool) takeSpare(need Need) (*Machine, error) {
	p.mu.Lock()
	m := p.spare
	p.spare = nil
	p.mu.Unlock()
	if m == nil || m.alive() && m.o.Memory >= need.Memory {
		return m, nil
	}
	return nil, m.Close()
}

// make starts a machine, if one more may run.
func (p *Pool) make(ctx context.Context, need Need) (*Machine, error) {
	if err := p.reserve(); err != nil {
		return nil, err
	}
	o := p.o
	o.Memory = max(o.Memory, need.Memory)
	m, err := p.start(ctx, o)
	p.mu.Lock()
	defer p.mu.Unlock()
	if err == nil && p.open == nil {
		err = errors.Join(errClosed, m.Close())
	}
	if err != nil {
		p.made--
		return nil, err
	}
	p.open[m] = true
	m.forget = func() { p.forget(m) }
	p.work.Go(func() {
		<-m.process.ended
		m.forget()
	})
	return m, nil
}

// forget lets another machine run in the place of one that has ended.
func (p *Pool) forget(m *Machine) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.spare == m {
		p.spare = nil
	}
	if p.open[m] {
		delete(p.open, m)
		p.made--
	}
}

func (p *Pool) start(ctx context.Context, o Options) (*Machine, error) {
	if _, err := exec.LookPath(o.QEMU); err != nil {
		return nil, backstay.Errorf(backstay.CodeMachineFailed, "small machines need QEMU on the host").Because(err).Do("install the package qemu-system-x86")
	}
	if o.Parts == "" {
		parts, err := FindParts()
		if err != nil {
			return nil, err
		}
		o.Parts = parts
	}
	return p.accelerated(ctx, o)
}

var errClosed = backstay.Errorf(backstay.CodeMachineFailed, "the small machines are being ended")

func (p *Pool) reserve() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.open == nil {
		return errClosed
	}
	if p.made >= p.o.Most {
		return backstay.Errorf(backstay.CodeMachineFailed, "%d small machines run already, which is the most that may", p.made).Do("end a session with `backstay files unmount`, or wait until one expires")
	}
	p.made++
	return nil
}

// spareLater sees to it that a spare machine is there for the next use.
func (p *Pool) spareLater() {
	if p.o.Keep < 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.open == nil {
		return
	}
	stop(p.later)
	stop(p.idle)
	p.later = time.AfterFunc(p.o.SpareIn, p.makeSpare)
	p.idle = time.AfterFunc(p.o.SpareIn+p.o.Keep, p.endSpare)
}

func stop(t *time.Timer) {
	if t != nil {
		t.Stop()
	}
}

// makeSpare starts a spare machine if there is none and one more may run.
func (p *Pool) makeSpare() {
	p.mu.Lock()
	if p.open == nil || p.spare != nil || p.made >= p.o.Most {
		p.mu.Unlock()
		return
	}
	p.work.Add(1)
	p.mu.Unlock()
	defer p.work.Done()
	m, err := p.make(p.ctx, Need{})
	if err != nil {
		if p.ctx.Err() == nil {
			p.o.Log.Warn("no small machine could be kept ready", "error", err)
		}
		return
	}
	p.mu.Lock()
	more := p.spare != nil
	if !more {
		p.spare = m
	}
	p.mu.Unlock()
	if more {
		_ = m.Close() // it never fails
	}
}

// endSpare ends the spare machine: none was needed for long.
func (p *Pool) endSpare() {
	p.mu.Lock()
	m := p.spare
	p.spare = nil
	p.mu.Unlock()
	if m != nil {
		_ = m.Close() // it never fails
	}
}

// Close ends all machines and waits until nothing of them is left.
func (p *Pool) Close() error {
	p.mu.Lock()
	open := p.open
	p.open, p.spare = nil, nil
	stop(p.later)
	stop(p.idle)
	p.mu.Unlock()
	p.cancel()
	var errs []error
	for m := range open {
		errs = append(errs, m.Close())
	}
	p.work.Wait()
	return errors.Join(errs...)
}

// installedParts is where the package puts them.
const installedParts = "/usr/lib/backstay/machine"

// FindParts returns the folder that holds kernel and initramfs: "machine" beside
// the program, or where the package puts them.
func FindParts() (string, error) {
	dirs := []string{installedParts}
	if self, err := os.Executable(); err == nil {
		dirs = append([]string{filepath.Join(filepath.Dir(self), "machine")}, dirs...)
	}
	for _, dir := range dirs {
		if _, err := os.Stat(filepath.Join(dir, "manifest.json")); err == nil {
			return dir, nil
		}
	}
	return "", backstay.Errorf(backstay.CodeMachineFailed, "the parts of small machines are not on this host").Becausef("looked in %v", dirs).Do("install them with the package, or build them with `make build`")
}
