package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/durable"
	"github.com/backstay/backstay/internal/hypervisor"
	"github.com/backstay/backstay/internal/live"
	"github.com/backstay/backstay/internal/mover"
	"github.com/backstay/backstay/internal/pace"
)

// How often what may end a wait is looked at: by a copy that waits for its VM, and
// by Tend for exports and VMs that stand still.
const (
	copyRetry = time.Second
	tendEvery = time.Second
)

// Tend looks after the VMs that are restored live until ctx ends: whenever one is
// started, by whatever hand, its disks are made to wait for the export, and an
// export that is gone is started again. It must run for as long as the mover does.
func (h *Host) Tend(ctx context.Context) {
	changed := make(chan struct{}, 1)
	go func() {
		for ctx.Err() == nil {
			_ = h.hv.Watch(ctx, func(hypervisor.Event) {
				select {
				case changed <- struct{}{}:
				default:
				}
			})
		}
	}()
	tick := time.NewTicker(tendEvery)
	defer tick.Stop()
	said := map[backstay.JobID]string{}
	for again := true; ctx.Err() == nil; {
		h.tendAll(ctx, again, said)
		again = len(said) > 0
		select {
		case <-changed:
			again = true
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

// tendAll looks at all live restores: whole if something happened, else only for
// what no event tells. Of each it keeps what failed last, and says it once.
func (h *Host) tendAll(ctx context.Context, whole bool, said map[backstay.JobID]string) {
	all, err := h.lives()
	if err != nil {
		h.log.Warn("the live restores of the host cannot be listed", "error", err)
		return
	}
	for _, j := range all {
		if !whole && h.exports.Running(j.Live.Folder) {
			if stalled, err := h.hv.Stalled(ctx, j.VM); err == nil && !stalled {
				continue
			}
		}
		err := h.tend(ctx, j.Job)
		if err == nil {
			delete(said, j.Job)
			continue
		}
		if words := err.Error(); said[j.Job] != words && ctx.Err() == nil {
			said[j.Job] = words
			h.log.Warn("a live restore is not well; trying on", "vm", j.Name, "job", j.Job, "error", err)
		}
	}
}

// hurryFile tells that a job's copying is to regard nobody.
func (h *Host) hurryFile(job backstay.JobID) string {
	return filepath.Join(h.state, "live", strings.ToLower(string(job))+".hurry")
}

// Hurry lets the copying of a job go as fast as it can.
func (h *Host) Hurry(_ context.Context, job backstay.JobID) error {
	j, err := h.loadJournal(job)
	if err != nil || j == nil || j.Live == nil {
		return err
	}
	if err := durable.WriteFile(h.hurryFile(job), nil); err != nil {
		return fmt.Errorf("hurry the copying of %s: %w", j.Name, err)
	}
	return nil
}

// CopyBehind copies in what the VM's disks do not hold, one disk after the other.
func (h *Host) CopyBehind(ctx context.Context, r mover.StageRequest, progress mover.Progress) error {
	unlock, err := h.lockRestore(ctx, r.Job)
	if err != nil {
		return err
	}
	defer unlock()
	j, err := h.loadJournal(r.Job)
	if err != nil {
		return err
	}
	if j == nil || j.Live == nil {
		return nil // done by an earlier call
	}
	if err := errors.Join(j.of(r.Plan), h.renew(ctx, r, j)); err != nil {
		return err
	}
	c := &copying{Host: h, journal: j, plan: r.Plan, progress: oneAtATime(progress)}
	for _, d := range r.Plan.Disks {
		c.total += d.Size
	}
	for _, d := range r.Plan.Disks {
		if err := c.disk(ctx, d); err != nil {
			return restoreError(ctx, r.Plan, err)
		}
		c.before += d.Size
	}
	return h.standAlone(ctx, r)
}

// renew keeps what the server says of the vault now: keys and units may have
// changed since the export was started.
func (h *Host) renew(ctx context.Context, r mover.StageRequest, j *restoreJournal) error {
	if r.Vault == nil {
		return nil
	}
	unlock, err := h.lockLive(ctx, r.Job)
	if err != nil {
		return err
	}
	defer unlock()
	return h.seal(ctx, r, j)
}

// copying is one call of CopyBehind.
type copying struct {
	*Host
	journal  *restoreJournal
	plan     backstay.RestorePlan
	progress mover.Progress

	before, total int64 // bytes
}

func (c *copying) report(done int64, note string) {
	if held := live.ReadState(c.journal.Live.Folder).Held; held != "" {
		note = "the vault cannot be read, and the guest waits: " + held
	}
	c.progress(mover.Report{Phase: "copy", Done: c.before + done, Total: c.total, Note: note})
}

// disk returns when the disk stands on nothing but its own image. What keeps it
// from that is waited for: the VM has all that it needs meanwhile.
func (c *copying) disk(ctx context.Context, d backstay.PlannedDisk) error {
	for {
		done, wait, err := c.look(ctx, d)
		if err != nil || done {
			return err
		}
		if wait == "" {
			if err := c.tend(ctx, c.journal.Job); err != nil {
				wait = err.Error()
			} else if err := c.copyIn(ctx, d); err != nil {
				wait = err.Error()
			} else if err := c.copied(ctx, c.journal.Job, d.Target); err != nil {
				return err
			}
		}
		if wait == "" {
			continue
		}
		if ctx.Err() != nil {
			return fmt.Errorf("copy disk %s: %w", d.Target, context.Cause(ctx))
		}
		c.report(0, wait)
		select {
		case <-time.After(copyRetry):
		case <-ctx.Done():
		}
	}
}

// look tells whether the disk is done, or what is to be waited for.
func (c *copying) look(ctx context.Context, d backstay.PlannedDisk) (done bool, wait string, err error) {
	domain, err := c.hv.Domain(ctx, c.plan.UUID)
	switch {
	case ctx.Err() != nil:
		return false, "", fmt.Errorf("copy disk %s: %w", d.Target, context.Cause(ctx))
	case errors.Is(err, hypervisor.ErrNoVM):
		// Its disks hold what its guest wrote: nothing but an abandon ends this.
		return false, fmt.Sprintf("the VM was undefined, and its disks are not complete: define it again, or say `backstay restore abandon %s`", c.journal.Job), nil
	case err != nil:
		return false, "host: " + err.Error(), nil
	}
	chain := domain.Chains[d.Target]
	if len(chain) == 0 || chain[0] != d.Path {
		return false, fmt.Sprintf("disk %s is not on %s now; it is copied in when it is again", d.Target, d.Path), nil
	}
	if len(chain) == 1 {
		j, err := c.loadJournal(c.journal.Job)
		if err != nil {
			return false, "", err
		}
		if j == nil || j.Live == nil || slices.Contains(j.Live.Copied, d.Target) {
			return true, "", nil
		}
	}
	if domain.VM.State == backstay.VMShutOff {
		return false, "the VM is shut off; what is missing is copied in while it runs", nil
	}
	return false, "", nil
}

func (c *copying) copyIn(ctx context.Context, d backstay.PlannedDisk) error {
	paced, governor := c.pacer.Start(ctx, pace.Work{VM: c.plan.UUID, Limit: c.pacer.limit(c.plan.UUID), Unstoppable: true})
	defer governor.Close()
	throttle := func() int64 {
		if exists(c.hurryFile(c.journal.Job)) {
			return 0
		}
		return governor.Limit()
	}
	var before int64
	return c.hv.CopyIn(paced, c.plan.UUID, hypervisor.CopyIn{Target: d.Target, Throttle: throttle}, func(done, _ int64) {
		governor.Moved(done - before)
		before = done
		c.report(min(done, d.Size), governor.Note())
	})
}

// standAlone ends what a live restore needed beside an ordinary VM: the owner's
// error policies are back, the export ends, and what it needed is removed.
func (h *Host) standAlone(ctx context.Context, r mover.StageRequest) error {
	unlock, err := h.lockLive(ctx, r.Job)
	if err != nil {
		return err
	}
	defer unlock()
	j, err := h.loadJournal(r.Job)
	if err != nil || j == nil || j.Live == nil {
		return err
	}
	if err := h.hv.SetPolicies(ctx, j.VM, j.Live.Owner); err != nil {
		return h.hostError(err, "the error policies of VM %s cannot be put back", j.Name)
	}
	if err := h.dismissExport(ctx, j); err != nil {
		return err
	}
	for _, path := range []string{j.Live.Sealed, h.hurryFile(r.Job)} {
		if err := durable.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	j.Live = nil
	return j.write()
}
