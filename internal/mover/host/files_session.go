package host

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/guest/volumes"
	"github.com/backstay/backstay/internal/mover"
)

// fileSession is one open session: the disks of its point and, unless it is raw, the
// small machine that they are plugged into.
type fileSession struct {
	*Host
	request mover.OpenFilesRequest
	// ctx ends with the session, for the reason that its cause tells.
	ctx     context.Context
	end     context.CancelCauseFunc
	timer   *time.Timer
	opening chan struct{} // closed once its opening has ended
	closed  chan struct{} // closed once nothing of it is left

	mu      sync.Mutex
	ready   bool                                 // guarded by mu: it is open
	closing bool                                 // guarded by mu
	opened  mover.OpenedFiles                    // guarded by mu
	layers  []backstay.LayerID                   // guarded by mu: those that it stands on
	disks   map[backstay.DiskTarget]*sessionDisk // guarded by mu
	undo    []func() error                       // guarded by mu: what ends it, last first
	folder  string                               // guarded by mu: of its sockets
	served  int                                  // guarded by mu: images that were plugged in
	volumes *volumes.Set                         // guarded by mu: those of the machine, once they were looked for

	hidden bool // it is the host's own, for its own work
	// These are set while the session is opened, by one goroutine.
	machine Machine           // nil for a raw one
	own     []backstay.Secret // keys that the point itself holds

	faults atomic.Pointer[diskFault] // the last
}

func newFileSession(h *Host, r mover.OpenFilesRequest) *fileSession {
	s := &fileSession{Host: h, request: r, opening: make(chan struct{}), closed: make(chan struct{}), disks: map[backstay.DiskTarget]*sessionDisk{}}
	s.ctx, s.end = context.WithCancelCause(context.Background())
	s.timer = time.AfterFunc(r.Expires.Sub(h.now()), func() {
		s.close(sessionEnded(r.Session, "it was open until %s", r.Expires.UTC().Format(time.RFC3339)))
	})
	return s
}

// facts are what the session's opening is answered with.
func (s *fileSession) facts() mover.OpenedFiles {
	s.mu.Lock()
	defer s.mu.Unlock()
	opened := s.opened
	opened.Volumes, opened.Disks = s.volumes.All(), slices.Clone(opened.Disks)
	return opened
}

// open opens the disks and, unless the session is raw, the machine.
func (s *fileSession) open(ctx context.Context, progress mover.Progress) error {
	defer close(s.opening)
	progress(mover.Report{Phase: "open"})
	if err := s.openDisks(ctx); err != nil {
		return err
	}
	if !s.request.Raw {
		if err := s.openMachine(ctx, progress); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := context.Cause(ctx); err != nil {
		return err
	}
	s.ready = true
	s.log.Info("a point was opened for item-level restore", "session", s.request.Session, "point", s.request.Point, "tier", s.request.Tier, "raw", s.request.Raw)
	return nil
}

// atEnd has fn called when the session is closed. A session that is closing already
// gets it called at once.
func (s *fileSession) atEnd(fn func() error) {
	s.mu.Lock()
	late := s.closing
	if !late {
		s.undo = append(s.undo, fn)
	}
	s.mu.Unlock()
	if late {
		if err := fn(); err != nil {
			s.log.Warn("a session's part could not be ended", "session", s.request.Session, "error", err)
		}
	}
}

// close ends the session for a reason, and returns when nothing of it is left.
func (s *fileSession) close(reason error) {
	s.end(reason)
	<-s.opening // what it still began would be ended late
	s.mu.Lock()
	again := s.closing
	s.closing = true
	undo := s.undo
	s.undo = nil
	s.mu.Unlock()
	if again {
		<-s.closed
		return
	}
	s.timer.Stop()
	for _, fn := range slices.Backward(undo) {
		if err := fn(); err != nil {
			s.log.Warn("a session was not ended cleanly", "session", s.request.Session, "error", err)
		}
	}
	reason = context.Cause(s.ctx) // the first one counts
	s.mu.Lock()
	opened := s.ready
	s.mu.Unlock()
	s.files.drop(s, asEnded(s.request.Session, reason), opened)
	if !opened {
		close(s.closed)
		return
	}
	s.log.Info("a session of item-level restore has ended", "session", s.request.Session, "point", s.request.Point, "reason", reason)
	close(s.closed)
}

// asEnded is why a session ended, as later calls are told.
func asEnded(id backstay.FileSessionID, reason error) error {
	if backstay.IsCode(reason, backstay.CodeSessionEnded) || backstay.IsCode(reason, backstay.CodeMachineFailed) {
		return reason
	}
	return sessionEnded(id, "%v", reason)
}

// during calls work with a context that ends with the call or the session. What fails
// since the session ended says that, and why.
func (s *fileSession) during(ctx context.Context, work func(context.Context) error) error {
	s.mu.Lock()
	ready := s.ready
	s.mu.Unlock()
	if !ready {
		return backstay.Errorf(backstay.CodeConflict, "session %s is still being opened", s.request.Session)
	}
	within, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := context.AfterFunc(s.ctx, func() { cancel(context.Cause(s.ctx)) })
	defer stop()
	err := work(within)
	if err == nil || ctx.Err() != nil {
		return err
	}
	reason := context.Cause(s.ctx)
	if reason == nil || backstay.IsCode(reason, backstay.CodeMachineFailed) && backstay.IsCode(err, backstay.CodeMachineFailed) {
		return err // with the machine's last words
	}
	return asEnded(s.request.Session, reason)
}

// readPiece is how many bytes of a disk are read at once.
const readPiece = 1 << 20

// readDisk writes a range of a disk to w.
func (s *fileSession) readDisk(ctx context.Context, r mover.FileReadRequest, w io.Writer) error {
	s.mu.Lock()
	disk := s.disks[r.Disk]
	s.mu.Unlock()
	if disk == nil {
		return backstay.Errorf(backstay.CodeDiskUnknown, "disk %s is not in the session", r.Disk).Becausef("it is of point %s", s.request.Point)
	}
	left := disk.Size() - r.Offset
	if r.Length >= 0 {
		left = min(left, r.Length)
	}
	buf := make([]byte, max(0, min(left, readPiece)))
	for at := r.Offset; left > 0; {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		n, err := disk.ReadAt(buf[:min(left, readPiece)], at)
		if err != nil && !(errors.Is(err, io.EOF) && n > 0) {
			return backstay.Errorf(vaultCode(err, backstay.CodeNotRestorable), "disk %s of point %s could not be read", r.Disk, s.request.Point).Because(err)
		}
		if _, err := w.Write(buf[:n]); err != nil {
			return err
		}
		at, left = at+int64(n), left-int64(n)
	}
	return nil
}
