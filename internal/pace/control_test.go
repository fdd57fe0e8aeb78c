package pace

import (
	"slices"
	"testing"
	"time"
)

var vda = sort{"vda", flushes}

// with returns a control whose guest's requests take base without us.
func with(base, limit time.Duration, floor bool) *control {
	c := newControl(limit, longest, floor)
	c.base = latencies{vda: base}
	return c
}

func took(latency time.Duration) sample {
	return sample{known: true, felt: latencies{vda: latency}, moved: 64 << 20}
}

const ms = time.Millisecond

// TestTheBoundsFollowTheDiskAndTheLimit is the first table of the package.
func TestTheBoundsFollowTheDiskAndTheLimit(t *testing.T) {
	for _, c := range []struct{ base, limit, slow, stop time.Duration }{
		{1 * ms, 100 * ms, 20 * ms, 100 * ms},
		{10 * ms, 100 * ms, 40 * ms, 100 * ms},
		{40 * ms, 100 * ms, 75 * ms, 100 * ms},
		{120 * ms, 100 * ms, 180 * ms, 240 * ms},
		{1 * ms, 4 * ms, 3 * ms, 4 * ms},
	} {
		if slow, stop := with(c.base, c.limit, false).bounds(vda); slow != c.slow || stop != c.stop {
			t.Errorf("a disk of %v under a limit of %v: %v and %v, want %v and %v", c.base, c.limit, slow, stop, c.slow, c.stop)
		}
	}
	if slow, stop := newControl(100*ms, longest, false).bounds(vda); slow != 50*ms || stop != 100*ms {
		t.Errorf("an unknown disk: %v and %v", slow, stop)
	}
}

// TestEachSampleLeadsWhereTheTableSays is the second table.
func TestEachSampleLeadsWhereTheTableSays(t *testing.T) {
	silence, blind := sample{known: true}, sample{}
	calm, felt, hurt := took(1*ms), took(50*ms), took(150*ms)
	idle := took(150 * ms)
	idle.moved = 0
	longFelt := slices.Repeat([]sample{felt}, 9)
	for _, c := range []struct {
		rule    string
		samples []sample
		state   State
		rate    float64
	}{
		{"calm changes nothing", []sample{calm, calm}, Free, 0},
		{"silence changes nothing", []sample{silence, blind}, Free, 0},
		{"a guest that is slow while we do nothing", []sample{idle, idle, idle}, Free, 0},
		{"felt halves", []sample{felt}, Slowed, 32 << 20},
		{"felt halves again", []sample{felt, felt}, Slowed, 16 << 20},
		{"hurt quarters", []sample{hurt}, Slowed, 16 << 20},
		{"calm adds a 64th of what was too much", []sample{felt, calm}, Slowed, 33 << 20},
		{"silence holds", []sample{felt, silence, silence, silence}, Slowed, 32 << 20},
		{"not to know holds", []sample{felt, blind, blind, blind, blind, blind, blind}, Slowed, 32 << 20},
		{"an idle guest speeds up", []sample{felt, silence, silence, silence, silence}, Slowed, 64 << 20},
		{"hurt twice stops", []sample{hurt, hurt}, Stopped, 16 << 20},
		{"hurt, then calm does not", []sample{hurt, calm, hurt}, Slowed, (16<<20 + 1<<20) / 4},
		{"felt at the slowest rate stops in the end", longFelt, Stopped, slowest},
	} {
		k := with(1*ms, 100*ms, false)
		now := time.Unix(0, 0)
		for _, s := range c.samples {
			now = now.Add(every)
			if k.step(now, s) {
				t.Errorf("%s: given up", c.rule)
			}
		}
		if k.state != c.state || k.rate != c.rate {
			t.Errorf("%s: %s at %.0f, want %s at %.0f", c.rule, k.state, k.rate, c.state, c.rate)
		}
	}
}

// TestADiskThatIsAlwaysSlowStopsNoBackup: without us its requests take longer
// than the limit.
func TestADiskThatIsAlwaysSlowStopsNoBackup(t *testing.T) {
	k := with(120*ms, 100*ms, false)
	for range 100 {
		if k.step(time.Time{}, took(150*ms)); k.state != Free {
			t.Fatalf("%s", k.state)
		}
	}
}

// TestAFastDiskIsNoticedBelowTheLimit: from 1 ms to 40 is a guest that suffers.
func TestAFastDiskIsNoticedBelowTheLimit(t *testing.T) {
	k := with(1*ms, 100*ms, false)
	if k.step(time.Time{}, took(40*ms)); k.state != Slowed {
		t.Fatalf("%s", k.state)
	}
}

// TestTheWorstDiskAndSortOfRequestCounts: many quick writes hide no flush.
func TestTheWorstDiskAndSortOfRequestCounts(t *testing.T) {
	k := with(1*ms, 100*ms, false)
	s := sample{known: true, moved: 1 << 20, felt: latencies{{"vda", writes}: ms / 10, {"vdb", reads}: ms, {"vdb", flushes}: 80 * ms}}
	if v := k.judge(s); v != felt {
		t.Fatalf("verdict %v", v)
	}
}

// run feeds a control with what a guest feels of work at a rate, for so long, and
// tells for how many samples it was in each state, and when it was given up.
func run(k *control, feels func(rate float64) time.Duration, total time.Duration) (in [3]int, gaveUp time.Duration) {
	start := time.Unix(0, 0)
	for at := every; at <= total; at += every {
		rate := []float64{200 << 20, k.rate, 0}[k.state]
		if k.state == Stopped && k.floor {
			rate = Floor
		}
		in[k.state]++
		if k.step(start.Add(at), sample{known: true, moved: rate, felt: latencies{vda: feels(rate)}}) {
			return in, at
		}
	}
	return in, 0
}

// TestWorkSettlesAtARateThatTheGuestDoesNotFeel: the guest feels more than 10 MiB/s.
func TestWorkSettlesAtARateThatTheGuestDoesNotFeel(t *testing.T) {
	bad, moved, samples := 0, 0.0, 0
	in, gaveUp := run(with(2*ms, 100*ms, false), func(rate float64) time.Duration {
		samples++
		moved += rate * every.Seconds()
		if rate > 10<<20 {
			bad++
			return 60 * ms
		}
		return 2 * ms
	}, 5*time.Minute)
	if gaveUp != 0 || in[Stopped] > 0 || bad*10 > samples {
		t.Errorf("states %v, %d of %d samples were felt, given up after %v", in, bad, samples, gaveUp)
	}
	if moved < 5<<20*300 {
		t.Errorf("only %.0f MiB were moved in five minutes", moved/(1<<20))
	}
}

// TestABackupIsGivenUpRatherThanTheGuest: I12. Any work of ours hurts the guest.
func TestABackupIsGivenUpRatherThanTheGuest(t *testing.T) {
	for _, floor := range []bool{false, true} {
		in, gaveUp := run(with(2*ms, 100*ms, floor), func(rate float64) time.Duration {
			if rate > 0 {
				return 500 * ms
			}
			return 2 * ms
		}, time.Hour)
		if gaveUp < longest || gaveUp > longest+time.Minute {
			t.Errorf("floor %v: given up after %v", floor, gaveUp)
		}
		if in[Free]+in[Slowed] > in[Stopped]/4 {
			t.Errorf("floor %v: the guest was hurt for %d samples and left alone for %d", floor, in[Free]+in[Slowed], in[Stopped])
		}
	}
}

// TestAGuestThatIsSlowByItselfIsNotWaitedFor: stopping does not help it, so the
// stop teaches what it has without us.
func TestAGuestThatIsSlowByItselfIsNotWaitedFor(t *testing.T) {
	in, gaveUp := run(with(2*ms, 100*ms, false), func(float64) time.Duration { return 300 * ms }, 5*time.Minute)
	if gaveUp != 0 || in[Free] < in[Stopped] {
		t.Errorf("states %v, given up after %v", in, gaveUp)
	}
}

// TestAShortBurstIsForgotten: after it the work is free again.
func TestAShortBurstIsForgotten(t *testing.T) {
	k := with(2*ms, 100*ms, false)
	run(k, func(float64) time.Duration { return 400 * ms }, time.Second)
	if k.state != Stopped {
		t.Fatalf("%s", k.state)
	}
	if _, gaveUp := run(k, func(float64) time.Duration { return 2 * ms }, time.Hour); gaveUp != 0 || k.state != Free || !k.suffering.IsZero() {
		t.Errorf("%s, given up after %v", k.state, gaveUp)
	}
}

// TestAMergeGrowsUntilItIsFelt: it begins slowly, and what it was when it was felt
// is where it settles. A guest that is idle does not hold it up for long.
func TestAMergeGrowsUntilItIsFelt(t *testing.T) {
	k := newControl(100*ms, longest, true)
	k.base = latencies{vda: ms}
	for range 20 {
		k.step(time.Time{}, took(ms))
	}
	if k.state != Slowed || k.rate < 5*guess || k.rate > 20*guess {
		t.Errorf("after five calm seconds: %s at %.0f", k.state, k.rate)
	}
	k.step(time.Time{}, took(50*ms))
	felt := k.rate
	for range 20 {
		k.step(time.Time{}, took(ms))
	}
	if k.state != Slowed || k.rate > 2*felt {
		t.Errorf("felt at %.0f, and %.0f five seconds later", 2*felt, k.rate)
	}
	k = newControl(100*ms, longest, true)
	for range 12 {
		k.step(time.Time{}, sample{known: true})
	}
	if k.state != Free {
		t.Errorf("with an idle guest: %s at %.0f", k.state, k.rate)
	}
}

// TestAGuestThatFallsSilentDuringAMergeMayHang: its request is not counted until it
// is answered. One that asked now and then only is idle.
func TestAGuestThatFallsSilentDuringAMergeMayHang(t *testing.T) {
	for _, c := range []struct {
		asked, silent int
		less          bool
	}{{busyAfter, 1, false}, {busyAfter, 2, true}, {busyAfter, 8, true}, {busyAfter, 20, false}, {1, 8, false}} {
		k := newControl(100*ms, longest, true)
		k.base = latencies{vda: ms}
		for range c.asked {
			k.step(time.Time{}, took(ms))
		}
		before := k.rate
		for range c.silent {
			k.step(time.Time{}, sample{known: true, moved: 1 << 20})
		}
		if less := k.rate < before; less != c.less {
			t.Errorf("%+v: from %.0f to %.0f", c, before, k.rate)
		}
	}
}
