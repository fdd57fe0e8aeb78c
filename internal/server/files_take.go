package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path"
	"strings"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/api"
	"github.com/backstay/backstay/internal/items"
	"github.com/backstay/backstay/internal/mover"
	"github.com/danielgtaylor/huma/v2"
)

type takeInput struct {
	SessionInput
	Body api.TakeRequest
}

// take is what is to be taken.
type take struct {
	session backstay.FileSession
	volumes []mover.FileTakeRequest // one for each volume
	paths   []string                // for the audit log
	format  api.TakeFormat
}

// takeTypes are the formats' media types.
var takeTypes = map[api.TakeFormat]string{
	api.TakeItems: items.MediaType, api.TakeTar: "application/x-tar", api.TakeZip: "application/zip",
}

func (s *server) registerTake() {
	responses := func() map[string]*huma.Response {
		content := map[string]*huma.MediaType{}
		for _, kind := range takeTypes {
			content[kind] = &huma.MediaType{Schema: &huma.Schema{Type: huma.TypeString, Format: "binary"}}
		}
		return map[string]*huma.Response{"200": {
			Description: "The files, in chunks as they are read. The body ends regularly only if all of them were sent: else the connection breaks.", Content: content,
		}}
	}
	stream(s, "takeFiles", responses, func(ctx context.Context, in *takeInput) (take, struct{}, error) {
		found, err := s.findTake(ctx, in)
		return found, struct{}{}, err
	}, func(w http.ResponseWriter, req *http.Request, t take, _ struct{}) { s.serveTake(req.Context(), w, t) })
}

// findTake finds what the paths mean. A link that is named itself is taken as a link.
func (s *server) findTake(ctx context.Context, in *takeInput) (take, error) {
	session, err := s.session(ctx, in.Session)
	if err != nil {
		return take{}, err
	}
	t := take{session: session, format: in.Body.Format}
	for _, text := range in.Body.Paths {
		at, _, err := s.resolve(ctx, session, text, false)
		if err != nil {
			return take{}, err
		}
		if err := t.add(at); err != nil {
			return take{}, err
		}
	}
	if t.format == api.TakeItems && len(t.volumes) > 1 {
		return take{}, backstay.Errorf(backstay.CodeUsage, "items of several volumes do not go into one stream").
			Becausef("the paths are on %s and %s", t.volumes[0].Volume, t.volumes[1].Volume).Do("ask once for each volume")
	}
	return t, nil
}

// add takes one more. What is taken lies beside each other, each under its last name,
// and a whole volume under the names in it.
func (t *take) add(at backstay.FileLocation) error {
	for _, v := range t.volumes {
		for _, p := range v.Paths {
			if path.Base(string(p)) == path.Base(string(at.Path)) || p == "/" || at.Path == "/" {
				other := backstay.FileLocation{Volume: v.Volume, Path: p}
				return backstay.Errorf(backstay.CodeUsage, "%s and %s cannot be taken together", other, at).
					Becausef("they may bear the same names, and would lie in one folder").Do("take them one after the other, into two folders")
			}
		}
	}
	t.paths = append(t.paths, at.String())
	for i := range t.volumes {
		if t.volumes[i].Volume == at.Volume {
			t.volumes[i].Paths = append(t.volumes[i].Paths, at.Path)
			return nil
		}
	}
	t.volumes = append(t.volumes, mover.FileTakeRequest{Session: t.session.ID, Volume: at.Volume, Paths: []backstay.FilePath{at.Path}})
	return nil
}

func (s *server) serveTake(ctx context.Context, w http.ResponseWriter, t take) {
	ctx, cancel := untilStopped(ctx)
	defer cancel()
	w.Header().Set("Cache-Control", "private, no-store")
	download(w.Header(), t.fileName(), takeTypes[t.format])
	out := &sender{w: w, status: http.StatusOK, left: -1}
	err := s.handOut(ctx, t.session, t.paths)
	if err == nil {
		err = s.sendTake(ctx, t, out)
	}
	if err != nil {
		s.broken(ctx, out, t.session, strings.Join(t.paths[:min(len(t.paths), 3)], ", "), err)
		return
	}
	out.begin()
}

// fileName is what a browser calls the download.
func (t take) fileName() string {
	name := t.session.VM.Name + "-" + string(t.session.Point)
	if len(t.paths) == 1 {
		if base := path.Base(string(t.volumes[0].Paths[0])); base != "/" {
			name = base
		}
	}
	return name + "." + string(t.format)
}

// archive is a tar or a zip that is being written.
type archive interface {
	Add(ctx context.Context, stream *items.Reader) error
	Close() (items.Report, error)
}

// sendTake sends what was asked for, as it is read: nothing is kept here.
func (s *server) sendTake(ctx context.Context, t take, out *sender) error {
	var to archive
	switch t.format {
	case api.TakeItems:
		return s.Files.TakeFiles(ctx, t.volumes[0], out)
	case api.TakeTar:
		to = items.NewTar(out, items.ArchiveOptions{})
	default:
		to = items.NewZip(out, items.ArchiveOptions{})
	}
	for _, v := range t.volumes {
		if err := s.addVolume(ctx, v, to); err != nil {
			return err
		}
	}
	report, err := to.Close()
	if err != nil {
		return fmt.Errorf("end the archive: %w", err)
	}
	if report.Whole() {
		return nil
	}
	// The archive says in itself what it lacks; who sees the stream alone must know too.
	http.NewResponseController(out.w).Flush() // what cannot be flushed is lost with the connection
	return backstay.Errorf(backstay.CodeVolumeUnread, "not all could be read").
		Becausef("%d files lack content", report.Counts[items.Unread]+report.Counts[items.Refused]).Do("the last entry of the archive names them")
}

// addVolume adds what is asked for of one volume.
func (s *server) addVolume(ctx context.Context, v mover.FileTakeRequest, to archive) error {
	from, into := io.Pipe()
	taken := make(chan error, 1)
	go func() {
		err := s.Files.TakeFiles(ctx, v, into)
		into.CloseWithError(err)
		taken <- err
	}()
	err := to.Add(ctx, items.NewReader(from).Only(items.Asked(v.Paths, v.Strip)))
	from.CloseWithError(errors.Join(err, io.ErrClosedPipe))
	if takeErr := <-taken; takeErr != nil && (err == nil || errors.Is(err, takeErr)) {
		return takeErr
	}
	return err
}
