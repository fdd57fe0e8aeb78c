package live

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/nbd"
	"github.com/backstay/backstay/internal/tier"
)

// Source is an opened point.
type Source interface {
	// Disk opens a disk of it; ctx bounds all reads.
	Disk(ctx context.Context, target backstay.DiskTarget) (tier.Image, error)
	Close() error
}

// Open opens the point that an order names.
type Open func(ctx context.Context, o Order) (Source, error)

// lookEvery is how often an export looks whether it is still needed.
const lookEvery = 300 * time.Millisecond

// Serve is an export: it reads its order from in, says on out that it listens, and
// serves until nobody needs it. The end of ctx is a wish: as long as a VM is
// connected the export stays. A store that is away keeps it from nothing: what is
// asked for waits.
func Serve(ctx context.Context, in io.Reader, out io.Writer, open Open, log *slog.Logger) error {
	var w wire
	if err := json.NewDecoder(in).Decode(&w); err != nil {
		return fmt.Errorf("export: nobody said what to serve: %w", err)
	}
	o := w.order()
	answer := func(err error) error {
		r := report{}
		if err != nil {
			r.Error = err.Error()
		}
		return errors.Join(err, json.NewEncoder(out).Encode(r))
	}
	held, first, err := lock(o.Folder)
	if err != nil || !first {
		return answer(err)
	}
	defer func() { _ = held.Close() }()
	l, err := listen(o, log)
	if err != nil {
		return answer(err)
	}
	if err := answer(nil); err != nil {
		return errors.Join(err, l.Close())
	}
	return serve(ctx, o, l, open, log)
}

func serve(ctx context.Context, o Order, l *guardedListener, open Open, log *slog.Logger) error {
	// Not ctx: requests under way are answered whatever we are told.
	serving, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	h := newHolder(serving, o, open, log)
	defer h.close()
	go func() {
		defer end()
		for needed(o) && ctx.Err() == nil || l.clients.Load() > 0 {
			select {
			case <-time.After(lookEvery):
			case <-serving.Done():
				return
			}
		}
	}()
	log.Info("serving a point to a VM that was started from it", "point", o.Point, "disks", len(o.Disks))
	err := nbd.Serve(serving, l, h.exports()...)
	log.Info("the export is needed no more", "point", o.Point, "served", h.served.Load())
	return err
}

// needed tells whether somebody may still connect.
func needed(o Order) bool {
	_, neededErr := os.Lstat(neededFile(o.Folder))
	_, socketErr := os.Lstat(Socket(o.Folder))
	return !errors.Is(neededErr, fs.ErrNotExist) && !errors.Is(socketErr, fs.ErrNotExist)
}

// listen makes the socket, which only root and QEMU's user can open. What is there
// under its name is of an export that is gone: we hold the lock.
func listen(o Order, log *slog.Logger) (*guardedListener, error) {
	path := Socket(o.Folder)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("remove an old socket: %w", err)
	}
	l, err := nbd.ListenUnix(path)
	if err != nil {
		return nil, err
	}
	if o.User != os.Geteuid() {
		if err := os.Chown(path, o.User, o.Group); err != nil {
			return nil, errors.Join(fmt.Errorf("give the socket to QEMU: %w", err), l.Close())
		}
	}
	return &guardedListener{Listener: l, user: o.User, log: log}, nil
}

// guardedListener hangs up on everybody but root, its own user and QEMU's, and
// counts who is connected.
type guardedListener struct {
	net.Listener
	user    int
	log     *slog.Logger
	clients atomic.Int64
}

// Accept waits for the next client that may connect.
func (l *guardedListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		user, err := peer(conn)
		if err == nil && l.may(user) {
			l.clients.Add(1)
			return &client{Conn: conn, gone: sync.OnceFunc(func() { l.clients.Add(-1) })}, nil
		}
		l.log.Warn("the export refused a client", "user", user, "error", err)
		_ = conn.Close()
	}
}

func (l *guardedListener) may(user int) bool {
	return user == 0 || user == os.Geteuid() || user == l.user
}

type client struct {
	net.Conn
	gone func()
}

// Close hangs up.
func (c *client) Close() error {
	c.gone()
	return c.Conn.Close()
}

// peer returns the user at the other end of a unix socket.
func peer(conn net.Conn) (int, error) {
	u, ok := conn.(*net.UnixConn)
	if !ok {
		return -1, errors.New("not a unix socket")
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return -1, err
	}
	user := -1
	var askErr error
	err = raw.Control(func(fd uintptr) {
		cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		if askErr = err; err == nil {
			user = int(cred.Uid)
		}
	})
	return user, errors.Join(err, askErr)
}
