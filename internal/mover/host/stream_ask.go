package host

import (
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/mover"
	"github.com/backstay/backstay/internal/tier"
)

const (
	asksAtOnce   = 4                // that one call of Exchange carries away
	askPatience  = 15 * time.Second // for which Exchange waits for an ask
	bytesOfAsked = 2 << 20          // of data, that one call carries away at most
	askAgain     = time.Minute      // after which what was carried away is asked anew
)

var errStreamEnded = errors.New("nobody carries what is asked of the other host any more")

// desk is where a restore puts what it asks of the point's host, and where whoever
// carries it finds it.
type desk struct {
	job   backstay.JobID
	own   *ecdh.PrivateKey
	asks  chan *asked
	ended chan struct{}
	end   func()

	mu      sync.Mutex
	next    uint64                   // guarded by mu
	open    map[uint64]*asked        // carried away, not answered; guarded by mu
	held    *heldPoint               // once it was asked for; guarded by mu
	ciphers map[string]*streamCipher // by point and the serving host's key; guarded by mu
}

// asked is one ask and the place for its answer.
type asked struct {
	mover.StreamAsk
	point  backstay.PointID
	answer chan answered // of one
}

type answered struct {
	data []byte
	err  error
}

// deskOf returns the job's desk; the first to come makes it.
func (h *Host) deskOf(job backstay.JobID) (*desk, error) {
	h.streams.mu.Lock()
	defer h.streams.mu.Unlock()
	if d := h.streams.desks[job]; d != nil {
		return d, nil
	}
	own, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	d := &desk{
		job: job, own: own, asks: make(chan *asked), ended: make(chan struct{}),
		open: map[uint64]*asked{}, ciphers: map[string]*streamCipher{},
	}
	d.end = sync.OnceFunc(func() { close(d.ended) })
	h.streams.desks[job] = d
	return d, nil
}

// Exchange gives answers, and waits for asks.
func (h *Host) Exchange(ctx context.Context, r mover.ExchangeRequest) (mover.Exchanged, error) {
	d, err := h.deskOf(r.Job)
	if err != nil {
		return mover.Exchanged{}, err
	}
	for _, p := range r.Served.Pieces {
		d.give(r.Served.Key, p)
	}
	out := mover.Exchanged{Key: d.own.PublicKey().Bytes()}
	wait := time.NewTimer(askPatience)
	defer wait.Stop()
	select {
	case a := <-d.asks:
		out.Asks = append(out.Asks, d.take(a))
	case <-wait.C:
		return out, nil
	case <-d.ended:
		return out, nil
	case <-ctx.Done():
		return out, context.Cause(ctx)
	}
	for length := out.Asks[0].Length; len(out.Asks) < asksAtOnce && length < bytesOfAsked; {
		select {
		case a := <-d.asks:
			out.Asks = append(out.Asks, d.take(a))
			length += a.Length
		default:
			return out, nil
		}
	}
	return out, nil
}

// take notes an ask as carried away, under a number of its own.
func (d *desk) take(a *asked) mover.StreamAsk {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.next++
	ask := a.StreamAsk
	ask.ID = d.next
	d.open[ask.ID] = a
	return ask
}

// give hands an answer to whoever asked; what nobody waits for is dropped.
func (d *desk) give(key []byte, p mover.StreamPiece) {
	d.mu.Lock()
	a := d.open[p.ID]
	delete(d.open, p.ID)
	d.mu.Unlock()
	if a == nil {
		return
	}
	got := answered{}
	if p.Error != nil {
		got.err = p.Error
	} else if c, err := d.cipher(a.point, key); err != nil {
		got.err = err
	} else {
		got.data, got.err = c.open(a.StreamAsk, p.Sealed)
	}
	select {
	case a.answer <- got:
	default: // it was asked twice, and answered before
	}
}

func (d *desk) cipher(point backstay.PointID, key []byte) (*streamCipher, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	name := string(point) + string(key)
	if c := d.ciphers[name]; c != nil {
		return c, nil
	}
	c, err := newStreamCipher(d.own, key, streamOf{job: d.job, point: point, restoring: d.own.PublicKey().Bytes(), serve: key})
	if err == nil {
		d.ciphers[name] = c
	}
	return c, err
}

// ask asks the point's host, and waits for the answer.
func (d *desk) ask(ctx context.Context, point backstay.PointID, what mover.StreamAsk) ([]byte, error) {
	a := &asked{StreamAsk: what, point: point, answer: make(chan answered, 1)}
	asks, again := d.asks, time.NewTicker(askAgain)
	defer again.Stop()
	for {
		select {
		case asks <- a:
			asks = nil
		case <-again.C:
			asks = d.asks
		case got := <-a.answer:
			return got.data, got.err
		case <-d.ended:
			return nil, errStreamEnded
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// streamed tells whether a restore reads its point from another host.
func (h *Host) streamed(plan backstay.RestorePlan) bool { return plan.StreamedFrom != "" }

// heldElsewhere asks for what the point holds beside its disks, once: the VM can be
// made from disks that are complete also if the other host goes away then.
func (h *Host) heldElsewhere(ctx context.Context, r mover.StageRequest) (heldPoint, error) {
	d, err := h.deskOf(r.Job)
	if err != nil {
		return heldPoint{}, err
	}
	d.mu.Lock()
	known := d.held
	d.mu.Unlock()
	if known != nil {
		return *known, nil
	}
	data, err := d.ask(ctx, r.Plan.Point, mover.StreamAsk{Kind: mover.AskDefinition})
	if err != nil {
		return heldPoint{}, fmt.Errorf("ask host %s for the definition: %w", r.Plan.StreamedFrom, err)
	}
	var held streamedHeld
	if err := json.Unmarshal(data, &held); err != nil {
		return heldPoint{}, fmt.Errorf("read the definition from host %s: %w", r.Plan.StreamedFrom, err)
	}
	found := heldPoint{definition: held.Definition, shape: held.Shape, disks: held.Disks}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.held = &found
	return found, nil
}

// streamSource restores by writing what another host serves.
type streamSource struct {
	*vaultSource
	desk *desk
}

// openStream asks for the sizes of the disks, and reads nothing of them yet.
func (h *Host) openStream(ctx context.Context, r mover.StageRequest) (restoreSource, error) {
	d, err := h.deskOf(r.Job)
	if err != nil {
		return nil, err
	}
	held, err := h.heldElsewhere(ctx, r)
	if err != nil {
		return nil, err
	}
	s := &streamSource{desk: d}
	s.vaultSource = &vaultSource{Host: h, open: func(ctx context.Context, target backstay.DiskTarget) (tier.Image, error) {
		for _, disk := range held.disks {
			if disk.Target == target {
				return &streamImage{ctx: ctx, desk: d, point: r.Plan.Point, target: target, size: disk.Size, known: map[int64][]tier.Extent{}}, nil
			}
		}
		return nil, backstay.Errorf(backstay.CodeNotRestorable, "disk %s is not part of point %s", target, r.Plan.Point)
	}}
	return s, nil
}

// write writes and verifies, and then has the other host prove that what it served
// was the point: a layer that somebody wrote to meanwhile is none any more.
func (s *streamSource) write(ctx context.Context, r mover.StageRequest, j *restoreJournal, progress mover.Progress) (mover.Staged, error) {
	staged, err := s.vaultSource.write(ctx, r, j, progress)
	if err != nil {
		return staged, err
	}
	if _, err := s.desk.ask(ctx, r.Plan.Point, mover.StreamAsk{Kind: mover.AskProof}); err != nil {
		return mover.Staged{}, fmt.Errorf("what host %s served is not proved: %w", r.Plan.StreamedFrom, err)
	}
	return staged, nil
}

// streamImage is a disk of a point on another host.
type streamImage struct {
	ctx    context.Context
	desk   *desk
	point  backstay.PointID
	target backstay.DiskTarget
	size   int64

	mu    sync.Mutex
	known map[int64][]tier.Extent // by window; guarded by mu
}

func (i *streamImage) Size() int64  { return i.size }
func (i *streamImage) Close() error { return nil }

// ReadAt asks for the range in pieces.
func (i *streamImage) ReadAt(p []byte, off int64) (int, error) {
	read := 0
	for read < len(p) {
		n := min(len(p)-read, mover.MaxAsk)
		a := mover.StreamAsk{Kind: mover.AskData, Disk: i.target, Offset: off + int64(read), Length: int64(n)}
		data, err := i.desk.ask(i.ctx, i.point, a)
		if err != nil {
			return read, err
		}
		if len(data) != n {
			return read, errStreamForged
		}
		read += copy(p[read:], data)
	}
	return read, nil
}

// Extents are asked for by whole windows, and remembered: a writer asks MiB by MiB.
func (i *streamImage) Extents(offset, length int64) ([]tier.Extent, error) {
	var out []tier.Extent
	for end := offset + length; offset < end; {
		window := offset / extentWindow
		extents, err := i.window(window)
		if err != nil {
			return nil, err
		}
		to := min(end, (window+1)*extentWindow)
		for _, e := range extents {
			from := max(e.Offset, offset)
			if n := min(e.End(), to) - from; n > 0 {
				out = append(out, tier.Extent{Range: backstay.Range{Offset: from, Length: n}, Zero: e.Zero})
			}
		}
		offset = to
	}
	return out, nil
}

func (i *streamImage) window(n int64) ([]tier.Extent, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if extents, ok := i.known[n]; ok {
		return extents, nil
	}
	start := n * extentWindow
	a := mover.StreamAsk{Kind: mover.AskExtents, Disk: i.target, Offset: start, Length: min(extentWindow, i.size-start)}
	data, err := i.desk.ask(i.ctx, i.point, a)
	if err != nil {
		return nil, err
	}
	var extents []tier.Extent
	if err := json.Unmarshal(data, &extents); err != nil {
		return nil, fmt.Errorf("read extents: %w", err)
	}
	at := start
	for _, e := range extents {
		if e.Offset != at || e.Length <= 0 {
			return nil, errors.New("read extents: they have a gap")
		}
		at = e.End()
	}
	if at != start+a.Length {
		return nil, errors.New("read extents: they do not describe all that was asked for")
	}
	i.known[n] = extents
	return extents, nil
}
