package server

import (
	"context"
	"crypto/sha256"
	"errors"
	"net/http"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/catalog"
)

// call is what is known of one request while it is being served. It is owned by
// the request's goroutine.
type call struct {
	route   route
	path    string
	who     backstay.Token
	target  string         // what the request is about, for the audit log
	job     backstay.JobID // the job that it started or changed
	audited bool           // or not to be audited
	// session is the one whose ticket the request came with, if it came with one.
	session backstay.FileSessionID
	// within: what the request is about was found to be what a token of one point may
	// use. Without it such a token gets no answer.
	within bool
}

type callKey struct{}

// callOf returns the request's call. Every handler runs behind the guard, so
// there always is one.
func callOf(ctx context.Context) *call {
	if c, ok := ctx.Value(callKey{}).(*call); ok {
		return c
	}
	return &call{audited: true}
}

// guard lets a request through to its handler if its token has the route's
// right. It bounds the request, measures it, and sees that a changing one is
// audited whatever became of it.
func (s *server) guard(r route, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		begin := s.Now()
		out := &recorder{ResponseWriter: w, status: http.StatusOK}
		c := &call{route: r, path: req.Method + " " + req.URL.Path}
		if r.id != "unknown" && !r.audited() {
			c.audited = true
		} else if r.id == "unknown" {
			c.audited = req.Method == get || req.Method == http.MethodHead
		}
		ctx := context.WithValue(req.Context(), callKey{}, c)
		if !r.stream {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, requestLimit)
			defer cancel()
		} else {
			http.NewResponseController(out).SetWriteDeadline(time.Time{}) // the handler sets its own; a test's recorder has none
		}
		req = req.WithContext(ctx)
		req.Body = http.MaxBytesReader(out, req.Body, bodyLimit)
		defer s.finish(ctx, out, begin)
		if err := s.admit(ctx, req); err != nil {
			s.writeError(out, s.failure(ctx, err))
			return
		}
		if c.who.Expires != nil { // a stream ends with the right to it
			ctx, cancel := context.WithTimeout(ctx, c.who.Expires.Sub(s.Now()))
			defer cancel()
			req = req.WithContext(ctx)
		}
		next.ServeHTTP(out, req)
	})
}

// finish runs after the handler, also when it panicked.
func (s *server) finish(ctx context.Context, out *recorder, begin time.Time) {
	c := callOf(ctx)
	if p := recover(); p != nil {
		if p == http.ErrAbortHandler {
			panic(p)
		}
		s.Log.Error("request panicked", "operation", c.route.id, "panic", p, "stack", string(debug.Stack()))
		s.audit(ctx, string(backstay.CodeInternal))
		if !out.wrote {
			s.writeError(out, newWireError(backstay.Errorf(backstay.CodeInternal, "something went wrong inside backstay")))
		}
	}
	// What never reached a handler of ours (a malformed body) is audited here.
	if out.status < 400 {
		s.audit(ctx, "ok")
	} else {
		s.audit(ctx, string(backstay.CodeUsage))
	}
	took := s.Now().Sub(begin)
	s.requests.WithLabelValues(c.route.id, strconv.Itoa(out.status)).Inc()
	if !c.route.stream {
		s.seconds.WithLabelValues(c.route.id).Observe(took.Seconds())
	}
	s.Log.Debug("request served", "operation", c.route.id, "user", c.who.Name, "status", out.status, "took", took)
}

// admit finds out whose the token is and whether it has the route's right.
func (s *server) admit(ctx context.Context, req *http.Request) error {
	c := callOf(ctx)
	if c.route.need == "" {
		return nil
	}
	scheme, secret, _ := strings.Cut(req.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") || secret == "" {
		return backstay.Errorf(backstay.CodeNotSignedIn, "the request has no token").
			Becausef("every request but %s needs one", "/healthz")
	}
	if strings.HasPrefix(secret, TicketPrefix) {
		return s.admitTicket(c, req, secret)
	}
	// Only the hash is compared, by the index of the catalogue: what the time
	// tells is about the hash of a guess, which says nothing of the next guess.
	who, err := s.Catalog.Tokens.TokenByHash(ctx, sha256.Sum256([]byte(secret)))
	if errors.Is(err, catalog.ErrNotFound) {
		return backstay.Errorf(backstay.CodeNotSignedIn, "the token is not known").Becausef("it was deleted, or belongs to another region")
	}
	if err != nil {
		return err
	}
	c.who = who
	if who.Expired(s.Now()) {
		c.who = backstay.Token{Name: who.Name}
		return backstay.Errorf(backstay.CodeNotSignedIn, "the token %q has expired", who.Name).
			Becausef("it counted until %s", who.Expires.UTC().Format(time.RFC3339)).Do("ask an owner of this region for a new one")
	}
	if who.Point != "" && !c.route.scoped {
		return backstay.Errorf(backstay.CodeNotAllowed, "the token %q may not do this", who.Name).
			Becausef("it opens the recovery point %s, and nothing else", who.Point).Do("use a token that is not bound to a point")
	}
	if !who.Role.Covers(c.route.need) {
		return backstay.Errorf(backstay.CodeNotAllowed, "the token %q may not do this", who.Name).
			Becausef("its role is %s, and this needs %s", who.Role, c.route.need)
	}
	if c.route.files && !who.Files && !(c.route.owners && who.Role == backstay.Owner) {
		return backstay.Errorf(backstay.CodeNotAllowed, "the token %q may not do this", who.Name).
			Becausef("it has no right to the files in recovery points, which no role has by itself").
			Do("use a token that an owner made with --files")
	}
	return nil
}

// audit appends the request to the audit log, once, if it is one that changes
// something. An anonymous one is recorded as such, and only so often: nobody
// without a token can fill the log.
func (s *server) audit(ctx context.Context, outcome string) {
	c := callOf(ctx)
	if c.audited {
		return
	}
	c.audited = true
	now := s.Now()
	if c.who.Role == "" && !s.anonymous.allow(now) {
		return
	}
	target := c.target
	if target == "" {
		target = c.path
	}
	entry := backstay.AuditEntry{
		Time: now.UTC(), User: c.who.Name, Role: c.who.Role, Action: c.route.method + " " + c.route.path,
		Target: target, Outcome: outcome, Job: c.job,
	}
	if c.route.id == "unknown" {
		entry.Action = c.path
	}
	// The client may be gone already; what it did is recorded all the same.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	if err := s.Catalog.Audit.Append(ctx, entry); err != nil {
		s.Log.Error("audit entry lost", "error", err, "action", entry.Action, "user", entry.User, "target", entry.Target, "outcome", outcome)
	}
}

// limiter lets so many events through at once, and then one in each interval.
type limiter struct {
	every time.Duration
	burst int

	mu   sync.Mutex
	left int       // guarded by mu
	last time.Time // guarded by mu
}

func (l *limiter) allow(now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.last.IsZero() {
		l.left, l.last = l.burst, now
	}
	if n := int(now.Sub(l.last) / l.every); n > 0 {
		l.left, l.last = min(l.burst, l.left+n), now
	}
	if l.left <= 0 {
		return false
	}
	l.left--
	return true
}

// recorder remembers the status of a response.
type recorder struct {
	http.ResponseWriter
	status int
	wrote  bool
}

func (r *recorder) WriteHeader(status int) {
	if !r.wrote {
		r.status, r.wrote = status, true
	}
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(p []byte) (int, error) {
	r.wrote = true
	return r.ResponseWriter.Write(p)
}

// Unwrap lets http.ResponseController reach the connection.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }
