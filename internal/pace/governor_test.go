package pace

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
)

const vm = backstay.VMID("11111111-1111-4111-8111-111111111111")

// guest is a VM that writes all the time, and feels what it is told to.
type guest struct {
	mu      sync.Mutex
	at      hypervisor.IOStats
	latency time.Duration
	idle    bool
	away    error
}

func (g *guest) IOStats(context.Context, backstay.VMID) (map[backstay.DiskTarget]hypervisor.IOStats, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.idle {
		g.at.Writes.Requests += 100
		g.at.Writes.Total += 100 * g.latency
	}
	return map[backstay.DiskTarget]hypervisor.IOStats{"vda": g.at}, g.away
}

func (g *guest) feels(latency time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.latency = latency
}

// start lets work run on a VM of which a minute is known. It is called in a bubble
// with a clock of its own.
func start(t *testing.T, g *guest, w Work) (context.Context, *Governor) {
	t.Helper()
	g.feels(2 * ms)
	w.VM = vm
	ctx, governor := New(Options{Stats: g}).Start(t.Context(), w)
	t.Cleanup(governor.Close)
	time.Sleep(time.Second)
	return ctx, governor
}

// read reads in pieces for so long, and returns the bytes per second.
func read(t *testing.T, g *Governor, within time.Duration) float64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	var n float64
	for ctx.Err() == nil {
		if err := g.Wait(ctx, Piece); err != nil {
			break
		}
		n += Piece
		time.Sleep(time.Millisecond) // 125 MiB/s: the disk's own speed
	}
	return n / within.Seconds()
}

func TestReadersGoAtTheRateThatTheGuestLeavesThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &guest{}
		_, governor := start(t, g, Work{})
		if rate := read(t, governor, 10*time.Second); rate < 100<<20 {
			t.Errorf("free: %.0f bytes/s", rate)
		}
		g.feels(60 * ms)
		read(t, governor, 2*time.Second)
		if rate := read(t, governor, time.Second); governor.State() == Free || rate > 8<<20 {
			t.Errorf("%s: %.0f bytes/s", governor.State(), rate)
		}
		g.feels(2 * ms)
		read(t, governor, 2*time.Minute)
		if rate := read(t, governor, time.Second); governor.State() != Free || rate < 100<<20 {
			t.Errorf("later %s: %.0f bytes/s", governor.State(), rate)
		}
	})
}

func TestAStopHoldsEveryReaderAndEndsWhenTheGuestIsWellAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &guest{}
		var mu sync.Mutex
		var states []State
		_, governor := start(t, g, Work{Changed: func(s State) {
			mu.Lock()
			defer mu.Unlock()
			states = append(states, s)
		}})
		go read(t, governor, time.Second)
		g.feels(300 * ms)
		for governor.State() != Stopped {
			read(t, governor, every)
		}
		g.feels(2 * ms)
		if n := read(t, governor, time.Second); n != 0 {
			t.Errorf("%.0f bytes/s in a stop", n)
		}
		if err := governor.Wait(t.Context(), Piece); err != nil || governor.State() != Slowed {
			t.Errorf("after the stop: %v, %s", err, governor.State())
		}
		mu.Lock()
		defer mu.Unlock()
		if len(states) < 3 || states[0] != Slowed || states[1] != Stopped || states[2] != Slowed {
			t.Errorf("states told: %v", states)
		}
	})
}

func TestAMergeGoesOnAtTheFloorInAStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &guest{}
		_, governor := start(t, g, Work{Unstoppable: true})
		if n := governor.Limit(); n < guess || governor.Note() != "" {
			t.Errorf("in the beginning limited to %d, %q", n, governor.Note())
		}
		g.feels(60 * ms)
		time.Sleep(2 * every)
		if n := governor.Limit(); n < Floor || n > guess || governor.Note() == "" {
			t.Errorf("slowed: limited to %d", n)
		}
		g.feels(300 * ms)
		time.Sleep(time.Second)
		if n := governor.Limit(); n != Floor || governor.State() != Stopped {
			t.Errorf("%s: limited to %d", governor.State(), n)
		}
	})
}

func TestTheContextEndsWithTheCauseWhenTheWorkIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &guest{}
		ctx, governor := start(t, g, Work{Unstoppable: true})
		g.feels(500 * ms)
		<-ctx.Done()
		if err := context.Cause(ctx); !backstay.IsCode(err, backstay.CodeGuestBusy) || governor.Err() == nil {
			t.Errorf("cause %v", err)
		}
		if err := governor.Wait(context.Background(), 1); !backstay.IsCode(err, backstay.CodeGuestBusy) {
			t.Errorf("a reader goes on: %v", err)
		}
	})
}

func TestAHypervisorThatIsAwayStopsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &guest{away: errors.New("away")}
		_, governor := start(t, g, Work{})
		g.feels(500 * ms)
		if rate := read(t, governor, 10*time.Second); governor.State() != Free || rate < 100<<20 {
			t.Errorf("%s: %.0f bytes/s", governor.State(), rate)
		}
	})
}

func TestTheGuestsOwnLatencyIsThatSinceOurLastWork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &guest{}
		p := New(Options{Stats: g})
		_, first := p.Start(t.Context(), Work{VM: vm})
		time.Sleep(time.Second + every/2)
		first.Close()
		g.feels(80 * ms) // nobody of ours is at work
		_, second := p.Start(t.Context(), Work{VM: vm})
		defer second.Close()
		synctest.Wait()
		if base := second.control.base[sort{"vda", writes}]; base != 80*ms {
			t.Errorf("base %v", base)
		}
	})
}

func TestWithoutAGovernorEverythingPasses(t *testing.T) {
	var g *Governor
	g.Moved(1)
	g.Close()
	if err := g.Wait(t.Context(), 1<<40); err != nil || g.Limit() != 0 || g.State() != Free || g.Err() != nil {
		t.Error("something does not pass")
	}
}
