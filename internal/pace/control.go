package pace

import (
	"slices"
	"time"

	backstay "github.com/backstay/backstay"
)

// State says how fast work may go.
type State int

// The states; see the package comment for what leads from one to another.
const (
	Free    State = iota // as fast as it can
	Slowed               // at a rate that follows what the guest feels
	Stopped              // not at all, or at the floor
)

func (s State) String() string { return [...]string{"free", "slowed", "stopped"}[s] }

const (
	slowest      = 256 << 10 // bytes/s of the least rate that is not a stop
	guess        = 8 << 20   // bytes/s that work is taken to have had when nobody counted
	enoughToFree = 1 << 30   // bytes/s at which work that began slowly is free
	silences     = 4         // samples without a request after which a guest is idle
	busyAfter    = 4         // samples with requests in a row after which silence is suspicious
	hangsUpTo    = 12        // silent samples after which it is not any more
	hurtTwice    = 2         // samples in a row beyond the stop bound that end in a stop
	feltLong     = 4         // samples in a row beyond the slow bound, at the slowest rate, that do
	recovered    = 8         // calm samples in a row after which a stop is forgotten
	settling     = 4         // samples of a stop in which work of ours is still on its way
	learning     = 4         // later ones that make the guest's latency without us
	steps        = 64        // calm samples that add once the rate which was too much

	firstRest = 2 * time.Second
	lastRest  = 30 * time.Second
	comfort   = 20 * time.Millisecond // less is never called slow, unless the limit says so
)

// hangs are the silent samples at which a request is taken to hang.
var hangs = []int{2, 4, 8}

// sort is one sort of request of one disk.
type sort struct {
	disk backstay.DiskTarget
	kind kind
}

type kind int

const (
	reads kind = iota
	writes
	flushes
)

// latencies are mean times of requests, of those sorts that had some.
type latencies map[sort]time.Duration

// sample is what the guest felt since the sample before.
type sample struct {
	felt latencies
	// known is false if the hypervisor did not tell.
	known bool
	// moved is how fast our work went, in bytes/s; -1 if nobody counted.
	moved float64
}

// verdict is what a sample means.
type verdict int

const (
	calm verdict = iota
	felt
	hurt
	silent // the guest asked for nothing, or nobody knows
)

// control decides. It reads no clock and does nothing.
type control struct {
	limit   time.Duration // of one request
	floor   bool          // a stop still moves something
	longest time.Duration // of a guest suffering, until the work is given up

	base  latencies // without us
	state State
	rate  float64 // bytes/s, while slowed
	top   float64 // the rate that was last too much

	hurts, felts, calms, quiet int // samples in a row
	busy                       int // samples with requests in a row before the silence

	stopped   time.Time     // when the stop began
	rest      time.Duration // how long the next one lasts at least
	stops     int           // samples of this stop
	without   latencies     // means of samples in this stop
	suffering time.Time     // since when it is one stop after another; zero: it is not
}

// newControl returns the control of work that begins free, or, with a floor, slowly:
// what a merge writes is not on the disk for a while, and the guest feels it late.
func newControl(limit, longest time.Duration, floor bool) *control {
	c := &control{limit: limit, longest: longest, floor: floor, base: latencies{}, rest: firstRest}
	if floor {
		c.state, c.rate = Slowed, guess
	}
	return c
}

// bounds are the latencies beyond which work slows down, and stops. A disk that
// is slow by itself may double what its guest waits, and no more; a fast one is
// noticed long before the limit.
func (c *control) bounds(of sort) (slow, stop time.Duration) {
	base, known := c.base[of]
	stop = max(c.limit, 2*base)
	if !known {
		return stop / 2, stop
	}
	return min(max(comfort, 4*base), stop*3/4), stop
}

// judge compares a sample with the bounds: its worst sort of request counts.
func (c *control) judge(s sample) verdict {
	if !s.known || len(s.felt) == 0 {
		return silent
	}
	worst := calm
	for of, latency := range s.felt {
		slow, stop := c.bounds(of)
		switch {
		case latency > stop:
			return hurt
		case latency > slow:
			worst = felt
		}
	}
	return worst
}

// step takes a sample and tells whether the work must be given up.
func (c *control) step(now time.Time, s sample) (giveUp bool) {
	v := c.judge(s)
	if v == silent && s.known {
		v = c.hear()
	}
	c.count(v, s)
	switch c.state {
	case Free:
		c.whenFree(v, s)
	case Slowed:
		c.whenSlowed(now, v)
	case Stopped:
		c.whenStopped(now, v, s)
	}
	return !c.suffering.IsZero() && now.Sub(c.suffering) >= c.longest
}

// hear says what one more sample without a request means. A request that hangs is
// not counted by anyone until it is answered: a guest that asked all the time and
// falls silent during a merge is taken to feel it, now and then for a while. Another
// is idle after some samples, and there is nobody to be slow for.
func (c *control) hear() verdict {
	c.quiet++
	hanging := c.floor && c.busy >= busyAfter && c.state != Stopped
	switch {
	case hanging && c.quiet >= hangsUpTo, !hanging && c.quiet >= silences:
		return calm
	case hanging && slices.Contains(hangs, c.quiet):
		return felt
	}
	return silent
}

// count keeps how many samples in a row were alike.
func (c *control) count(v verdict, s sample) {
	switch v {
	case calm:
		c.calms, c.felts, c.hurts = c.calms+1, 0, 0
	case felt:
		c.calms, c.felts, c.hurts = 0, c.felts+1, 0
	case hurt:
		c.calms, c.felts, c.hurts = 0, c.felts+1, c.hurts+1
	case silent:
	}
	switch {
	case s.known && len(s.felt) > 0 && c.quiet > 0:
		c.busy, c.quiet = 1, 0
	case s.known && len(s.felt) > 0:
		c.busy++
	}
}

func (c *control) whenFree(v verdict, s sample) {
	if v != felt && v != hurt || s.moved == 0 {
		return // calm; or a guest that is slow while we do nothing
	}
	c.rate = s.moved
	if s.moved < 0 {
		c.rate = guess
	}
	c.state = Slowed
	c.less(v)
}

// less is the multiplicative decrease.
func (c *control) less(v verdict) {
	c.top = max(c.rate, slowest)
	divisor := 2.0
	if v == hurt {
		divisor = 4
	}
	c.rate = max(c.rate/divisor, slowest)
}

func (c *control) whenSlowed(now time.Time, v verdict) {
	switch v {
	case calm:
		if c.calms >= recovered {
			c.suffering, c.rest = time.Time{}, firstRest
		}
		c.more()
	case felt, hurt:
		atSlowest := c.rate <= slowest
		if c.hurts >= hurtTwice || atSlowest && c.felts >= feltLong {
			c.stop(now)
			return
		}
		c.less(v)
	case silent:
	}
}

// more is the additive increase. Work that was never too much grows by itself, and
// all work while the guest is idle.
func (c *control) more() {
	enough := 2 * c.top
	if c.top == 0 {
		enough = enoughToFree
	}
	switch {
	case c.quiet > 0:
		c.rate *= 2
	case c.top == 0:
		c.rate *= 9. / 8
	default:
		c.rate += max(c.top/steps, slowest/4)
	}
	if c.rate >= enough && c.calms >= recovered {
		c.state = Free
	}
}

func (c *control) stop(now time.Time) {
	if c.suffering.IsZero() {
		c.suffering = now
	} else {
		c.rest = min(2*c.rest, lastRest) // the last probe did not do
	}
	c.state, c.stopped, c.stops, c.without = Stopped, now, 0, latencies{}
	c.calms, c.felts, c.hurts = 0, 0, 0
}

// whenStopped waits, learns what the guest feels without us, and tries again.
func (c *control) whenStopped(now time.Time, v verdict, s sample) {
	c.stops++
	if !c.floor && c.stops > settling {
		c.learn(s)
		v = c.judge(s)
	}
	if now.Sub(c.stopped) < c.rest || v == felt || v == hurt {
		return
	}
	c.state, c.rate = Slowed, slowest
	c.calms, c.felts, c.hurts = 0, 0, 0
}

// learn raises the guest's own latencies to what they are while we do nothing: a
// guest that is slow by itself is not helped by waiting longer.
func (c *control) learn(s sample) {
	for of, latency := range s.felt {
		mean, there := c.without[of]
		if !there {
			mean = latency
		}
		c.without[of] = mean + (latency-mean)/learning
	}
	if c.stops < settling+learning {
		return
	}
	for of, mean := range c.without {
		c.base[of] = max(c.base[of], mean)
	}
}
