package restore

import (
	"context"
	"sync"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/mover"
)

const (
	carriers    = 4                // calls that carry at a time
	carryPause  = time.Second      // before a host that did not answer is asked again
	endPatience = 10 * time.Second // for either host to forget the stream
)

// servePatience is how long the point's host may be away before a restore from it
// fails: its mover may have been started anew.
var servePatience = 20 * time.Second

// carry brings what a restore asks to the host that has the point, and the answers
// back, until stop is called. All that passes here is sealed for the restoring host.
func (r *Runner) carry(ctx context.Context, a *attempt) (stop func(), err error) {
	plan := a.request.Plan
	from, err := r.Mover(plan.StreamedFrom)
	if err != nil {
		return nil, err
	}
	within, cancel := context.WithCancel(ctx)
	var all sync.WaitGroup
	for range carriers {
		all.Go(func() { carrier{from: from, to: a.mover, job: a.request.Job, plan: plan}.run(within) })
	}
	return func() {
		cancel()
		all.Wait()
		clean, done := context.WithTimeout(context.WithoutCancel(ctx), endPatience)
		defer done()
		for _, m := range []mover.Mover{from, a.mover} {
			// A host that is away forgets by itself.
			_ = m.EndStream(clean, a.request.Job)
		}
	}, nil
}

type carrier struct {
	from, to mover.Mover
	job      backstay.JobID
	plan     backstay.RestorePlan
}

func (c carrier) run(ctx context.Context) {
	var served mover.Served
	for ctx.Err() == nil {
		next, err := c.to.Exchange(ctx, mover.ExchangeRequest{Job: c.job, Served: served})
		served = mover.Served{}
		if err != nil {
			// The restore itself fails where its host is away; what was lost on the way is
			// asked for anew.
			_ = pause(ctx, carryPause) // the loop sees that ctx ended
			continue
		}
		if len(next.Asks) > 0 {
			served = c.serve(ctx, next)
		}
	}
}

// serve has the asks answered. What cannot be is answered with the reason.
func (c carrier) serve(ctx context.Context, next mover.Exchanged) mover.Served {
	patient, cancel := context.WithTimeout(ctx, servePatience)
	defer cancel()
	r := mover.ServeRequest{Job: c.job, Point: c.plan.Point, Key: next.Key, Asks: next.Asks}
	for {
		served, err := c.from.Serve(ctx, r)
		if err == nil {
			return served
		}
		if backstay.IsCode(err, backstay.CodeHostAway) {
			if pause(patient, carryPause) == nil {
				continue
			}
			err = backstay.Errorf(backstay.CodeHostAway, "host %s went away while point %s was read from it", c.plan.StreamedFrom, c.plan.Point).Because(err).
				Do("bring the host back and try again, or restore from the vault with --tier vault")
		}
		for _, ask := range next.Asks {
			served.Pieces = append(served.Pieces, mover.StreamPiece{ID: ask.ID, Error: backstay.AsError(err)})
		}
		return served
	}
}

// checkStream refuses what cannot be streamed.
func checkStream(f Facts, plan backstay.RestorePlan) (c backstay.Check, refused bool) {
	vault := "bring that host back"
	if f.Point.Has(backstay.VaultTier) {
		vault = "restore from the vault with --tier vault"
	}
	switch {
	case plan.StreamedFrom == "":
		return c, false
	case f.SourceProblem != "":
		return refuseDo("tier", backstay.CodeNotConnected, vault, "host %s, which has the point, cannot be reached: %s", plan.StreamedFrom, f.SourceProblem), true
	case needsKeys(f.Point):
		return refuseDo("tier", backstay.CodeEncrypted, vault, "a point with disks that are encrypted on the host is not streamed to another"), true
	}
	return c, false
}
