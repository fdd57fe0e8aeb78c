// Package quiesce brings a guest into the state in which a point of it is
// consistent, and out of it again: it runs the application's hooks, freezes the
// file systems or pauses the VM, and sees to it that a guest is let go whatever
// happens (I9): a guard, a process of its own, thaws when the freeze budget has
// passed or when the process that froze is gone.
//
// It decides which consistency is reached and says why. It switches no disk and
// writes no record: the snapshot tier does, and keeps the journal that this
// package asks for.
package quiesce

import (
	"time"

	"golang.org/x/sys/unix"
)

// Moment is an instant that processes of one host can compare: nanoseconds of
// the machine's monotonic clock. 0 is never.
type Moment int64

// now is read for measuring and for comparing what two processes did, and for no
// decision on its own.
func now() Moment {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return Moment(time.Now().UnixNano()) // every Linux has the clock
	}
	return Moment(ts.Nano())
}

func (m Moment) since(earlier Moment) time.Duration { return time.Duration(m - earlier) }
