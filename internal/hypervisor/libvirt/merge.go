package libvirt

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/beevik/etree"
	"github.com/digitalocean/go-libvirt"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
)

// MergeLive is libvirt's block commit. The merge of the active layer ends with a
// pivot: the VM goes on on Base. A job that an earlier call of ours left running
// is carried on with. When ctx ends the job is aborted, which leaves the chain as
// it was: what has been copied down is hidden by the layers above.
func (h *Host) MergeLive(ctx context.Context, id backstay.VMID, m hypervisor.Merge, progress func(done, total int64)) error {
	if err := h.mergeLive(ctx, id, m, progress); err != nil {
		return fmt.Errorf("merge layers of disk %s of VM %s: %w", m.Target, id, err)
	}
	return nil
}

func (h *Host) mergeLive(ctx context.Context, id backstay.VMID, m hypervisor.Merge, progress func(done, total int64)) error {
	pace := &pacer{throttle: m.Throttle}
	active, err := h.startMerge(ctx, id, m, pace, progress)
	if err != nil {
		return err
	}
	if err := h.follow(ctx, id, following{m.Target, active, pace, progress}); err != nil {
		if ctx.Err() != nil {
			return errors.Join(ctx.Err(), h.abort(ctx, id, m.Target))
		}
		return err
	}
	if active {
		if err := h.pivot(ctx, id, m.Target); err != nil {
			return errors.Join(err, h.abort(ctx, id, m.Target))
		}
	}
	return h.do(context.WithoutCancel(ctx), callPatience, func(l *libvirt.Libvirt) error {
		d, err := lookup(l, id)
		if err != nil {
			return err
		}
		if err := merged(l, d, m); err != nil {
			return err
		}
		h.settleChains(l, d, []backstay.DiskTarget{m.Target})
		return nil
	})
}

// startMerge starts the job, or adopts the one that does just this, and tells
// whether Top is the active layer.
func (h *Host) startMerge(ctx context.Context, id backstay.VMID, m hypervisor.Merge, pace *pacer, progress func(done, total int64)) (active bool, err error) {
	for {
		var other bool
		err := h.do(ctx, callPatience, func(l *libvirt.Libvirt) error {
			d, err := lookup(l, id)
			if err != nil {
				return err
			}
			e, err := liveDisk(l, d, m.Target)
			if err != nil {
				return err
			}
			job, err := jobOf(l, d, m.Target)
			if err != nil {
				return err
			}
			if job.found {
				active = job.kind == libvirt.DomainBlockJobTypeActiveCommit
				if active && samePath(location(find(e, "mirror")), m.Base) && samePath(location(e), m.Top) {
					return nil
				}
				if other = job.kind == libvirt.DomainBlockJobTypeCommit; other {
					return nil // ends by itself; then we see what the chain is
				}
				return errors.New("another block job runs on the disk")
			}
			active, err = commit(l, d, e, m, pace.first())
			return err
		})
		if err != nil || !other {
			return active, err
		}
		if err := h.follow(ctx, id, following{m.Target, false, pace, progress}); err != nil {
			return false, err
		}
	}
}

// commit starts the job.
func commit(l *libvirt.Libvirt, d libvirt.Domain, e *etree.Element, m hypervisor.Merge, speed uint64) (active bool, err error) {
	chain, _ := recordedChain(e)
	index := func(path string) int {
		return slices.IndexFunc(chain, func(l link) bool { return samePath(l.path, path) })
	}
	top, base := index(m.Top), index(m.Base)
	if top < 0 || base <= top {
		return false, fmt.Errorf("%s is not above %s in the disk's chain", m.Top, m.Base)
	}
	flags := libvirt.DomainBlockCommitBandwidthBytes
	if active = top == 0; active {
		flags |= libvirt.DomainBlockCommitActive
	}
	return active, l.DomainBlockCommit(d, string(m.Target), name(m.Target, chain[base]), name(m.Target, chain[top]), speed, flags)
}

// name is how libvirt is told of an image of a disk's chain: by its number, which
// also an image without a path has.
func name(target backstay.DiskTarget, l link) libvirt.OptString {
	if l.index != "" {
		return libvirt.OptString{string(target) + "[" + l.index + "]"}
	}
	return libvirt.OptString{l.path}
}

func samePath(a, b string) bool { return hypervisor.Location(a) == hypervisor.Location(b) }

func liveDisk(l *libvirt.Libvirt, d libvirt.Domain, target backstay.DiskTarget) (*etree.Element, error) {
	state, err := vmState(l, d)
	if err != nil {
		return nil, err
	}
	if state == backstay.VMShutOff {
		return nil, errors.New("the VM is shut off")
	}
	root, _, err := definition(l, d, 0)
	if err != nil {
		return nil, err
	}
	resolveVolumes(l, root)
	e := diskElement(root, target)
	if e == nil {
		return nil, errors.New("the VM has no such disk")
	}
	return e, nil
}

// merged checks that the VM is where the merge should have put it: a job that
// failed in QEMU ends just like one that is done.
func merged(l *libvirt.Libvirt, d libvirt.Domain, m hypervisor.Merge) error {
	e, err := liveDisk(l, d, m.Target)
	if err != nil {
		return err
	}
	chain, _ := recordedChain(e)
	for _, l := range chain {
		if samePath(l.path, m.Top) {
			return fmt.Errorf("the VM still uses %s: the merge failed", m.Top)
		}
	}
	return nil
}
