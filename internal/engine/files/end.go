package files

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/mover"
)

func endedError(id backstay.FileSessionID, why string) *backstay.Error {
	return backstay.Errorf(backstay.CodeSessionEnded, "the session %s has ended", id).Becausef("%s", why)
}

func expired(e *entry) *backstay.Error {
	return endedError(e.session.ID, "its time was over at "+e.session.Expires.Format(time.RFC3339))
}

// End ends a session at once: its ticket is worth nothing any more, and what is under
// way in it fails. It returns once the host has closed it; if that fails, the session
// has ended all the same, and the host ends its part when it expires. Errors as Get's.
func (s *Sessions) End(ctx context.Context, id backstay.FileSessionID, why string) error {
	s.mu.Lock()
	e, err := s.find(id)
	s.mu.Unlock()
	if err != nil {
		return err
	}
	return s.finish(ctx, e, endedError(id, why))
}

// spareAfter is how long a session must have been idle before it makes room for that
// of another user.
const spareAfter = time.Minute

// makeRoom ends the session on a host that was not used for the longest time, of those
// that commands open by themselves: the next command opens it anew. It tells whether
// there was one.
func (s *Sessions) makeRoom(ctx context.Context, by *entry, host backstay.HostName) bool {
	now := s.options.Now()
	var oldest *entry
	s.mu.Lock()
	for _, e := range s.open {
		idle := e.ready && e.busy == 0 && e.request.Reuse && e.session.Host == host
		if idle && (e.session.User == by.session.User || now.Sub(e.session.Used) >= spareAfter) && (oldest == nil || e.session.Used.Before(oldest.session.Used)) {
			oldest = e
		}
	}
	s.mu.Unlock()
	if oldest == nil {
		return false
	}
	return s.finish(ctx, oldest, endedError(oldest.session.ID, "nobody used it, and another session needed its room")) == nil
}

// EndOf ends all sessions of a user.
func (s *Sessions) EndOf(ctx context.Context, user, why string) {
	s.endAll(ctx, func(e *entry) *backstay.Error {
		if e.session.User != user {
			return nil
		}
		return endedError(e.session.ID, why)
	})
}

// Sweep ends the sessions whose time is over, and those that a command opened by
// itself and nobody uses; and it forgets those that their hosts have ended.
func (s *Sessions) Sweep(ctx context.Context) {
	s.forgetEnded(ctx)
	now := s.options.Now()
	s.endAll(ctx, func(e *entry) *backstay.Error {
		switch {
		case !s.alive(e):
			return expired(e)
		case e.ready && e.request.Reuse && e.busy == 0 && now.Sub(e.session.Used) >= s.options.Idle:
			return endedError(e.session.ID, fmt.Sprintf("nobody used it for %s", s.options.Idle))
		}
		return nil
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, was := range s.ended {
		if now.Sub(was.at) >= rememberEnded {
			delete(s.ended, id)
		}
	}
}

// forgetEnded forgets the sessions that a host has ended by itself, since their small
// machine failed or a backup needed the room: until they are used nobody tells us. A
// host that does not answer is asked when it is reached again.
func (s *Sessions) forgetEnded(ctx context.Context) {
	on := map[backstay.HostName][]*entry{}
	s.mu.Lock()
	for _, e := range s.open {
		if e.ready {
			on[e.session.Host] = append(on[e.session.Host], e)
		}
	}
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, closeLimit)
	defer cancel()
	for _, sessions := range on {
		host := sessions[0].host
		there, err := host.OpenSessions(ctx)
		if err != nil {
			continue
		}
		for _, e := range sessions {
			if !slices.Contains(there, e.session.ID) {
				s.drop(e, whyEnded(ctx, host, e.session.ID))
			}
		}
	}
}

// whyEnded is why a host has ended a session, which it says to whoever uses it.
func whyEnded(ctx context.Context, host mover.Files, id backstay.FileSessionID) string {
	_, err := host.Folder(ctx, mover.FolderRequest{Session: id, Path: "/", Limit: 1})
	if backstay.IsCode(err, backstay.CodeSessionEnded) || backstay.IsCode(err, backstay.CodeMachineFailed) {
		if cause := backstay.AsError(err).Cause; cause != "" {
			return cause
		}
	}
	return "its host has ended it"
}

// Run sweeps until ctx ends.
func (s *Sessions) Run(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			s.Sweep(ctx)
		}
	}
}

// Close ends all sessions, and opens no more.
func (s *Sessions) Close(ctx context.Context) {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.endAll(ctx, func(e *entry) *backstay.Error { return endedError(e.session.ID, "the server stopped") })
	s.tasks.Wait()
}

// endAll ends those sessions for which why gives a reason, at the same time.
func (s *Sessions) endAll(ctx context.Context, why func(*entry) *backstay.Error) {
	reasons := map[*entry]*backstay.Error{}
	s.mu.Lock()
	for _, e := range s.open {
		if reason := why(e); reason != nil {
			reasons[e] = reason
		}
	}
	s.mu.Unlock()
	var all sync.WaitGroup
	for e, reason := range reasons {
		all.Go(func() {
			if err := s.finish(ctx, e, reason); err != nil {
				s.options.Log.Warn("the host has not closed a session; it ends there when it expires", "session", e.session.ID, "error", err)
			}
		})
	}
	all.Wait()
}

// finish takes the session away and closes it on its host.
func (s *Sessions) finish(ctx context.Context, e *entry, why *backstay.Error) error {
	host := s.forget(e, why)
	if host == nil {
		return nil // somebody else ended it, or it is not open anywhere
	}
	return s.closeOnWith(ctx, host, e.session.ID)
}

// drop forgets a session that its host has ended.
func (s *Sessions) drop(e *entry, why string) { s.forget(e, endedError(e.session.ID, why)) }

// forget returns the host that had the session, or nil if it was forgotten already.
func (s *Sessions) forget(e *entry, why *backstay.Error) mover.Files {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open[e.session.ID] != e {
		return nil
	}
	delete(s.open, e.session.ID)
	delete(s.tickets, e.ticket)
	s.ended[e.session.ID] = endedSession{at: s.options.Now(), why: why}
	e.end(why)
	s.options.Log.Info("session ended", "session", e.session.ID, "reason", why.Cause)
	if !e.ready {
		return nil // whoever opens it cleans up
	}
	return e.host
}

func (s *Sessions) closeOn(host mover.Files, id backstay.FileSessionID) {
	if err := s.closeOnWith(context.Background(), host, id); err != nil {
		s.options.Log.Warn("the host has not closed a session; it ends there when it expires", "session", id, "error", err)
	}
}

// closeOnWith closes a session on its host whether or not ctx has ended.
func (s *Sessions) closeOnWith(ctx context.Context, host mover.Files, id backstay.FileSessionID) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeLimit)
	defer cancel()
	return host.CloseFiles(ctx, id)
}

// Reached makes a host's sessions and ours agree, when the host was reached: it closes
// those that an earlier server left, and forgets those that an earlier mover had.
func (s *Sessions) Reached(ctx context.Context, name backstay.HostName) error {
	host, err := s.options.Mover(name)
	if err != nil {
		return err
	}
	s.mu.Lock()
	var ours []*entry
	for _, e := range s.open {
		if e.ready && e.session.Host == name {
			ours = append(ours, e)
		}
	}
	s.mu.Unlock()
	there, err := host.OpenSessions(ctx)
	if err != nil {
		return fmt.Errorf("list the open sessions of host %s: %w", name, err)
	}
	for _, e := range ours {
		if !slices.Contains(there, e.session.ID) {
			s.drop(e, "the mover of host "+string(name)+" was started anew")
		}
	}
	var failed []error
	for _, id := range there {
		s.mu.Lock()
		_, known := s.open[id]
		s.mu.Unlock()
		if !known {
			failed = append(failed, s.closeOnWith(ctx, host, id))
		}
	}
	return errors.Join(failed...)
}
