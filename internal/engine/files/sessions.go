package files

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/catalog"
	"github.com/backstay/backstay/internal/mover"
)

// DefaultIdle is how long a session that a command opened by itself stays open
// without being used.
const DefaultIdle = 10 * time.Minute

// TicketPrefix is what every session's ticket begins with.
const TicketPrefix = "bsf_"

const (
	// sweepEvery is how late an expired session may be ended.
	sweepEvery = 5 * time.Second
	// closeLimit bounds the closing of a session on its host, which ends it by itself
	// when it expires.
	closeLimit = 30 * time.Second
	// rememberEnded is how long it is known why a session ended.
	rememberEnded = time.Hour
)

// Options are what the sessions need. All but Idle and Log are required.
type Options struct {
	Hosts catalog.Hosts
	// Mover reaches a host; Vault opens a vault for reading.
	Mover func(backstay.HostName) (mover.Files, error)
	Vault func(context.Context, backstay.VaultName) (mover.VaultAccess, error)
	// Services are the key services that the secrets of points may need.
	Services func() []mover.KeyService
	NewID    func() backstay.FileSessionID
	Now      func() time.Time
	Idle     time.Duration // 0 means DefaultIdle
	Log      *slog.Logger  // nil means none
}

// OpenRequest asks for a session.
type OpenRequest struct {
	Point backstay.RecoveryPoint
	Tier  backstay.Tier // "" leaves it to us
	Kind  backstay.SessionKind
	Disks []backstay.DiskTarget // empty means all
	Life  time.Duration         // 0 means backstay.DefaultSessionLife
	User  string
	// Reuse takes a session of the same user, point and kind that is open already, and
	// opens one that has no ticket and ends when it is not used.
	Reuse bool
}

// Sessions are the open sessions of a region. All methods may be called concurrently.
type Sessions struct {
	options Options

	mu sync.Mutex
	// All guarded by mu.
	open    map[backstay.FileSessionID]*entry
	tickets map[[sha256.Size]byte]backstay.FileSessionID
	ended   map[backstay.FileSessionID]endedSession
	closed  bool

	// tasks close on hosts what an opening that was cut off left there.
	tasks sync.WaitGroup
}

// entry is one session. Fields that change are guarded by Sessions.mu.
type entry struct {
	request OpenRequest
	session backstay.FileSession
	disks   []backstay.PointDisk
	host    mover.Files
	ticket  [sha256.Size]byte
	busy    int // requests under way
	// opened is closed once the session is open, or err says why it is not.
	opened chan struct{}
	ready  bool
	err    error
	// life ends with the session; its cause is what calls under way fail with.
	life context.Context
	end  context.CancelCauseFunc
}

type endedSession struct {
	at  time.Time
	why *backstay.Error
}

// New returns the sessions of a region: none.
func New(o Options) *Sessions {
	if o.Idle == 0 {
		o.Idle = DefaultIdle
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Sessions{
		options: o, open: map[backstay.FileSessionID]*entry{}, tickets: map[[sha256.Size]byte]backstay.FileSessionID{},
		ended: map[backstay.FileSessionID]endedSession{},
	}
}

// Open opens a point, or with Reuse returns a session of it that is open. The ticket
// is returned here and never again; "" for a session that Reuse opened. Errors:
// CodeTierMissing, CodeHostAway, CodeUsage, and those of mover.Files.
func (s *Sessions) Open(ctx context.Context, r OpenRequest) (backstay.FileSession, string, error) {
	if r.Life == 0 {
		r.Life = backstay.DefaultSessionLife
	}
	if r.Life < 0 || r.Life > backstay.MaxSessionLife {
		return backstay.FileSession{}, "", backstay.Errorf(backstay.CodeUsage, "a session cannot last %s", r.Life).
			Becausef("the longest is %s", backstay.MaxSessionLife)
	}
	for ctx.Err() == nil {
		e, mine, err := s.enter(r)
		if err != nil {
			return backstay.FileSession{}, "", err
		}
		if mine {
			return s.start(ctx, e)
		}
		session, err := s.join(ctx, e)
		if !errors.Is(err, errAgain) {
			return session, "", err
		}
	}
	return backstay.FileSession{}, "", context.Cause(ctx)
}

// errAgain: the session that was to be joined is gone.
var errAgain = errors.New("the session is gone")

// enter returns a session to join, or a new entry that is the caller's to open.
func (s *Sessions) enter(r OpenRequest) (e *entry, mine bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, false, backstay.Errorf(backstay.CodeServerAway, "the server is stopping").Becausef("it opens no more sessions")
	}
	if r.Reuse {
		for _, e := range s.open {
			if e.request.serves(r) {
				return e, false, nil
			}
		}
	}
	now := s.options.Now().UTC()
	e = &entry{request: r, opened: make(chan struct{}), session: backstay.FileSession{
		ID: s.options.NewID(), Kind: r.Kind, Point: r.Point.ID, VM: r.Point.VM, User: r.User, Created: now, Used: now, Expires: now.Add(r.Life),
		Volumes: []backstay.Volume{},
	}}
	e.life, e.end = context.WithCancelCause(context.Background())
	s.open[e.session.ID] = e
	return e, true, nil
}

// serves tells whether a session that was opened for r does for another request.
func (r OpenRequest) serves(other OpenRequest) bool {
	return r.Reuse && r.User == other.User && r.Point.ID == other.Point.ID && r.Kind == other.Kind && r.Tier == other.Tier &&
		slices.Equal(r.Disks, other.Disks)
}

// join waits until the session is open and makes sure that its host still has it.
func (s *Sessions) join(ctx context.Context, e *entry) (backstay.FileSession, error) {
	select {
	case <-e.opened:
	case <-ctx.Done():
		return backstay.FileSession{}, context.Cause(ctx)
	}
	if e.err != nil {
		if errors.Is(e.err, context.Canceled) || errors.Is(e.err, context.DeadlineExceeded) {
			return backstay.FileSession{}, errAgain // who opened it went away
		}
		return backstay.FileSession{}, e.err
	}
	there, err := e.host.OpenSessions(ctx)
	if ctx.Err() != nil {
		return backstay.FileSession{}, context.Cause(ctx)
	}
	if err != nil || !slices.Contains(there, e.session.ID) {
		s.drop(e, "its host does not have it any more")
		return backstay.FileSession{}, errAgain
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open[e.session.ID] != e {
		return backstay.FileSession{}, errAgain
	}
	e.session.Used = s.options.Now().UTC()
	return e.copy(), nil
}

// start opens the session at the first place that takes it.
func (s *Sessions) start(ctx context.Context, e *entry) (backstay.FileSession, string, error) {
	opened, err := s.openSomewhere(ctx, e)
	s.mu.Lock()
	defer s.mu.Unlock()
	defer close(e.opened)
	if err == nil && s.open[e.session.ID] != e {
		err = context.Cause(e.life) // it was ended while it was being opened
	}
	if err != nil {
		e.err = err
		delete(s.open, e.session.ID)
		if e.host != nil {
			s.tasks.Go(func() { s.closeOn(e.host, e.session.ID) })
		}
		return backstay.FileSession{}, "", err
	}
	e.ready, e.disks, e.session.Holds = true, opened.Disks, opened.Holds
	e.session.Volumes = append(e.session.Volumes, opened.Volumes...)
	e.session.Used = s.options.Now().UTC()
	ticket := ""
	if !e.request.Reuse {
		ticket, e.ticket = newTicket()
		s.tickets[e.ticket] = e.session.ID
	}
	s.options.Log.Info("session opened", "session", e.session.ID, "kind", e.session.Kind, "point", e.session.Point,
		"tier", e.session.Tier, "host", e.session.Host, "user", e.session.User)
	return e.copy(), ticket, nil
}

func (s *Sessions) openSomewhere(ctx context.Context, e *entry) (mover.OpenedFiles, error) {
	ctx, cancel := withLife(ctx, e)
	defer cancel()
	hosts, err := s.options.Hosts.ListHosts(ctx)
	if err != nil {
		return mover.OpenedFiles{}, fmt.Errorf("list hosts: %w", err)
	}
	candidates, err := places(e.request.Point, e.request.Tier, hosts)
	if err != nil {
		return mover.OpenedFiles{}, err
	}
	var first error
	for _, at := range candidates {
		opened, err := s.openAt(ctx, e, at)
		if err == nil {
			return opened, nil
		}
		if first == nil {
			first = err
		}
		// The catalogue may be behind the host; only then is another place better.
		elsewhere := backstay.IsCode(err, backstay.CodeHostAway) || backstay.IsCode(err, backstay.CodeUnknownPoint) || backstay.IsCode(err, backstay.CodeTierMissing) ||
			backstay.IsCode(err, backstay.CodeLayerInUse)
		if !elsewhere || ctx.Err() != nil {
			break
		}
	}
	return mover.OpenedFiles{}, first
}

func (s *Sessions) openAt(ctx context.Context, e *entry, at place) (mover.OpenedFiles, error) {
	m, err := s.options.Mover(at.host)
	if err != nil {
		return mover.OpenedFiles{}, err
	}
	r := mover.OpenFilesRequest{
		Session: e.session.ID, Point: e.session.Point, Tier: at.tier, Disks: e.request.Disks, Raw: e.request.Kind == backstay.SessionNBD,
		User: e.session.User, Expires: e.session.Expires, Services: s.options.Services(),
	}
	if at.tier == backstay.VaultTier {
		access, err := s.options.Vault(ctx, e.request.Point.Vault)
		if err != nil {
			return mover.OpenedFiles{}, err
		}
		r.Vault = &access
	}
	s.mu.Lock()
	e.host, e.session.Tier, e.session.Host = m, at.tier, at.host
	s.mu.Unlock()
	opened, err := m.OpenFiles(ctx, r, func(mover.Report) {})
	for backstay.IsCode(err, backstay.CodeSessionLimit) && ctx.Err() == nil && s.makeRoom(ctx, e, at.host) {
		opened, err = m.OpenFiles(ctx, r, func(mover.Report) {})
	}
	if err != nil && e.life.Err() != nil {
		err = context.Cause(e.life)
	}
	return opened, err
}

// withLife ends the context with the session, too.
func withLife(ctx context.Context, e *entry) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(e.life, func() { cancel(context.Cause(e.life)) })
	return ctx, func() {
		stop()
		cancel(nil)
	}
}

// newTicket makes a ticket of 256 random bits and the hash under which it is kept.
func newTicket() (string, [sha256.Size]byte) {
	random := make([]byte, 32)
	rand.Read(random) // never fails (crypto/rand)
	ticket := TicketPrefix + base64.RawURLEncoding.EncodeToString(random)
	return ticket, sha256.Sum256([]byte(ticket))
}

// ByTicket returns the session that a ticket opens. What the time of the look-up
// tells is about the hash of a guess, which says nothing of the next guess.
func (s *Sessions) ByTicket(ticket string) (backstay.FileSession, bool) {
	if !strings.HasPrefix(ticket, TicketPrefix) {
		return backstay.FileSession{}, false
	}
	hash := sha256.Sum256([]byte(ticket))
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := s.open[s.tickets[hash]]
	if !ok || !s.alive(e) {
		return backstay.FileSession{}, false
	}
	return e.copy(), true
}

// List returns the sessions that are open, the oldest first.
func (s *Sessions) List() []backstay.FileSession {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := []backstay.FileSession{}
	for _, e := range s.open {
		if e.ready && s.alive(e) {
			list = append(list, e.copy())
		}
	}
	slices.SortFunc(list, func(a, b backstay.FileSession) int { return strings.Compare(string(a.ID), string(b.ID)) })
	return list
}

// Get returns one session. Errors: CodeUnknownSession; CodeSessionEnded with the
// reason, for an hour.
func (s *Sessions) Get(id backstay.FileSessionID) (backstay.FileSession, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, err := s.find(id)
	if err != nil {
		return backstay.FileSession{}, err
	}
	return e.copy(), nil
}

// find returns a session that is open; mu is held.
func (s *Sessions) find(id backstay.FileSessionID) (*entry, error) {
	if e, ok := s.open[id]; ok && e.ready {
		if !s.alive(e) {
			return nil, expired(e)
		}
		return e, nil
	}
	if was, ok := s.ended[id]; ok {
		return nil, was.why
	}
	return nil, backstay.Errorf(backstay.CodeUnknownSession, "there is no session %s", id).
		Becausef("no session of this id was open during the last hour; none survives a restart of the server")
}

// alive tells whether the session's time is not over; mu is held. The sweep comes a
// moment later, and nobody may gain by that.
func (s *Sessions) alive(e *entry) bool { return s.options.Now().Before(e.session.Expires) }

// copy is the session for others: what they do to it changes nothing here. mu is held.
func (e *entry) copy() backstay.FileSession {
	session := e.session
	session.Volumes = slices.Clone(session.Volumes)
	return session
}
