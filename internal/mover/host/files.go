package host

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/mover"
)

// MaxSessions is how many sessions with a small machine a host has at a time, unless
// it is told otherwise.
const MaxSessions = 4

// rawSessions is how many sessions without one there may be for each with one.
const rawSessions = 8

// fileSessions are the sessions of item-level restore that are open on the host. They
// are in memory alone: a session survives nothing (I9).
type fileSessions struct {
	most int // with a small machine

	mu     sync.Mutex
	open   map[backstay.FileSessionID]*fileSession // guarded by mu
	ended  []endedSession                          // guarded by mu: the last ones, for their reasons
	barred map[backstay.LayerID]time.Time          // guarded by mu: where no session may begin until then
}

type endedSession struct {
	id  backstay.FileSessionID
	err error
}

// rememberEnded is of how many sessions it is known why they ended.
const rememberEnded = 256

// OpenFiles opens a point for a session of item-level restore.
func (h *Host) OpenFiles(ctx context.Context, r mover.OpenFilesRequest, progress mover.Progress) (mover.OpenedFiles, error) {
	if r.Session == "" || r.Point == "" || !r.Expires.After(h.now()) {
		return mover.OpenedFiles{}, backstay.Errorf(backstay.CodeUsage, "session %q of point %q cannot be opened", r.Session, r.Point).
			Becausef("it would be over at %s", r.Expires)
	}
	unlock, err := h.vms.lock(ctx, "files "+string(r.Session))
	if err != nil {
		return mover.OpenedFiles{}, err
	}
	defer unlock()
	s, fresh, err := h.files.begin(h, r)
	if err != nil {
		return mover.OpenedFiles{}, err
	}
	if !fresh {
		return s.facts(), nil
	}
	abandon := context.AfterFunc(ctx, func() { s.end(context.Cause(ctx)) })
	defer abandon()
	if err := s.open(s.ctx, oneAtATime(progress)); err != nil {
		reason := context.Cause(s.ctx)
		s.close(err)
		if ctx.Err() != nil {
			return mover.OpenedFiles{}, fmt.Errorf("open point %s: %w", r.Point, context.Cause(ctx))
		}
		if reason != nil { // it gave way while it was opened
			err = reason
		}
		return mover.OpenedFiles{}, openError(r.Point, err)
	}
	return s.facts(), nil
}

func openError(p backstay.PointID, err error) error {
	var coded *backstay.Error
	if errors.As(err, &coded) {
		return err
	}
	return backstay.Errorf(vaultCode(err, backstay.CodeMachineFailed), "point %s could not be opened", p).Because(err)
}

// begin finds a session, or makes room for a new one.
func (f *fileSessions) begin(h *Host, r mover.OpenFilesRequest) (s *fileSession, fresh bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if s := f.open[r.Session]; s != nil {
		if s.request.Point != r.Point || s.request.Tier != r.Tier || s.request.Raw != r.Raw {
			return nil, false, backstay.Errorf(backstay.CodeConflict, "session %s is open already", r.Session).Becausef("it is of point %s", s.request.Point)
		}
		return s, false, nil
	}
	if err := f.ending(r.Session); err != nil {
		return nil, false, err
	}
	most, alike := f.most, 0
	if r.Raw {
		most *= rawSessions
	}
	for _, s := range f.open {
		if s.request.Raw == r.Raw && !s.hidden {
			alike++
		}
	}
	if alike >= most {
		return nil, false, backstay.Errorf(backstay.CodeSessionLimit, "point %s cannot be opened on host %s now", r.Point, h.name).
			Becausef("%d sessions of item-level restore are open there, and that is the most", alike)
	}
	s = newFileSession(h, r)
	f.open[r.Session] = s
	return s, true, nil
}

// ending says why a session has ended; nil if it is not known to have. The caller
// holds mu.
func (f *fileSessions) ending(id backstay.FileSessionID) error {
	for _, e := range f.ended {
		if e.id == id {
			return e.err
		}
	}
	return nil
}

// drop takes a session off the list. Of one that was open it is remembered why it ended.
func (f *fileSessions) drop(s *fileSession, reason error, opened bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.open[s.request.Session] != s {
		return
	}
	delete(f.open, s.request.Session)
	if !opened {
		return
	}
	f.ended = append(f.ended, endedSession{s.request.Session, reason})
	if len(f.ended) > rememberEnded {
		f.ended = slices.Delete(f.ended, 0, len(f.ended)-rememberEnded)
	}
}

// find returns an open session, or says why it is not open.
func (f *fileSessions) find(id backstay.FileSessionID) (*fileSession, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if s := f.open[id]; s != nil && !s.hidden {
		return s, nil
	}
	return nil, cmp.Or(f.ending(id), sessionEnded(id, "it is not open on the host"))
}

// all are the open sessions.
func (f *fileSessions) all() []*fileSession {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []*fileSession
	for _, s := range f.open {
		all = append(all, s)
	}
	return all
}

func sessionEnded(id backstay.FileSessionID, format string, args ...any) error {
	return backstay.Errorf(backstay.CodeSessionEnded, "session %s has ended", id).Becausef(format, args...)
}

// CloseFiles ends a session.
func (h *Host) CloseFiles(_ context.Context, id backstay.FileSessionID) error {
	s, err := h.files.find(id)
	if err != nil {
		return nil
	}
	s.close(sessionEnded(id, "it was closed"))
	return nil
}

// OpenSessions lists the open sessions.
func (h *Host) OpenSessions(context.Context) ([]backstay.FileSessionID, error) {
	ids := []backstay.FileSessionID{}
	for _, s := range h.files.all() {
		if s.hidden {
			continue
		}
		ids = append(ids, s.request.Session)
	}
	slices.Sort(ids)
	return ids, nil
}

// CloseAll ends all sessions: nothing of them outlives the mover.
func (h *Host) CloseAll() {
	var closing sync.WaitGroup
	for _, s := range h.files.all() {
		closing.Go(func() { s.close(sessionEnded(s.request.Session, "the host's mover was stopped")) })
	}
	closing.Wait()
}

// ReadFile writes a range of a file, or of a disk, to w.
func (h *Host) ReadFile(ctx context.Context, r mover.FileReadRequest, w io.Writer) error {
	s, err := h.files.find(r.Session)
	if err != nil {
		return err
	}
	if r.Offset < 0 || r.Length < -1 {
		return backstay.Errorf(backstay.CodeUsage, "%d bytes at %d cannot be read", r.Length, r.Offset)
	}
	return s.during(ctx, func(ctx context.Context) error {
		if r.Disk != "" {
			return s.readDisk(ctx, r, w)
		}
		return s.readFile(ctx, r, w)
	})
}
