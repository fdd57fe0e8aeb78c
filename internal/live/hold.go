package live

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/nbd"
	"github.com/backstay/backstay/internal/tier"
)

// How long to wait until a store that failed is asked again.
const (
	firstRetry = 50 * time.Millisecond
	lastRetry  = 3 * time.Second
)

// holder answers what can be answered, and holds what cannot until it can: a
// guest that waits loses nothing, one that is told of an error does. What is held
// is bounded by what clients may ask at once.
type holder struct {
	ctx    context.Context
	order  Order
	open   Open
	log    *slog.Logger
	served atomic.Int64

	mu     sync.Mutex
	source Source                             // guarded by mu; nil until it was opened
	disks  map[backstay.DiskTarget]tier.Image // guarded by mu
	age    int                                // guarded by mu: of source
	waits  int                                // guarded by mu: requests that are held

	opening sync.Mutex // held while the point is opened; taken before mu
	ahead   *ahead
}

func newHolder(ctx context.Context, o Order, open Open, log *slog.Logger) *holder {
	h := &holder{ctx: ctx, order: o, open: open, log: log}
	h.ahead = newAhead(ctx, h)
	return h
}

func (h *holder) close() {
	h.ahead.wait()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.source != nil {
		_ = h.source.Close()
	}
}

// exports are the disks as the block protocol has them.
func (h *holder) exports() []nbd.Export {
	var all []nbd.Export
	for i, d := range h.order.Disks {
		all = append(all, nbd.Export{
			Name: string(d.Target), Size: d.Size, Content: &heldDisk{h, d, i},
			Extents: func(offset, length int64) (runs []nbd.Extent, err error) {
				err = h.hold(func() error {
					runs, err = h.extents(d.Target, offset, length)
					return err
				})
				return runs, err
			},
		})
	}
	return all
}

// heldDisk is the content of one disk.
type heldDisk struct {
	*holder
	disk  Disk
	index int
}

// ReadAt reads the disk, however long that takes.
func (d *heldDisk) ReadAt(p []byte, offset int64) (n int, err error) {
	err = d.hold(func() error {
		n, err = d.read(d.disk.Target, p, offset)
		return err
	})
	if err == nil {
		d.served.Add(int64(n))
		d.ahead.asked(d.index, offset, int64(n))
	}
	return n, err
}

func (h *holder) read(target backstay.DiskTarget, p []byte, offset int64) (int, error) {
	image, err := h.image(target)
	if err != nil {
		return 0, err
	}
	n, err := image.ReadAt(p, offset)
	if errors.Is(err, io.EOF) && n == len(p) {
		err = nil
	}
	return n, err
}

func (h *holder) extents(target backstay.DiskTarget, offset, length int64) ([]nbd.Extent, error) {
	image, err := h.image(target)
	if err != nil {
		return nil, err
	}
	extents, err := image.Extents(offset, length)
	if err != nil {
		return nil, err
	}
	runs := make([]nbd.Extent, len(extents))
	for i, e := range extents {
		runs[i] = nbd.Extent{Offset: e.Offset, Length: e.Length}
		if e.Zero {
			runs[i].Flags = nbd.Hole | nbd.Zero
		}
	}
	return runs, nil
}

// image returns a disk of the point, which is opened if it is not.
func (h *holder) image(target backstay.DiskTarget) (tier.Image, error) {
	h.mu.Lock()
	image, age := h.disks[target], h.age
	h.mu.Unlock()
	if image != nil {
		return image, nil
	}
	if err := h.reopen(age); err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.disks[target], nil
}

// reopen opens the point anew if it is still as old as the caller saw it. The one
// that is open, with what it has cached, is given up only for another.
func (h *holder) reopen(age int) error {
	h.opening.Lock()
	defer h.opening.Unlock()
	h.mu.Lock()
	current := h.age
	h.mu.Unlock()
	if current != age {
		return nil
	}
	source, err := h.open(h.ctx, h.order)
	if err != nil {
		return err
	}
	disks := map[backstay.DiskTarget]tier.Image{}
	for _, d := range h.order.Disks {
		image, err := source.Disk(h.ctx, d.Target)
		if err == nil && image.Size() != d.Size {
			err = errors.New("the disk has another size than its VM was told")
		}
		if err != nil {
			return errors.Join(err, source.Close())
		}
		disks[d.Target] = image
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	// The old one may be read by others at this moment: it is left to the collector.
	h.source, h.disks, h.age = source, disks, age+1
	return nil
}

// hold repeats fn until it succeeds or the export ends.
func (h *holder) hold(fn func() error) error {
	h.mu.Lock()
	age := h.age
	h.mu.Unlock()
	err := fn()
	if err == nil {
		return nil
	}
	h.waiting(1, err)
	defer h.waiting(-1, nil)
	for retry, tries := firstRetry, 1; ; retry, tries = min(2*retry, lastRetry), tries+1 {
		select {
		case <-time.After(retry):
		case <-h.ctx.Done():
			return h.ctx.Err()
		}
		if tries > 2 && h.reopen(age) == nil {
			h.mu.Lock()
			age = h.age
			h.mu.Unlock()
		}
		if err = fn(); err == nil {
			return nil
		}
	}
}

// waiting counts the requests that are held, and tells of the first and the last.
func (h *holder) waiting(change int, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	before := h.waits
	h.waits += change
	switch {
	case before == 0:
		h.log.Warn("the guest waits: its disk cannot be read from the vault; trying on", "point", h.order.Point, "error", err)
		h.tell(State{Held: backstay.AsError(err).Error()})
	case h.waits == 0:
		h.log.Info("the guest goes on", "point", h.order.Point)
		h.tell(State{})
	}
}

// State is what an export says of itself in a file of its folder.
type State struct {
	// Held says why the guest waits; "" if it does not.
	Held string `json:"held,omitempty"`
}

func stateFile(folder string) string { return filepath.Join(folder, "state.json") }

// tell writes the state. Whether it is read in time matters to no guest.
func (h *holder) tell(s State) {
	data, err := json.Marshal(s)
	if err == nil {
		err = os.WriteFile(stateFile(h.order.Folder), data, 0o600)
	}
	if err != nil {
		h.log.Debug("the export's state cannot be told", "error", err)
	}
}

// ReadState returns what the export in a folder said last.
func ReadState(folder string) (s State) {
	if data, err := os.ReadFile(stateFile(folder)); err == nil {
		_ = json.Unmarshal(data, &s)
	}
	return s
}
