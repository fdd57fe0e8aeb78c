package snapshot

import (
	"context"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// flushEvery is the time between two flushes of a file that is merged into.
const flushEvery = 250 * time.Millisecond

// keepFlushed writes what is merged into a file to its disk as it comes, until it
// is told to stop. Otherwise it gathers in the host's memory, where nobody's
// throttle sees it, and the guest's next flush waits for all of it at once (I12).
// It is no part of making the merge durable, so its errors do not matter.
func keepFlushed(ctx context.Context, path string) (stop func()) {
	file, err := os.Open(path)
	if err != nil {
		return func() {} // no file: a block device of the hypervisor's view
	}
	ctx, cancel := context.WithCancel(ctx)
	var work sync.WaitGroup
	work.Go(func() {
		defer file.Close()
		tick := time.NewTicker(flushEvery)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				_ = unix.Fdatasync(int(file.Fd()))
			case <-ctx.Done():
				return
			}
		}
	})
	return func() {
		cancel()
		work.Wait()
	}
}
