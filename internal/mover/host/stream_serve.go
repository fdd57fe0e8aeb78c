package host

import (
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/mover"
	"github.com/backstay/backstay/internal/pace"
	"github.com/backstay/backstay/internal/tier"
)

// streamIdle is how long a point is held for a restore elsewhere that does not ask.
const streamIdle = 2 * time.Minute

// streams are those that this host serves and those that it asks for.
type streams struct {
	mu      sync.Mutex
	serving map[backstay.JobID]*serving // guarded by mu
	desks   map[backstay.JobID]*desk    // guarded by mu
}

// streamedHeld is what AskDefinition is answered with.
type streamedHeld struct {
	Definition tier.Definition      `json:"definition"`
	Shape      backstay.VM          `json:"shape"`
	Disks      []backstay.PointDisk `json:"disks"`
}

// serving is one point that is served to one restore. Its layers have a user until
// it is closed.
type serving struct {
	*Host
	job      backstay.JobID
	point    backstay.PointID
	asker    []byte // public key
	public   []byte
	cipher   *streamCipher
	held     streamedHeld
	images   map[backstay.DiskTarget]tier.Image
	governor *pace.Governor
	cancel   context.CancelFunc
	idle     *time.Timer
	use      sync.RWMutex // held for reading while answers are made
	closed   bool         // guarded by use
}

// Serve answers asks of a snapshot-tier point.
func (h *Host) Serve(ctx context.Context, r mover.ServeRequest) (mover.Served, error) {
	s, err := h.servingOf(ctx, r)
	if err != nil {
		return mover.Served{}, err
	}
	s.use.RLock()
	defer s.use.RUnlock()
	if s.closed {
		return mover.Served{}, errors.New("the stream was ended")
	}
	s.idle.Reset(streamIdle)
	served := mover.Served{Key: s.public}
	for _, ask := range r.Asks {
		piece := mover.StreamPiece{ID: ask.ID}
		plain, err := s.answer(ctx, ask)
		if ctx.Err() != nil {
			return mover.Served{}, context.Cause(ctx)
		}
		if err != nil {
			piece.Error = backstay.AsError(servedError(s.point, givenUp(s.governor, err)))
		} else {
			piece.Sealed = s.cipher.seal(ask, plain)
		}
		served.Pieces = append(served.Pieces, piece)
	}
	return served, nil
}

func servedError(point backstay.PointID, err error) error {
	var coded *backstay.Error
	if errors.As(err, &coded) {
		return err
	}
	return backstay.Errorf(backstay.CodeRestoreFailed, "point %s could not be read on its host", point).Because(err)
}

// servingOf finds the job's stream, or begins it. A restore whose mover was started
// anew has another key, and gets another stream.
func (h *Host) servingOf(ctx context.Context, r mover.ServeRequest) (*serving, error) {
	unlock, err := h.vms.lock(ctx, "stream "+string(r.Job))
	if err != nil {
		return nil, err
	}
	defer unlock()
	h.streams.mu.Lock()
	old := h.streams.serving[r.Job]
	h.streams.mu.Unlock()
	if old != nil && old.point == r.Point && slices.Equal(old.asker, r.Key) {
		return old, nil
	}
	if old != nil {
		if err := old.close(); err != nil {
			return nil, err
		}
	}
	s, err := h.beginServing(ctx, r)
	if err != nil {
		return nil, err
	}
	s.idle = time.AfterFunc(streamIdle, func() {
		if err := s.close(); err != nil {
			h.log.Warn("a point that nobody asks for any more could not be let go", "point", s.point, "job", s.job, "error", err)
		}
	})
	h.streams.mu.Lock()
	defer h.streams.mu.Unlock()
	h.streams.serving[r.Job] = s
	return s, nil
}

func (h *Host) beginServing(ctx context.Context, r mover.ServeRequest) (_ *serving, err error) {
	point, err := h.openPoint(ctx, r.Point)
	if err != nil {
		return nil, err
	}
	own, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	s := &serving{Host: h, job: r.Job, point: r.Point, asker: r.Key, public: own.PublicKey().Bytes(), images: map[backstay.DiskTarget]tier.Image{}}
	s.cipher, err = newStreamCipher(own, r.Key, streamOf{job: r.Job, point: r.Point, restoring: r.Key, serve: s.public})
	if err != nil {
		return nil, err
	}
	s.held = streamedHeld{Definition: point.Definition, Shape: point.Record.Shape}
	for _, d := range point.Record.Disks {
		if d.Included {
			s.held.Disks = append(s.held.Disks, d.PointDisk)
		}
	}
	// The stream outlives the call that begins it.
	within, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.cancel = cancel
	vm := point.Record.VM.UUID
	within, s.governor, _ = h.pacer.reading(within, vm, h.pacer.limit(vm), func(mover.Report) {})
	for _, d := range point.Disks {
		image, err := point.OpenDisk(within, d.Target, r.Job)
		if err != nil {
			return nil, errors.Join(err, s.close())
		}
		s.images[d.Target] = pacedImage{image, within, s.governor}
	}
	return s, nil
}

func (s *serving) answer(ctx context.Context, a mover.StreamAsk) ([]byte, error) {
	switch a.Kind {
	case mover.AskDefinition:
		return json.Marshal(s.held)
	case mover.AskProof:
		_, err := s.openPoint(ctx, s.point)
		return nil, err
	}
	image, ok := s.images[a.Disk]
	if !ok {
		return nil, backstay.Errorf(backstay.CodeNotRestorable, "disk %s is not part of point %s", a.Disk, s.point)
	}
	if a.Offset < 0 || a.Length <= 0 || a.Offset > image.Size() || a.Length > image.Size()-a.Offset || a.Length > extentWindow {
		return nil, fmt.Errorf("%d bytes at %d of disk %s cannot be asked for", a.Length, a.Offset, a.Disk)
	}
	switch {
	case a.Kind == mover.AskExtents:
		extents, err := image.Extents(a.Offset, a.Length)
		if err != nil {
			return nil, err
		}
		return json.Marshal(extents)
	case a.Kind == mover.AskData && a.Length <= mover.MaxAsk:
		data := make([]byte, a.Length)
		if n, err := image.ReadAt(data, a.Offset); n < len(data) {
			return nil, fmt.Errorf("read %d bytes at %d of disk %s: %w", len(data), a.Offset, a.Disk, err)
		}
		return data, nil
	}
	return nil, fmt.Errorf("%q with %d bytes cannot be asked for", a.Kind, a.Length)
}

// close lets go of the layers, once the answers under way are made.
func (s *serving) close() error {
	s.cancel()
	s.use.Lock()
	defer s.use.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	if s.idle != nil {
		s.idle.Stop()
	}
	s.streams.mu.Lock()
	if s.streams.serving[s.job] == s {
		delete(s.streams.serving, s.job)
	}
	s.streams.mu.Unlock()
	var failed []error
	for _, image := range s.images {
		failed = append(failed, image.Close())
	}
	s.governor.Close()
	return errors.Join(failed...)
}

// EndStream forgets a job's streams.
func (h *Host) EndStream(_ context.Context, job backstay.JobID) error {
	h.streams.mu.Lock()
	s, d := h.streams.serving[job], h.streams.desks[job]
	delete(h.streams.desks, job)
	h.streams.mu.Unlock()
	if d != nil {
		d.end()
	}
	if s == nil {
		return nil
	}
	return s.close()
}
