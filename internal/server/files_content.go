package server

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"strconv"
	"strings"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/mover"
	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
)

type contentInput struct {
	PathInput
	RangeInput
}

type diskInput struct {
	SessionInput
	Disk string `path:"disk" doc:"target of a disk, such as vda"`
	RangeInput
}

// RangeInput are the headers that make a request one for a part.
type RangeInput struct {
	Range       string `header:"Range" doc:"one range of bytes; several are answered with the whole"`
	IfRange     string `header:"If-Range"`
	IfMatch     string `header:"If-Match"`
	IfNoneMatch string `header:"If-None-Match"`
}

// content is something that is handed out whole or in ranges.
type content struct {
	session  backstay.FileSession
	what     string // for the audit log
	name     string // of the file that a browser makes of it
	size     int64
	etag     string
	modified time.Time // zero if not known
	read     mover.FileReadRequest
}

func (s *server) registerContent() {
	stream(s, "readFile", octets, func(ctx context.Context, in *contentInput) (content, RangeInput, error) {
		found, err := s.fileContent(ctx, in)
		return found, in.RangeInput, err
	}, s.serveContent)
	stream(s, "readDisk", octets, func(ctx context.Context, in *diskInput) (content, RangeInput, error) {
		found, err := s.diskContent(ctx, in)
		return found, in.RangeInput, err
	}, s.serveContent)
}

// octets are the answers of routes that hand out content, for the document.
func octets() map[string]*huma.Response {
	bytes := map[string]*huma.MediaType{"application/octet-stream": {Schema: &huma.Schema{Type: huma.TypeString, Format: "binary"}}}
	return map[string]*huma.Response{
		"200": {Description: "All of it. Where it breaks off the connection does too.", Content: bytes},
		"206": {Description: "The range that was asked for", Content: bytes},
		"304": {Description: "The client has it"},
		"412": {Description: "It is another one than the client has"},
		"416": {Description: "It has no such range; Content-Range tells its size"},
	}
}

// stream registers an operation that finds something and then serves it in its own
// way: find's errors are answers like any other route's.
func stream[I, F, R any](s *server, id string, responses func() map[string]*huma.Response,
	find func(context.Context, *I) (F, R, error), serve func(http.ResponseWriter, *http.Request, F, R)) {
	op := operation(routeByID(id))
	op.Responses = responses()
	huma.Register(s.huma, op, func(ctx context.Context, in *I) (*huma.StreamResponse, error) {
		found, more, err := find(ctx, in)
		if err == nil {
			err = outside(ctx)
		}
		if err != nil {
			return nil, s.failure(ctx, err)
		}
		return &huma.StreamResponse{Body: func(c huma.Context) {
			req, w := humago.Unwrap(c)
			serve(w, req, found, more)
		}}, nil
	})
}

func (s *server) fileContent(ctx context.Context, in *contentInput) (content, error) {
	session, err := s.session(ctx, in.Session)
	if err != nil {
		return content{}, err
	}
	at, entry, err := s.resolve(ctx, session, in.Path, true)
	if err != nil {
		return content{}, err
	}
	callOf(ctx).target += " " + at.String()
	if entry.Type != backstay.TypeFile {
		return content{}, backstay.Errorf(backstay.CodeFileUnfit, "%s has no content", at).Becausef("it is a %s", entry.Type).
			Do("get a folder with all that is in it with `backstay files get`")
	}
	changed := ""
	if entry.Changed != nil {
		changed = entry.Changed.UTC().Format(time.RFC3339Nano)
	}
	return content{
		session: session, what: at.String(), name: path.Base(string(at.Path)), size: entry.Size, modified: entry.ModTime,
		etag: etag(session.Point, at.Volume, string(at.Path), entry.Size, entry.Inode, entry.ModTime.UTC().Format(time.RFC3339Nano), changed),
		read: mover.FileReadRequest{Session: session.ID, Volume: at.Volume, Path: at.Path},
	}, nil
}

func (s *server) diskContent(ctx context.Context, in *diskInput) (content, error) {
	session, err := s.session(ctx, in.Session)
	if err != nil {
		return content{}, err
	}
	callOf(ctx).target += " disk " + in.Disk
	d, err := s.Files.Disk(session.ID, backstay.DiskTarget(in.Disk))
	if err != nil {
		return content{}, err
	}
	return content{
		session: session, what: "disk " + in.Disk, name: session.VM.Name + "-" + in.Disk + ".raw", size: d.Size,
		etag: etag(session.Point, d.Target, d.Size), read: mover.FileReadRequest{Session: session.ID, Disk: d.Target},
	}, nil
}

// etag is a strong one: what a point holds never changes.
func etag(parts ...any) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%q", parts))
	return `"` + hex.EncodeToString(sum[:16]) + `"`
}

func (s *server) serveContent(w http.ResponseWriter, req *http.Request, c content, in RangeInput) {
	ctx := req.Context()
	head := w.Header()
	head.Set("Accept-Ranges", "bytes")
	head.Set("ETag", c.etag)
	head.Set("Cache-Control", "private, no-store")
	if !c.modified.IsZero() {
		head.Set("Last-Modified", c.modified.UTC().Format(http.TimeFormat))
	}
	silent := func(status int) {
		callOf(ctx).audited = true // nothing left
		w.WriteHeader(status)
	}
	switch {
	case in.IfMatch != "" && !listed(in.IfMatch, c.etag):
		silent(http.StatusPreconditionFailed)
		return
	case in.IfNoneMatch != "" && listed(in.IfNoneMatch, c.etag):
		silent(http.StatusNotModified)
		return
	}
	// A date is no proof that it is the same content; only the tag is.
	if in.IfRange != "" && in.IfRange != c.etag {
		in.Range = ""
	}
	offset, length, kind := parseRange(in.Range, c.size)
	status := http.StatusOK
	switch kind {
	case rangeNone:
		head.Set("Content-Range", fmt.Sprintf("bytes */%d", c.size))
		silent(http.StatusRequestedRangeNotSatisfiable)
		return
	case rangePart:
		status = http.StatusPartialContent
		head.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", offset, offset+length-1, c.size))
	}
	download(head, c.name, "application/octet-stream")
	head.Set("Content-Length", strconv.FormatInt(length, 10))
	if req.Method == http.MethodHead {
		silent(status)
		return
	}
	c.read.Offset, c.read.Length = offset, length
	s.sendContent(ctx, w, c, status)
}

// sendContent sends a range. What fails before the first byte is an answer like any
// other's; what fails later breaks the connection, so that nobody takes it for whole.
func (s *server) sendContent(ctx context.Context, w http.ResponseWriter, c content, status int) {
	ctx, cancel := untilStopped(ctx)
	defer cancel()
	out := &sender{w: w, status: status, left: c.read.Length}
	err := s.handOutOnce(ctx, c.session, c.what)
	if err == nil && c.read.Length > 0 {
		err = s.Files.ReadFile(ctx, c.read, out)
	}
	if err == nil && out.left > 0 {
		err = backstay.Errorf(backstay.CodeMachineFailed, "%s ended early", c.what).Becausef("%d bytes are missing", out.left)
	}
	if err == nil {
		out.begin()
		return
	}
	s.broken(ctx, out, c.session, c.what, err)
}

// broken ends a stream that failed.
func (s *server) broken(ctx context.Context, out *sender, session backstay.FileSession, what string, err error) {
	if callOf(ctx).audited {
		s.handedOut(ctx, session, what, err)
	}
	if out.begun {
		s.Log.Warn("a stream of files broke off", "session", session.ID, "what", what, "error", err)
		panic(http.ErrAbortHandler)
	}
	for name := range out.w.Header() {
		out.w.Header().Del(name)
	}
	s.writeError(out.w, s.failure(ctx, err))
}

// untilStopped ends a stream when the server stops.
func untilStopped(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	stop := stopping(ctx)
	go func() {
		select {
		case <-stop:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

// stallLimit is how long a client may read nothing of a stream of files. A player that
// is paused asks again for where it was.
const stallLimit = 5 * time.Minute

// sender is the body of an answer, whose head goes out with its first bytes.
type sender struct {
	w      http.ResponseWriter
	status int
	left   int64 // bytes that may still come; -1 for any number
	begun  bool
}

var errTooMuch = errors.New("more came than was asked for")

func (o *sender) begin() {
	if !o.begun {
		o.begun = true
		o.w.WriteHeader(o.status)
	}
}

// Write sends bytes. A small machine that somebody took over cannot send more of them
// than were asked for.
func (o *sender) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if o.left >= 0 && int64(len(p)) > o.left {
		return 0, errTooMuch
	}
	o.begin()
	http.NewResponseController(o.w).SetWriteDeadline(time.Now().Add(stallLimit)) // a test's recorder has none
	n, err := o.w.Write(p)
	if o.left >= 0 {
		o.left -= int64(n)
	}
	return n, err
}

// download makes a browser keep a body as a file, whatever is in it.
func download(head http.Header, name, contentType string) {
	head.Set("Content-Type", contentType)
	head.Set("X-Content-Type-Options", "nosniff")
	head.Set("Content-Security-Policy", "sandbox; default-src 'none'")
	shown := backstay.FilePath(name).String()
	plain := strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' || strings.ContainsRune(`"\/;%`, r) {
			return '_'
		}
		return r
	}, shown)
	head.Set("Content-Disposition", `attachment; filename="`+plain+`"; filename*=UTF-8''`+strings.ReplaceAll(url.QueryEscape(shown), "+", "%20"))
}

// listed tells whether a header of tags names one. Weak tags match nothing: a range of
// one content would be glued to another.
func listed(header, tag string) bool {
	for one := range strings.SplitSeq(header, ",") {
		if one = strings.TrimSpace(one); one == tag || one == "*" {
			return true
		}
	}
	return false
}

type rangeKind int

const (
	rangeWhole rangeKind = iota
	rangePart
	rangeNone // there is no such range
)

// parseRange reads a Range header for something of a size. What is not understood, and
// several ranges, mean the whole (RFC 9110, 14.2).
func parseRange(header string, size int64) (offset, length int64, kind rangeKind) {
	spec, ok := strings.CutPrefix(strings.TrimSpace(header), "bytes=")
	from, to, dash := strings.Cut(strings.TrimSpace(spec), "-")
	if !ok || !dash || strings.Contains(spec, ",") {
		return 0, size, rangeWhole
	}
	first, last := int64(0), size-1
	switch {
	case from == "" && digits(to): // the last so many bytes
		n, err := strconv.ParseInt(to, 10, 64)
		if err != nil {
			n = size
		}
		if n == 0 {
			return 0, 0, rangeNone
		}
		first = max(0, size-n)
	case digits(from) && (to == "" || digits(to)):
		var err error
		if first, err = strconv.ParseInt(from, 10, 64); err != nil {
			return 0, 0, rangeNone // beyond any size
		}
		if to != "" {
			if n, err := strconv.ParseInt(to, 10, 64); err == nil {
				if n < first {
					return 0, size, rangeWhole
				}
				last = min(last, n)
			}
		}
	default:
		return 0, size, rangeWhole
	}
	if first >= size {
		return 0, 0, rangeNone
	}
	return first, last - first + 1, rangePart
}

func digits(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}
