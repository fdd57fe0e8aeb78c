// Package pace lets a backup wait for the guest (I12): transfers and merges go
// as fast as they can while the guest does not feel them, slow down when its own
// disk requests take longer, stop when they take too long, and are given up
// rather than the guest when that does not end.
//
// What counts are the mean times of the guest's own reads, writes and flushes,
// each disk and each sort of request by itself, between two looks at the
// hypervisor's counts. Two bounds belong to each sort. With b its mean time
// before the work began and L the policy's limit:
//
//	stop bound  max(L, 2b)                 a slow disk may cost the guest twice what it has anyway
//	slow bound  min(max(20 ms, 4b), ¾ stop bound)   a fast disk is noticed long before the limit
//	            ½ stop bound               if b is not known
//
// A sample is calm, felt (beyond a slow bound) or hurt (beyond a stop bound). One
// without requests changes nothing, until four in a row show that the guest is
// idle. During a merge, of a guest that had requests all the time before, the second,
// fourth and eighth count as felt: a request that hangs is not counted until it is
// answered.
//
//	state    calm                        felt                     hurt
//	free     –                           slowed, at 1/2 the rate  slowed, at 1/4 the rate
//	slowed   rate + 1/64 of what was     rate / 2; at the slowest rate / 4; the second in a
//	         too much, or twice the      rate, the fourth in a    row: stopped
//	         rate if the guest is idle;  row: stopped
//	         at twice that free
//	stopped  after the rest a trial at the slowest rate: slowed; a stop after
//	         that rests twice as long, 2 s to 30 s. What the guest feels in the
//	         stop without us raises b.
//
// Merges begin slowed, at 8 MiB/s, and grow by an eighth with each calm sample until they
// are felt or at 1 GiB/s: what they write gathers in memory, and the guest feels it
// all at once.
//
// A stop is forgotten when eight calm samples in a row came after it. If none is
// for ten minutes the work's context ends with CodeGuestBusy.
//
// The package looks at one VM and its own work. It knows nothing of layers and
// vaults, and does not touch what others on the host do.
package pace

import (
	"cmp"
	"context"
	"log/slog"
	"sync"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
)

const (
	every   = 250 * time.Millisecond // Options.Every
	longest = 10 * time.Minute       // Options.Longest
	answer  = 5 * time.Second        // for the hypervisor to tell; longer is not known

	// Floor is the rate of a stop of work that cannot be stopped, in bytes/s.
	Floor = 64 << 10
	// Piece is how much is read at once when work is not free, in bytes.
	Piece = 128 << 10
)

// Pacer makes governors for the VMs of a host, and remembers between their work
// what the guests' requests took. Its methods may be called concurrently.
type Pacer struct {
	o Options

	mu   sync.Mutex
	last map[backstay.VMID]counts // guarded by mu: at the end of the last work
}

type counts map[backstay.DiskTarget]hypervisor.IOStats

// Options say how a pacer looks at guests. Stats is required.
type Options struct {
	Stats hypervisor.Stats
	Log   *slog.Logger // nil: nothing is logged
	// Every is the time between two looks; 0 means 250 ms.
	Every time.Duration
	// Longest is how long a guest may suffer from one piece of work; 0 means ten
	// minutes.
	Longest time.Duration
}

// New returns a pacer that asks a hypervisor what guests feel.
func New(o Options) *Pacer {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	o.Every, o.Longest = cmp.Or(o.Every, every), cmp.Or(o.Longest, longest)
	return &Pacer{o: o, last: map[backstay.VMID]counts{}}
}

// Work says what is to be paced.
type Work struct {
	VM backstay.VMID
	// Limit is the time of one of the guest's requests beyond which the work
	// stops; 0 means backstay.DefaultLatencyLimit.
	Limit time.Duration
	// Unstoppable work goes on at Floor in a stop.
	Unstoppable bool
	// Changed, if set, is called after each change of state, from one goroutine.
	Changed func(State)
}

// Governor sets the pace of one piece of work. A nil governor lets everything
// pass. Its methods may be called concurrently.
type Governor struct {
	pacer  *Pacer
	work   Work
	cancel context.CancelCauseFunc
	ended  chan struct{}

	mu      sync.Mutex
	control *control      // guarded by mu
	tokens  float64       // bytes that may move now, while slowed; guarded by mu
	filled  time.Time     // when tokens were counted; guarded by mu
	moved   int64         // bytes since the last sample; guarded by mu
	counted bool          // somebody counts; guarded by mu
	changed chan struct{} // closed and replaced at each sample; guarded by mu
	stopped error         // why the work was given up; guarded by mu
}

// Start looks after one VM until Close. The context ends with a CodeGuestBusy
// error as its cause when the work must be given up.
func (p *Pacer) Start(ctx context.Context, w Work) (context.Context, *Governor) {
	if w.Limit <= 0 {
		w.Limit = time.Duration(backstay.DefaultLatencyLimit)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	g := &Governor{
		pacer: p, work: w, cancel: cancel, ended: make(chan struct{}), changed: make(chan struct{}), filled: time.Now(),
		control: newControl(w.Limit, p.o.Longest, w.Unstoppable),
	}
	go g.watch(ctx)
	return ctx, g
}

// Close ends the looking, and the context of the work.
func (g *Governor) Close() {
	if g == nil {
		return
	}
	g.cancel(context.Canceled)
	<-g.ended
}

// watch samples until ctx ends.
func (g *Governor) watch(ctx context.Context) {
	defer close(g.ended)
	before, known := g.ask(ctx)
	g.mu.Lock()
	g.control.base = g.pacer.baseOf(g.work.VM, before)
	g.mu.Unlock()
	tick := time.NewTicker(g.pacer.o.Every)
	defer tick.Stop()
	for at := time.Now(); ; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			g.pacer.remember(g.work.VM, before)
			return
		}
		now, ok := g.ask(ctx)
		if ctx.Err() != nil {
			continue
		}
		s := sample{known: ok && known}
		if s.known {
			s.felt = meansOf(now, before, 1)
		}
		before, known = now, ok
		if err := g.take(time.Now(), time.Since(at), s); err != nil {
			g.cancel(err)
		}
		at = time.Now()
	}
}

// ask reads the counts; false if the hypervisor does not tell in time. A VM
// that does not run has none.
func (g *Governor) ask(ctx context.Context) (counts, bool) {
	ctx, cancel := context.WithTimeout(ctx, answer)
	defer cancel()
	all, err := g.pacer.o.Stats.IOStats(ctx, g.work.VM)
	return all, err == nil
}

// take lets the control decide, and tells of a change.
func (g *Governor) take(now time.Time, over time.Duration, s sample) error {
	g.mu.Lock()
	s.moved = -1
	if g.counted && over > 0 {
		s.moved = float64(g.moved) / over.Seconds()
	}
	g.moved = 0
	was := g.control.state
	g.refill(now)
	giveUp := g.control.step(now, s)
	is, rate := g.control.state, g.control.rate
	if is == Slowed && was != Slowed {
		g.tokens, g.filled = 0, now
	}
	close(g.changed)
	g.changed = make(chan struct{})
	if giveUp && g.stopped == nil {
		g.stopped = backstay.Errorf(backstay.CodeGuestBusy, "the guest's own disk requests took too long for %s", g.pacer.o.Longest).
			Becausef("one takes more than %s whenever the backup reads or merges, however slowly it does", g.work.Limit)
	}
	err := g.stopped
	g.mu.Unlock()
	if is != was {
		g.pacer.o.Log.Info("the pace of a backup changed", "vm", g.work.VM, "from", was, "to", is, "bytesPerSecond", int64(rate))
		if g.work.Changed != nil {
			g.work.Changed(is)
		}
	}
	return err
}

// refill adds what the rate has given since the last time. The caller holds mu.
func (g *Governor) refill(now time.Time) {
	if g.control.state != Slowed {
		return
	}
	g.tokens += g.control.rate * now.Sub(g.filled).Seconds()
	g.tokens = min(g.tokens, g.control.rate*g.pacer.o.Every.Seconds())
	g.filled = now
}

// Wait returns when so many bytes may be read, or with the cause of the end of
// ctx or of the work.
func (g *Governor) Wait(ctx context.Context, bytes int64) error {
	if g == nil {
		return nil
	}
	for {
		wait, changed, err := g.try(time.Now(), bytes)
		if err != nil || changed == nil {
			return err
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-changed:
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		}
		timer.Stop()
	}
}

// try takes the bytes if they may move now. Otherwise it returns how long to
// wait at most, and what tells that this has changed.
func (g *Governor) try(now time.Time, bytes int64) (time.Duration, <-chan struct{}, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.refill(now)
	g.counted = true
	switch {
	case g.stopped != nil:
		return 0, nil, g.stopped
	case g.control.state == Stopped:
		return time.Hour, g.changed, nil
	case g.control.state == Slowed && g.tokens <= 0:
		return time.Duration(-g.tokens/g.control.rate*float64(time.Second)) + time.Millisecond, g.changed, nil
	case g.control.state == Slowed:
		g.tokens -= float64(bytes) // into debt, which the next one waits for
	}
	g.moved += bytes
	return 0, nil, nil
}

// Moved counts bytes that were moved without Wait.
func (g *Governor) Moved(bytes int64) {
	if g == nil {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.moved += max(bytes, 0)
	g.counted = true
}

// Limit is how fast work may go that does not Wait, in bytes/s; 0 means as fast as
// it can.
func (g *Governor) Limit() int64 {
	if g == nil {
		return 0
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	switch g.control.state {
	case Slowed:
		return max(int64(g.control.rate), Floor)
	case Stopped:
		return Floor
	}
	return 0
}

// State says how fast work may go now.
func (g *Governor) State() State {
	if g == nil {
		return Free
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.control.state
}

// Note says for people that the guest slows the work down; "" if it does not.
func (g *Governor) Note() string {
	if g == nil {
		return ""
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.control.top == 0 {
		return "" // free, or only beginning
	}
	return g.control.state.Note()
}

// Err is why the work was given up; nil if it was not.
func (g *Governor) Err() error {
	if g == nil {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.stopped
}

// Note says for people that the guest slows the work down; "" if it does not.
func (s State) Note() string {
	switch s {
	case Slowed:
		return "slowed down for the guest"
	case Stopped:
		return "stopped for the guest"
	}
	return ""
}
