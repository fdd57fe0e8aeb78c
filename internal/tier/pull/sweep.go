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
	"github.com/backstay/backstay/internal/quiesce"
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
	if _, err := p.letGo(ctx, r); err != nil {
		return fmt.Errorf("let the guest of VM %s go: %w", vm, err)
	}
	if err := p.clear(ctx, r); err != nil {
		return fmt.Errorf("end what a backup of VM %s left: %w", vm, err)
	}
	return nil
}

// letGo undoes what a session that was cut off owes to the guest (I9), and tells
// whether the guest was frozen. An agent that is silent cannot be made to thaw: a
// guard goes on trying, for that of the session may be gone as well.
func (p *Puller) letGo(ctx context.Context, r *vmRecord) (bool, error) {
	owed := r.Session.Owed
	if owed == nil {
		return false, nil
	}
	thawed, err := quiesce.Settle(ctx, p.hv, r.VM, *owed)
	if err != nil && !errors.Is(err, hypervisor.ErrNoVM) {
		if errors.Is(err, hypervisor.ErrAway) {
			return thawed, err
		}
		p.log.Warn("cannot tell whether the guest is frozen", "vm", r.VM, "error", err)
		p.letGoLater(ctx, r.VM, owed.Paused)
	}
	if owed.Post != nil {
		if err := quiesce.RunPost(ctx, p.hv, r.VM, *owed.Post); err != nil {
			p.log.Warn("the post hook of a guest that is owed failed", "vm", r.VM, "error", err)
		}
	}
	r.Session.Owed = nil
	return thawed, r.write()
}

// letGoLater lets a guard go on letting a guest go.
func (p *Puller) letGoLater(ctx context.Context, vm backstay.VMID, paused bool) {
	g, err := p.guards.Start(ctx, vm)
	if err == nil {
		err = g.Arm(time.Hour, paused)
	}
	if err != nil {
		p.log.Error("no guard can be started to let a guest go", "vm", vm, "error", err)
		return
	}
	g.Fire()
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
	thawed, err := p.letGo(ctx, r)
	if thawed {
		s.Thawed = append(s.Thawed, vm)
	}
	if err != nil {
		return fmt.Errorf("let the guest of VM %s go: %w", vm, err)
	}
	if err := p.clear(ctx, r); err != nil {
		return fmt.Errorf("end what a backup of VM %s left: %w", vm, err)
	}
	s.Ended, s.Removed = append(s.Ended, vm), append(s.Removed, j.Scratch...)
	return nil
}
