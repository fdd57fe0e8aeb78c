package host

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	backstay "github.com/backstay/backstay"
)

// moment is what holds of a point's instant.
type moment struct {
	consistency backstay.Consistency
	reason      string
	freezeMs    int64
}

// notHeld is that of a guest that is not held still.
func notHeld(wish backstay.Consistency, why string) moment {
	if why == "" && wish == backstay.CrashConsistent {
		why = "nothing more was wished for"
	}
	return moment{backstay.CrashConsistent, why, 0}
}

const (
	freezePatience = 2 * time.Second
	thawPatience   = 15 * time.Second
)

// still freezes the guest's file systems around the instant, if that is wished
// for and can be had. A crash in between is mended by the next start, from the
// session's journal (I9).
func (p *pulling) still(ctx context.Context, at func(context.Context) error) error {
	began := time.Now()
	reason := p.freeze(ctx)
	if reason != "" {
		if p.request.Consistency != backstay.CrashConsistent && p.request.Fallback != nil &&
			!slices.Contains(p.request.Fallback, backstay.CrashConsistent) {
			return backstay.Errorf(backstay.CodeInconsistent, "the guest could not be brought into the state that the policy demands").Becausef("%s", reason)
		}
		p.instant = notHeld(p.request.Consistency, reason)
		return at(ctx)
	}
	err := at(ctx)
	clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), thawPatience)
	defer cancel()
	thawed, thawErr := p.hv.Thaw(clean, p.request.VM)
	frozen := time.Since(began)
	budget := time.Duration(p.request.Guest.FreezeBudget)
	if budget == 0 {
		budget = time.Duration(backstay.DefaultFreezeBudget)
	}
	switch {
	case thawErr != nil:
		return errors.Join(err, fmt.Errorf("thaw the guest: %w", thawErr))
	case thawed == 0:
		p.instant = notHeld(p.request.Consistency, "the guest was thawed before the instant")
	case frozen > budget:
		p.instant = notHeld(p.request.Consistency, fmt.Sprintf("the guest was frozen for %d ms, longer than its budget", frozen.Milliseconds()))
	default:
		p.instant = moment{backstay.FileSystemConsistent, "the guest's file systems were frozen", frozen.Milliseconds()}
	}
	return err
}

// freeze freezes, or says why not.
func (p *pulling) freeze(ctx context.Context) string {
	domain, err := p.hv.Domain(ctx, p.request.VM)
	switch {
	case p.request.Consistency == backstay.CrashConsistent:
		return "nothing more was wished for"
	case err != nil:
		return err.Error()
	case domain.VM.State != backstay.VMRunning:
		return fmt.Sprintf("the VM was not running (%s)", domain.VM.State)
	case domain.VM.Agent != backstay.AgentConnected:
		return "the guest agent is not connected"
	}
	if _, err = p.hv.Freeze(ctx, p.request.VM, nil, freezePatience); err == nil {
		return ""
	}
	clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), thawPatience)
	defer cancel()
	if _, thawErr := p.hv.Thaw(clean, p.request.VM); thawErr != nil {
		p.log.Warn("cannot tell whether the guest is frozen", "vm", p.request.VM, "error", thawErr)
	}
	return "the guest's file systems could not be frozen: " + err.Error()
}
