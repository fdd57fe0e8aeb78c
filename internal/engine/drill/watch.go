package drill

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/mover"
)

// agentOnly is what is tried where a plan names no probe.
var agentOnly = []backstay.DrillProbe{{Kind: backstay.DrillAgent}}

// watched is one VM that is waited for.
type watched struct {
	i       int
	started time.Time
	limit   time.Duration
	probes  []backstay.DrillProbe
	results []backstay.DrillProbeResult
	boot    *float64
	address string
}

// watch tries the probes of a VM that was started until all have passed, it stops, or
// its time is over, and takes a picture of it. It tells whether it is well.
func (a *attempt) watch(ctx context.Context, i int, started time.Time) bool {
	vm := a.params.Plan.VMs[i]
	w := &watched{i: i, started: started, limit: time.Duration(vm.Timeout), probes: vm.Probes}
	if w.limit == 0 {
		w.limit = time.Duration(backstay.DefaultDrillTimeout)
	}
	if len(w.probes) == 0 {
		w.probes = agentOnly
	}
	for _, p := range w.probes {
		w.results = append(w.results, backstay.DrillProbeResult{Probe: p.String(), Detail: "it was not tried"})
	}
	name := a.params.VMs[i].Name
	err := a.step(name, "probe", func() error { return a.until(ctx, w) })
	healthy := a.Now().Sub(started)
	picture := a.picture(ctx, i)
	a.change(func(s *state) {
		d := &s.VMs[i]
		d.Probes, d.BootSeconds, d.Address, d.Screenshot = w.results, w.boot, w.address, picture
		if err == nil {
			d.HealthySeconds = seconds(healthy)
		} else {
			d.Error = backstay.AsError(err)
		}
		if picture == nil && ctx.Err() == nil {
			s.Notes = append(s.Notes, name+": there is no picture of it")
		}
	})
	return err == nil
}

// until tries what has not passed again and again.
func (a *attempt) until(ctx context.Context, w *watched) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for {
		missing := a.round(ctx, w)
		over := a.Now().Sub(w.started) >= w.limit
		switch stopped := a.look(ctx, w); {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case stopped != "":
			w.giveUp(a.Now())
			return backstay.Errorf(backstay.CodeDrillFailed, "VM %s was not well", a.params.VMs[w.i].Name).Becausef("%s", stopped)
		case missing == "":
			return nil
		case over:
			w.giveUp(a.Now())
			return backstay.Errorf(backstay.CodeDrillFailed, "VM %s was not well in %v", a.params.VMs[w.i].Name, w.limit).Becausef("%s", missing)
		}
		if err := a.Wait(ctx, between); err != nil {
			return context.Cause(ctx)
		}
	}
}

// round tries each probe that has not passed, and says what the first is that does
// not.
func (a *attempt) round(ctx context.Context, w *watched) (missing string) {
	for n, p := range w.probes {
		result := &w.results[n]
		if result.OK || ctx.Err() != nil {
			continue
		}
		probed, err := a.mover.ProbeDrill(ctx, a.question(w.i, p))
		if err != nil { // the host may answer again
			probed = mover.DrillProbed{Detail: backstay.AsError(err).Error()}
		}
		now := a.Now()
		result.OK, result.Detail, result.At, result.Seconds = probed.OK, probed.Detail, now.UTC(), *seconds(now.Sub(w.started))
		if probed.Address != "" {
			w.address = probed.Address
		}
		if !probed.OK && missing == "" {
			missing = fmt.Sprintf("%s: %s", result.Probe, result.Detail)
		}
		if probed.OK && w.boot == nil {
			w.boot = seconds(now.Sub(w.started))
		}
	}
	return missing
}

// look tells whether the VM still runs, and notes when it was heard of first.
func (a *attempt) look(ctx context.Context, w *watched) (stopped string) {
	seen, err := a.mover.LookDrill(ctx, a.question(w.i, backstay.DrillProbe{Kind: backstay.DrillAgent}))
	if err != nil {
		return ""
	}
	if seen.Address != "" {
		w.address = seen.Address
	}
	if seen.How != "" && w.boot == nil {
		w.boot = seconds(a.Now().Sub(w.started))
	}
	return seen.Stopped
}

// giveUp notes of each probe that did not pass until when it was tried.
func (w *watched) giveUp(now time.Time) {
	for i := range w.results {
		if !w.results[i].OK {
			w.results[i].Seconds, w.results[i].At = *seconds(now.Sub(w.started)), now.UTC()
		}
	}
}

func (a *attempt) question(i int, p backstay.DrillProbe) mover.DrillProbeRequest {
	return mover.DrillProbeRequest{Job: a.job, Network: a.params.Network, VM: a.params.Restores[i].UUID, Probe: p}
}

// picture is how the VM looks now; nil if nobody can tell.
func (a *attempt) picture(ctx context.Context, i int) *backstay.DrillScreenshot {
	p, err := a.mover.Picture(ctx, a.params.Restores[i].UUID)
	if err != nil || len(p.PNG) == 0 || len(p.PNG) > mostPicture {
		return nil
	}
	sum := sha256.Sum256(p.PNG)
	return &backstay.DrillScreenshot{PNG: p.PNG, Of: p.Of, Taken: a.Now().UTC(), SHA256: hex.EncodeToString(sum[:])}
}

// mostPicture bounds the picture in a record, in bytes.
const mostPicture = 4 << 20
