package vault

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// gentleNice is the niceness of work that shares a host with guests: a guest that
// wants a core gets nearly all of it (setpriority(2), sched(7): a tenth of the
// weight).
const gentleNice = 10

// gently lets the calling goroutine compute only where nobody else wants to,
// until the returned function is called. A thread whose priority cannot be taken
// back ends with its goroutine.
func (w *Writer) gently() (done func()) {
	if !w.o.Gentle {
		return func() {}
	}
	runtime.LockOSThread()
	before, err := unix.Getpriority(unix.PRIO_PROCESS, 0)
	if err != nil || unix.Setpriority(unix.PRIO_PROCESS, 0, gentleNice) != nil {
		runtime.UnlockOSThread()
		return func() {}
	}
	return func() {
		// The system call answers with 20 less the niceness (getpriority(2)).
		if unix.Setpriority(unix.PRIO_PROCESS, 0, 20-before) == nil {
			runtime.UnlockOSThread()
		}
	}
}
