package filemount

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/nbd"
)

// Order says what a process is to show. It travels through a pipe: its ticket must be
// in no list of processes and no environment.
type Order struct {
	Kind    backstay.SessionKind
	Session backstay.FileSessionID
	Point   backstay.PointID
	// Server and Ticket reach the session.
	Server string
	Ticket backstay.Secret
	// Dir is the absolute path of the empty folder to mount on; AllowOther shows the
	// mount to other users than this one, as far as the modes of the files let them.
	Dir        string
	AllowOther bool
	// Disk is exported, which has Size bytes. Below Parent the folder of its socket is
	// made; "" means the folder for temporary files.
	Disk   backstay.DiskTarget
	Size   int64
	Parent string
}

// orderWire is an Order whose ticket is really there. A Secret encodes as stars; the
// field of the same name one level up hides it from the encoder.
type orderWire struct {
	Order
	Ticket []byte
}

// report is what a process says of its start.
type report struct {
	Address string `json:"address,omitempty"` // of an NBD export: a secret
	Error   string `json:"error,omitempty"`
}

// Server shows sessions to the user's programs.
type Server struct {
	// Connect reaches the session of an order.
	Connect func(Order) Source
	// Guard is the command that must end up in CleanUp; nil for no guard.
	Guard []string
	// Look is how often the session is looked at, and Patience how long it may not
	// answer; 0 means 2 s and 30 s.
	Look, Patience time.Duration
}

// Serve takes an order from in, says on out when the point is shown, and shows it until
// ctx or the session ends, the server is gone, or the user unmounts. Nothing is left
// then: no mount, no socket, no session.
func (s Server) Serve(ctx context.Context, in io.Reader, out io.Writer) error {
	var w orderWire
	err := json.NewDecoder(in).Decode(&w)
	if err != nil {
		return fmt.Errorf("read the order: %w", err)
	}
	o := w.Order
	o.Ticket = backstay.NewSecret(w.Ticket)
	source := s.Connect(o)
	err = s.show(ctx, o, source, func(r report) error { return json.NewEncoder(out).Encode(r) })
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), endPatience)
	defer cancel()
	if end := source.End(ending); end != nil && !over(end) {
		err = errors.Join(err, end)
	}
	if err != nil {
		_ = json.NewEncoder(out).Encode(report{Error: err.Error()}) // nobody hears it once it was shown
	}
	return err
}

// endPatience bounds the ending of a session.
const endPatience = 10 * time.Second

func (s Server) show(ctx context.Context, o Order, source Source, ready func(report) error) error {
	session, err := source.Session(ctx)
	if err != nil {
		return err
	}
	left := leftover{Dir: o.Dir, Name: sourceName(o.Session)}
	if o.Kind == backstay.SessionNBD {
		if left.Folder, err = os.MkdirTemp(o.Parent, "backstay-nbd-"); err != nil {
			return fmt.Errorf("make the folder of the socket: %w", err)
		}
		defer func() { _ = os.RemoveAll(left.Folder) }()
	}
	// Before anything is shown, and before there is a file of FUSE that it could inherit.
	guard, err := s.startGuard(o, left)
	if err != nil {
		return err
	}
	life, end := context.WithCancelCause(ctx)
	defer end(nil)
	go s.watch(life, source, end)
	if o.Kind == backstay.SessionNBD {
		err = serveNBD(life, o, source, left.Folder, ready)
	} else {
		err = serveFiles(life, o, session, source, end, ready)
	}
	if err == nil {
		guard.disarm()
	}
	return err
}

// watch ends the life of what is shown with its session, or when nobody can tell of it.
func (s Server) watch(ctx context.Context, source Source, end context.CancelCauseFunc) {
	look, patience := s.Look, s.Patience
	if look == 0 {
		look = 2 * time.Second
	}
	if patience == 0 {
		patience = 30 * time.Second
	}
	tick := time.NewTicker(look)
	defer tick.Stop()
	silent := 0
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		asking, cancel := context.WithTimeout(ctx, patience)
		_, err := source.Session(asking)
		cancel()
		switch {
		case err == nil:
			silent = 0
		case over(err):
			end(fmt.Errorf("%w: %w", errOver, err))
			return
		default:
			if silent++; time.Duration(silent)*look >= patience {
				end(fmt.Errorf("%w: the server does not answer: %w", errOver, err))
				return
			}
		}
	}
}

// serveNBD exports a disk at a socket that only this user reaches, under a name that
// nobody guesses.
func serveNBD(ctx context.Context, o Order, source Source, folder string, ready func(report) error) error {
	socket, name := filepath.Join(folder, "s"), rand.Text()
	l, err := nbd.ListenUnix(socket)
	if err != nil {
		return err
	}
	content := newPages(ctx, o.Size, readOf(source, What{Disk: o.Disk}))
	served := make(chan error, 1)
	go func() {
		served <- nbd.Serve(ctx, l,
			// Who asks for no name gets what comes first: nothing.
			nbd.Export{Name: "none", Content: noContent{}},
			nbd.Export{Name: name, Description: "disk " + string(o.Disk) + " of point " + string(o.Point), Size: o.Size, Content: content})
	}()
	address := "nbd+unix:///" + name + "?socket=" + url.QueryEscape(socket)
	if err := ready(report{Address: address}); err != nil {
		return err
	}
	return <-served
}

// noContent is a disk of no size.
type noContent struct{}

// ReadAt implements io.ReaderAt.
func (noContent) ReadAt([]byte, int64) (int, error) { return 0, io.EOF }
