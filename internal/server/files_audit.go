package server

import (
	"context"
	"crypto/sha256"
	"strings"
	"sync"
	"time"

	backstay "github.com/backstay/backstay"
)

// auditText is about how much of paths one audit entry names, in bytes.
const auditText = 4096

// handOut records that content is about to leave, before its first byte does: what
// cannot be recorded is not handed out. Many paths make several entries.
func (s *server) handOut(ctx context.Context, session backstay.FileSession, what []string) error {
	for len(what) > 0 {
		n, length := 0, 0
		for n < len(what) && (n == 0 || length+len(what[n]) <= auditText) {
			length += len(what[n])
			n++
		}
		if err := s.appendRead(ctx, session, what[:n], "ok"); err != nil {
			return err
		}
		what = what[n:]
	}
	callOf(ctx).audited = true
	return nil
}

// handedOut records that what had begun to leave did not leave whole.
func (s *server) handedOut(ctx context.Context, session backstay.FileSession, what string, cause error) {
	code := backstay.AsError(cause).Code
	if ctx.Err() != nil && code == backstay.CodeInternal {
		code = backstay.CodeCancelled // the client left
	}
	if err := s.appendRead(ctx, session, []string{what}, string(code)); err != nil {
		s.Log.Error("audit entry lost", "error", err, "user", callOf(ctx).who.Name, "target", what, "outcome", code)
	}
}

func (s *server) appendRead(ctx context.Context, session backstay.FileSession, what []string, outcome string) error {
	c := callOf(ctx)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	return s.Catalog.Audit.Append(ctx, backstay.AuditEntry{
		Time: s.Now().UTC(), User: c.who.Name, Role: c.who.Role, Action: c.route.method + " " + c.route.path, Outcome: outcome,
		Target: string(session.Point) + " of " + label(session.VM) + ": " + strings.Join(what, ", "),
	})
}

// mostReads is how many files of one session are remembered as recorded; beyond, some
// are recorded once more.
const mostReads = 1 << 16

// readLog remembers which files of a session were recorded, so that one that is read
// in many small pieces has one entry in the audit log and not thousands.
type readLog struct {
	mu   sync.Mutex
	seen map[backstay.FileSessionID]map[[sha256.Size]byte]struct{} // guarded by mu
}

// first tells whether this is the first time, and remembers it. alive tells which of
// the sessions that it remembers are still there.
func (l *readLog) first(id backstay.FileSessionID, what string, alive func(backstay.FileSessionID) bool) bool {
	key := sha256.Sum256([]byte(what))
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.seen == nil {
		l.seen = map[backstay.FileSessionID]map[[sha256.Size]byte]struct{}{}
	}
	of := l.seen[id]
	if of == nil {
		for other := range l.seen {
			if !alive(other) {
				delete(l.seen, other)
			}
		}
		of = map[[sha256.Size]byte]struct{}{}
		l.seen[id] = of
	}
	if _, ok := of[key]; ok {
		return false
	}
	if len(of) >= mostReads {
		clear(of)
	}
	of[key] = struct{}{}
	return true
}

// forget takes a file back that could not be recorded.
func (l *readLog) forget(id backstay.FileSessionID, what string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.seen[id], sha256.Sum256([]byte(what)))
}

// handOutOnce is handOut for what is read in many pieces: recorded once a session.
func (s *server) handOutOnce(ctx context.Context, session backstay.FileSession, what string) error {
	alive := func(id backstay.FileSessionID) bool {
		_, err := s.Files.Get(id)
		return err == nil
	}
	if !s.reads.first(session.ID, what, alive) {
		callOf(ctx).audited = true
		return nil
	}
	err := s.handOut(ctx, session, []string{what})
	if err != nil {
		s.reads.forget(session.ID, what)
	}
	return err
}
