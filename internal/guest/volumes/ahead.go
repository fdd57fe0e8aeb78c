package volumes

import (
	"context"
	"sync"

	"github.com/backstay/backstay/internal/tier"
)

const (
	// aheadAfter is how much must have been read in a row before anything is read
	// that was not asked for, in bytes: who only looks around costs nothing more.
	aheadAfter = 8 << 20
	// aheadBy is how far before the reader it is read, in bytes, and aheadTogether how
	// many reads of aheadStep are under way at a time.
	aheadBy       = 6 << 20
	aheadStep     = 1 << 20
	aheadTogether = 4
	// aheadGap is how far a read may begin from the end of the one before and still be
	// of the same run: a kernel's own reads come out of order.
	aheadGap = 2 << 20
)

// aheadImage brings what a reader will want next into the cache of a vault, once it
// reads in a row: one chunk after the other would wait for the store each time.
type aheadImage struct {
	tier.Image
	ctx  context.Context
	work sync.WaitGroup
	free chan struct{} // holds as many values as reads may be under way

	mu   sync.Mutex
	end  int64 // of the run; guarded by mu
	run  int64 // bytes of it; guarded by mu
	done int64 // to where it was read ahead, or is being; guarded by mu
}

// Ahead returns an image that reads ahead of its reader until ctx ends. It closes image.
func Ahead(ctx context.Context, image tier.Image) tier.Image {
	return &aheadImage{Image: image, ctx: ctx, free: make(chan struct{}, aheadTogether)}
}

// ReadAt reads the image, and ahead of the reader.
func (a *aheadImage) ReadAt(p []byte, off int64) (int, error) {
	a.asked(off, int64(len(p)))
	return a.Image.ReadAt(p, off)
}

// asked notes a read, and begins those that are worth it.
func (a *aheadImage) asked(off, length int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if off < a.end-aheadGap || off > a.end+aheadGap {
		a.run, a.end, a.done = 0, off, 0
	}
	a.run += length
	a.end = max(a.end, off+length)
	if a.run < aheadAfter {
		return
	}
	a.done = max(a.done, a.end)
	for a.done < min(a.end+aheadBy, a.Size()) {
		select {
		case a.free <- struct{}{}:
		default:
			return // enough are under way
		}
		at := a.done
		n := min(aheadStep-at%aheadStep, a.Size()-at)
		a.done += n
		a.work.Go(func() {
			defer func() { <-a.free }()
			if a.ctx.Err() == nil {
				// Whoever asks for it is told of an error.
				_, _ = a.Image.ReadAt(make([]byte, n), at)
			}
		})
	}
}

// Close waits for what is under way.
func (a *aheadImage) Close() error {
	a.work.Wait()
	return a.Image.Close()
}
