package server

import (
	"context"
	"io"
	"net/http"
	"strings"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/api"
	"github.com/backstay/backstay/internal/mover"
)

// TicketPrefix is what the ticket of every session begins with. A token never does.
const TicketPrefix = "bsf_"

// FileOpen asks for a session of item-level restore.
type FileOpen struct {
	Point backstay.RecoveryPoint
	Tier  backstay.Tier // "" leaves it to the sessions
	Kind  backstay.SessionKind
	Disks []backstay.DiskTarget
	Life  time.Duration // 0 means the default
	User  string
	Reuse bool // a session of the user's that is open will do
}

// FileSessions are the open sessions of item-level restore. All methods may be called
// concurrently.
type FileSessions interface {
	// OpenSession opens a point. The ticket is returned here and never again.
	OpenSession(ctx context.Context, r FileOpen) (s backstay.FileSession, ticket string, err error)
	// ByTicket returns the session that a ticket opens.
	ByTicket(ticket string) (backstay.FileSession, bool)
	// List returns all sessions.
	List() []backstay.FileSession
	// Get returns one. CodeUnknownSession, CodeSessionEnded.
	Get(id backstay.FileSessionID) (backstay.FileSession, error)
	// End ends a session at once.
	End(ctx context.Context, id backstay.FileSessionID, why string) error
	// EndOf ends all sessions of a user.
	EndOf(ctx context.Context, user, why string)
	FileReads
}

// FileReads is what can be done in a session.
type FileReads interface {
	// Resolve finds what a path means, and what is there; links on the way are followed,
	// and the last one too if last says so.
	Resolve(ctx context.Context, id backstay.FileSessionID, path backstay.FilePath, last bool) (backstay.FileLocation, backstay.FileEntry, error)
	// Unlock opens a locked volume. CodeVolumeKey.
	Unlock(ctx context.Context, r mover.UnlockRequest) (backstay.FileSession, error)
	// Folder lists a part of a folder.
	Folder(ctx context.Context, r mover.FolderRequest) (mover.FolderPage, error)
	// Disk returns a disk of a session for whole disks.
	Disk(id backstay.FileSessionID, target backstay.DiskTarget) (backstay.PointDisk, error)
	// ReadFile writes bytes of a file or a disk to w.
	ReadFile(ctx context.Context, r mover.FileReadRequest, w io.Writer) error
	// TakeFiles writes a stream of items to w.
	TakeFiles(ctx context.Context, r mover.FileTakeRequest, w io.Writer) error
}

type openFilesInput struct{ Body api.OpenFilesRequest }

// SessionInput is exported, as are the two others, since huma reads no fields of
// embedded types that are not.
type SessionInput struct {
	Session string `path:"session" doc:"id of a session"`
}

type unlockInput struct {
	SessionInput
	Body api.UnlockRequest
}

// PathInput names something in a session.
type PathInput struct {
	SessionInput
	Path string `query:"path" required:"true" doc:"VOLUME:/path, or the guest's own path"`
}

type folderInput struct {
	PathInput
	After string `query:"after" doc:"next of the page before"`
	Limit int    `query:"limit" minimum:"1" maximum:"10000" default:"1000"`
}

func (s *server) registerFiles() {
	add(s, "openFiles", s.openFiles)
	add(s, "listFileSessions", s.listFileSessions)
	add(s, "getFileSession", func(ctx context.Context, in *SessionInput) (*answer[backstay.FileSession], error) {
		session, err := s.sessionToEnd(ctx, in.Session)
		return &answer[backstay.FileSession]{session}, err
	})
	add(s, "endFileSession", func(ctx context.Context, in *SessionInput) (*struct{}, error) {
		session, err := s.sessionToEnd(ctx, in.Session)
		if err != nil {
			return nil, err
		}
		return nil, s.Files.End(ctx, session.ID, callOf(ctx).who.Name+" ended it")
	})
	add(s, "unlockVolume", s.unlockVolume)
	add(s, "listFolder", s.listFolder)
	add(s, "getEntry", func(ctx context.Context, in *PathInput) (*answer[api.Entry], error) {
		session, err := s.session(ctx, in.Session)
		if err != nil {
			return nil, err
		}
		at, entry, err := s.resolve(ctx, session, in.Path, false)
		return &answer[api.Entry]{api.Entry{FileLocation: at, Entry: entry}}, err
	})
	add(s, "findFiles", s.findFiles)
	add(s, "diffPoints", s.diffPoints)
	s.registerContent()
	s.registerTake()
	add(s, "putFiles", s.putFiles)
}

// admitTicket lets a request through that comes with the ticket of the session in its
// path. What it does is done in the name of who opened the session.
func (s *server) admitTicket(c *call, req *http.Request, ticket string) error {
	session, ok := s.Files.ByTicket(ticket)
	if !ok {
		return backstay.Errorf(backstay.CodeNotSignedIn, "the ticket is not known").
			Becausef("its session has ended, or it is of another region").Do("open a new session")
	}
	c.who = backstay.Token{Name: session.User, Role: backstay.Reader, Files: true}
	c.session = session.ID
	if !c.route.ticket || req.PathValue("session") != string(session.ID) {
		return backstay.Errorf(backstay.CodeNotAllowed, "the ticket may not do this").
			Becausef("a ticket opens its own session and nothing else").Do("use a token")
	}
	return nil
}

func (s *server) openFiles(ctx context.Context, in *openFilesInput) (*started[api.OpenFilesResponse], error) {
	p, err := s.pointOrNewest(ctx, in.Body.Point)
	if err != nil {
		return nil, err
	}
	c := callOf(ctx)
	r := FileOpen{Point: p, Tier: in.Body.Tier, Kind: in.Body.Kind, Disks: in.Body.Disks, Life: s.lifeOf(c.who, time.Duration(in.Body.Life)), User: c.who.Name, Reuse: in.Body.Reuse}
	if r.Kind == "" {
		r.Kind = backstay.SessionBrowse
	}
	session, ticket, err := s.Files.OpenSession(ctx, r)
	if err != nil {
		return nil, err
	}
	// The token may have been deleted meanwhile, and its sessions with it.
	if err := s.stillThere(ctx, c.who); err != nil {
		s.Files.EndOf(ctx, c.who.Name, "the token of its user was deleted")
		return nil, err
	}
	c.target += " in session " + string(session.ID)
	out := &started[api.OpenFilesResponse]{Status: http.StatusCreated, Body: api.OpenFilesResponse{Session: session, Ticket: ticket}}
	if ticket == "" && session.Created.Before(session.Used) {
		out.Status = http.StatusOK
	}
	return out, nil
}

// stillThere tells whether a token was deleted since it was looked at.
func (s *server) stillThere(ctx context.Context, who backstay.Token) error {
	tokens, err := s.Catalog.Tokens.ListTokens(ctx)
	if err != nil {
		return err
	}
	for _, t := range tokens {
		if t.ID == who.ID {
			return nil
		}
	}
	return backstay.Errorf(backstay.CodeNotSignedIn, "the token is not known").Becausef("it was deleted")
}

// pointOrNewest finds a point as point does; the name of a VM means its newest.
func (s *server) pointOrNewest(ctx context.Context, name string) (backstay.RecoveryPoint, error) {
	p, err := s.point(ctx, name)
	if _, _, at := splitPoint(name); at || !backstay.IsCode(err, backstay.CodeUnknownPoint) {
		return p, err
	}
	newest, vmErr := s.point(ctx, name+"@latest")
	if backstay.IsCode(vmErr, backstay.CodeUnknownVM) {
		callOf(ctx).target = name
		return p, err
	}
	return newest, vmErr
}

func (s *server) listFileSessions(ctx context.Context, _ *struct{}) (*answer[[]backstay.FileSession], error) {
	who := callOf(ctx).who
	callOf(ctx).within = true
	list := []backstay.FileSession{}
	for _, session := range s.Files.List() {
		if mine(who, session) || who.Role == backstay.Owner {
			list = append(list, session)
		}
	}
	return &answer[[]backstay.FileSession]{list}, nil
}

// session finds the session that a request is about, if it is the caller's.
func (s *server) session(ctx context.Context, id string) (backstay.FileSession, error) {
	c := callOf(ctx)
	c.target = "session " + id
	session, err := s.Files.Get(backstay.FileSessionID(strings.ToUpper(id)))
	if err != nil {
		return session, err
	}
	c.target = "session " + id + ": " + string(session.Point) + " of " + label(session.VM)
	if !mine(c.who, session) {
		return session, backstay.Errorf(backstay.CodeNotAllowed, "the session %s is not yours", session.ID).
			Becausef("another user opened it").Do("open one of your own")
	}
	c.within = true
	return session, nil
}

// mine tells whether a session is the token's own.
func mine(who backstay.Token, session backstay.FileSession) bool {
	return session.User == who.Name && (who.Point == "" || session.Point == who.Point)
}

// sessionToEnd finds a session which the caller may look at and end: an owner any.
func (s *server) sessionToEnd(ctx context.Context, id string) (backstay.FileSession, error) {
	session, err := s.session(ctx, id)
	if backstay.IsCode(err, backstay.CodeNotAllowed) && callOf(ctx).who.Role == backstay.Owner {
		err = nil
	}
	return session, err
}

// resolve finds what the text of a path means in a session.
func (s *server) resolve(ctx context.Context, session backstay.FileSession, text string, last bool) (backstay.FileLocation, backstay.FileEntry, error) {
	name, err := backstay.ParseFilePath(text)
	if err != nil {
		return backstay.FileLocation{}, backstay.FileEntry{}, backstay.Errorf(backstay.CodeUsage, "the path cannot be read").Because(err)
	}
	return s.Files.Resolve(ctx, session.ID, name, last)
}

// unlockVolume passes a key on. It is in nothing that is logged or audited (I10).
func (s *server) unlockVolume(ctx context.Context, in *unlockInput) (*answer[backstay.FileSession], error) {
	session, err := s.session(ctx, in.Session)
	if err != nil {
		return nil, err
	}
	callOf(ctx).target += " volume " + string(in.Body.Volume)
	if len(in.Body.Key) == 0 {
		return nil, backstay.Errorf(backstay.CodeUsage, "the key is empty").Becausef("no volume is opened by nothing")
	}
	session, err = s.Files.Unlock(ctx, mover.UnlockRequest{
		Session: session.ID, Volume: in.Body.Volume, Kind: in.Body.Kind, Key: backstay.NewSecret(in.Body.Key),
	})
	return &answer[backstay.FileSession]{session}, err
}

func (s *server) listFolder(ctx context.Context, in *folderInput) (*answer[api.Folder], error) {
	session, err := s.session(ctx, in.Session)
	if err != nil {
		return nil, err
	}
	at, entry, err := s.resolve(ctx, session, in.Path, true)
	if err != nil {
		return nil, err
	}
	if entry.Type != backstay.TypeFolder {
		return nil, backstay.Errorf(backstay.CodeFileUnfit, "%s is no folder", at).Becausef("it is a %s", entry.Type).
			Do("get it with `backstay files get`")
	}
	page, err := s.Files.Folder(ctx, mover.FolderRequest{Session: session.ID, Volume: at.Volume, Path: at.Path, After: in.After, Limit: in.Limit})
	return &answer[api.Folder]{api.Folder{FileLocation: at, Entries: page.Entries, Next: page.Next}}, err
}
