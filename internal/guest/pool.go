package guest

import (
	"context"
	"errors"
	"fmt"
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
	Run       string        // a folder on a disk, for overlays without a name
	Parts     string        // the folder of vmlinux and initrd; "" looks for it, see FindParts
	QEMU      string        // the program; "" is qemu-system-x86_64 from the PATH
	Accel     string        // "kvm" or "tcg"; "" is tcg
	Memory    int64         // bytes of a machine; 0 is DefaultMemory
	Overlay   int64         // bytes that a machine may write to one disk; 0 is DefaultOverlay
	Most      int           // machines at a time; 0 is DefaultMost
	User      uint32        // whom QEMU runs as if we are root; 0 is nobody
	BootLimit time.Duration // until it must answer; 0 is DefaultBootLimit
}

// The defaults of Options.
const (
	DefaultMemory    = 512 << 20
	DefaultOverlay   = 2 << 30
	DefaultMost      = 8
	DefaultBootLimit = 2 * time.Minute
	nobody           = 65534
)

// Pool makes small machines.
type Pool struct {
	o Options

	mu   sync.Mutex
	open map[*Machine]bool // guarded by mu; nil when closed
	made int               // those in open and those that are being started; guarded by mu
}

// NewPool returns a pool. Nothing is started before it is needed.
func NewPool(o Options) (*Pool, error) {
	if err := os.MkdirAll(o.Run, 0o700); err != nil {
		return nil, fmt.Errorf("make the folder of small machines: %w", err)
	}
	if o.QEMU == "" {
		o.QEMU = "qemu-system-x86_64"
	}
	if o.Accel == "" {
		o.Accel = "tcg"
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
	if o.User == 0 {
		o.User = nobody
	}
	if o.BootLimit == 0 {
		o.BootLimit = DefaultBootLimit
	}
	return &Pool{o: o, open: map[*Machine]bool{}}, nil
}

// Need is what a machine is wanted for.
type Need struct {
	Memory int64 // bytes; 0 is that of the pool's Options
}

// Machine returns a machine without disks. Whoever got it closes it.
func (p *Pool) Machine(ctx context.Context, need Need) (*Machine, error) {
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
	go func() {
		<-m.Ended()
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.open, m)
		p.made--
	}()
	return m, nil
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
	return start(ctx, o)
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

// Close ends all machines.
func (p *Pool) Close() error {
	p.mu.Lock()
	open := p.open
	p.open = nil
	p.mu.Unlock()
	var errs []error
	for m := range open {
		errs = append(errs, m.Close())
	}
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
