package vault

import (
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// TestGentleWorkTakesItsPriorityBack: a thread that worked for a backup is not slow
// for whatever the process does next.
func TestGentleWorkTakesItsPriorityBack(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	nice := func() int {
		p, err := unix.Getpriority(unix.PRIO_PROCESS, 0)
		if err != nil {
			t.Fatal(err)
		}
		return 20 - p
	}
	before := nice()
	done := (&Writer{o: WriteOptions{Gentle: true}}).gently()
	if during := nice(); during != gentleNice {
		t.Errorf("niceness %d while it works", during)
	}
	done()
	// Without the right to raise a priority the thread is given up instead.
	if unix.Geteuid() == 0 && nice() != before {
		t.Errorf("niceness %d afterwards, %d before", nice(), before)
	}
	(&Writer{}).gently()()
	if unix.Geteuid() == 0 && nice() != before {
		t.Error("work that is not gentle changed the priority")
	}
}
