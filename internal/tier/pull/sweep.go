package pull

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
)

// Settle ends what a session of the VM left that is not open any more.
func (p *Puller) Settle(ctx context.Context, vm backstay.VMID) error {
	if p.isOpen(vm) {
		return errors.New("a session of the VM is open already")
	}
	r, err := p.load(vm)
	if err != nil || r.Session == nil {
		return err
	}
	p.thaw(ctx, vm)
	if err := p.clear(ctx, r); err != nil {
		return fmt.Errorf("end what a backup of VM %s left: %w", vm, err)
	}
	return nil
}

// thawPatience bounds the check for a frozen guest.
const thawPatience = 15 * time.Second

// thaw thaws the guest of a session that was cut off, and tells whether it was
// frozen. An agent that is silent cannot be made to.
func (p *Puller) thaw(ctx context.Context, vm backstay.VMID) bool {
	ctx, cancel := context.WithTimeout(ctx, thawPatience)
	defer cancel()
	domain, err := p.hv.Domain(ctx, vm)
	if err != nil || domain.VM.State != backstay.VMRunning || domain.VM.Agent != backstay.AgentConnected {
		return false
	}
	n, err := p.hv.Thaw(ctx, vm)
	if err != nil {
		p.log.Warn("cannot tell whether the guest is frozen", "vm", vm, "error", err)
	}
	return n > 0
}

// Release forgets all that pulls keep of a VM: its checkpoints and its record.
// Those of a VM that is shut off are forgotten without their bitmaps, which cost
// a little room in its images and nothing else.
func (p *Puller) Release(ctx context.Context, vm backstay.VMID) error {
	if err := p.Settle(ctx, vm); err != nil {
		return err
	}
	r, err := p.load(vm)
	if err != nil {
		return err
	}
	r.Bindings = nil
	if err := p.dropStale(ctx, r); err != nil {
		return err
	}
	checkpoints, err := p.hv.Checkpoints(ctx, vm)
	if err != nil && !errors.Is(err, hypervisor.ErrNoVM) {
		return err
	}
	for _, c := range checkpoints {
		if c.Ours() {
			if err := p.hv.DropCheckpoint(ctx, vm, c.Name, true); err != nil {
				return err
			}
		}
	}
	return r.write()
}

// Swept is what a sweep ended.
type Swept struct {
	Ended   []backstay.VMID // VMs on which a session was left
	Thawed  []backstay.VMID // VMs whose guests it had left frozen
	Removed []string        // files
}

// Sweep ends all that sessions left behind: jobs, scratch images, sockets (I9).
// Sessions of this process are left alone. lock keeps others off a VM meanwhile.
func (p *Puller) Sweep(ctx context.Context, lock func(context.Context, backstay.VMID) (func(), error)) (Swept, error) {
	var s Swept
	entries, err := os.ReadDir(p.state)
	if err != nil {
		return s, fmt.Errorf("list records of pulls: %w", err)
	}
	var errs []error
	for _, e := range entries {
		vm, ok := strings.CutSuffix(e.Name(), ".json")
		switch {
		case strings.HasPrefix(e.Name(), ".new-"):
			errs = append(errs, os.Remove(filepath.Join(p.state, e.Name())))
		case ok && !p.isOpen(backstay.VMID(vm)):
			errs = append(errs, p.sweepVM(ctx, backstay.VMID(vm), lock, &s))
		}
	}
	return s, errors.Join(errs...)
}

func (p *Puller) sweepVM(ctx context.Context, vm backstay.VMID, lock func(context.Context, backstay.VMID) (func(), error), s *Swept) error {
	unlock, err := lock(ctx, vm)
	if err != nil {
		return err
	}
	defer unlock()
	if p.isOpen(vm) {
		return nil
	}
	r, err := p.load(vm)
	if err != nil || r.Session == nil {
		return err
	}
	j := r.Session
	if p.thaw(ctx, vm) {
		s.Thawed = append(s.Thawed, vm)
	}
	if err := p.clear(ctx, r); err != nil {
		return fmt.Errorf("end what a backup of VM %s left: %w", vm, err)
	}
	s.Ended, s.Removed = append(s.Ended, vm), append(s.Removed, j.Scratch...)
	return nil
}
