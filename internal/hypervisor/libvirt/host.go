// Package libvirt is hypervisor.Host over libvirt's own protocol, in pure Go. It
// must run on the host whose libvirt it talks to: it reads image headers and
// folders by the paths that libvirt names.
//
// The connection is kept up in the background. While libvirt does not answer,
// every call fails with hypervisor.ErrAway at once, and a call that libvirt lets
// wait beyond reason ends the connection: a hung libvirtd never hangs us.
//
// It knows nothing of points and layers, and does no work on image files.
package libvirt

import (
	"context"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/digitalocean/go-libvirt"
	"github.com/digitalocean/go-libvirt/socket/dialers"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
)

// Options are what a Host may be told beyond its URI.
type Options struct {
	// Log gets what happens to the connection; nil means nothing is logged.
	Log *slog.Logger
	// Pools are folders that the configuration names as pools, beside libvirt's
	// own. Their Available is filled in.
	Pools []backstay.Pool
	// Size asks how many bytes an image on the network has, by its location; nil
	// refuses disks on the network. It is not called before Open returns.
	Size func(ctx context.Context, location string) (int64, error)
}

// How long libvirt may take. Its own wait for a VM's lock is 30 s, so no call
// that needs one is cut off before that.
const (
	dialPatience  = 5 * time.Second
	openPatience  = 20 * time.Second
	callPatience  = 60 * time.Second
	startPatience = 5 * time.Minute // a VM with much memory, or swtpm's first set-up
	sizePatience  = 5 * time.Second // for an NBD server that takes no further client
	pingEvery     = 30 * time.Second
	firstRetry    = 100 * time.Millisecond
	lastRetry     = 5 * time.Second
)

// Host is one libvirt. All methods may be called concurrently.
type Host struct {
	uri   *url.URL
	log   *slog.Logger
	pools []backstay.Pool
	size  func(ctx context.Context, location string) (int64, error)

	ctx    context.Context // of the background work; ends with Close
	cancel context.CancelFunc
	work   sync.WaitGroup // Add only under mu while !closed

	mu       sync.Mutex
	current  *connection       // guarded by mu; nil while libvirt is away
	closed   bool              // guarded by mu
	watchers map[*watcher]bool // guarded by mu
}

var _ hypervisor.Host = (*Host)(nil)

// Open returns the host behind a libvirt URI: qemu:///system, with ?socket=PATH
// if need be, or qemu+tcp://HOST:PORT/system. It fails only for a URI that
// cannot be understood; it waits a moment for the first connection, and if
// libvirt is down goes on trying in the background.
func Open(ctx context.Context, uri string, o Options) (*Host, error) {
	u, err := url.Parse(uri)
	if err == nil {
		_, _, err = address(u)
	}
	if err != nil {
		return nil, backstay.Errorf(backstay.CodeConfig, "libvirt URI %q cannot be used", uri).Because(err)
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	h := &Host{uri: u, log: o.Log.With("libvirt", u.Redacted()), pools: o.Pools, size: o.Size, watchers: map[*watcher]bool{}}
	h.ctx, h.cancel = context.WithCancel(context.WithoutCancel(ctx))
	tried := make(chan struct{})
	h.work.Go(func() { h.keepConnected(tried) })
	select {
	case <-tried:
	case <-ctx.Done():
	case <-time.After(dialPatience):
	}
	return h, nil
}

// Close ends the connection; calls under way fail with hypervisor.ErrAway. It
// returns when nothing of the host runs any more.
func (h *Host) Close() error {
	h.mu.Lock()
	h.closed = true
	if h.current != nil {
		h.current.kill()
	}
	h.mu.Unlock()
	h.cancel()
	h.work.Wait()
	return nil
}

// address returns the network and address that a URI names.
func address(u *url.URL) (network, addr string, err error) {
	switch u.Scheme {
	case "qemu", "qemu+unix":
		if u.Host != "" {
			return "", "", fmt.Errorf("a host name needs qemu+tcp")
		}
		if s := u.Query().Get("socket"); s != "" {
			return "unix", s, nil
		}
		if u.Path != "/system" {
			return "", "", fmt.Errorf("path %q: give ?socket=PATH for anything but /system", u.Path)
		}
		return "unix", "/var/run/libvirt/libvirt-sock", nil
	case "qemu+tcp":
		port := u.Port()
		if port == "" {
			port = "16509"
		}
		return "tcp", net.JoinHostPort(u.Hostname(), port), nil
	}
	return "", "", fmt.Errorf("scheme %q is not one of qemu, qemu+unix and qemu+tcp", u.Scheme)
}

// connection is one connection to libvirt. When it is dead another is made.
type connection struct {
	l    *libvirt.Libvirt
	conn *watchedConn
}

// kill ends the connection without asking libvirt, which may not answer: every
// call that waits returns.
func (c *connection) kill() { _ = c.conn.Close() }

// watchedConn tells when it has ended. go-libvirt's own sign of that is written
// while others read it.
type watchedConn struct {
	net.Conn
	once sync.Once
	dead chan struct{}
}

func (w *watchedConn) Read(p []byte) (int, error) {
	n, err := w.Conn.Read(p)
	if err != nil {
		w.once.Do(func() { close(w.dead) })
	}
	return n, err
}

func (h *Host) connect() (*connection, error) {
	network, addr, err := address(h.uri)
	if err != nil {
		return nil, err
	}
	dialer := net.Dialer{Timeout: dialPatience}
	raw, err := dialer.DialContext(h.ctx, network, addr)
	if err != nil {
		return nil, err
	}
	w := &watchedConn{Conn: raw, dead: make(chan struct{})}
	c := &connection{l: libvirt.NewWithDialer(dialers.NewAlreadyConnected(w)), conn: w}
	dog := time.AfterFunc(openPatience, c.kill)
	defer dog.Stop()
	stop := context.AfterFunc(h.ctx, c.kill)
	defer stop()
	if err := c.l.ConnectToURI(libvirt.RemoteURI(h.uri)); err != nil {
		c.kill()
		return nil, fmt.Errorf("open %s: %w", libvirt.RemoteURI(h.uri), err)
	}
	if err := h.subscribe(c); err != nil {
		c.kill()
		return nil, fmt.Errorf("subscribe to events: %w", err)
	}
	return c, nil
}

// keepConnected connects, again and again. tried is closed after the first trial.
func (h *Host) keepConnected(tried chan struct{}) {
	retry := firstRetry
	for said := false; h.ctx.Err() == nil; {
		c, err := h.connect()
		if err == nil && !h.use(c) {
			c.kill()
		}
		if tried != nil {
			close(tried)
			tried = nil
		}
		if err != nil {
			if !said {
				h.log.Warn("libvirt does not answer; trying on", "error", err)
				said = true
			}
			select {
			case <-time.After(retry):
			case <-h.ctx.Done():
			}
			retry = min(2*retry, lastRetry)
			continue
		}
		h.log.Info("connected to libvirt")
		h.stayConnected(c)
		said, retry = false, firstRetry
	}
}

// use makes a connection the current one.
func (h *Host) use(c *connection) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return false
	}
	h.current = c
	h.emit(hypervisor.Event{Kind: hypervisor.EventUp})
	return true
}

// stayConnected returns when the connection is dead. It asks libvirt something
// now and then, to notice a dead peer.
func (h *Host) stayConnected(c *connection) {
	tick := time.NewTicker(pingEvery)
	defer tick.Stop()
	for alive := true; alive; {
		select {
		case <-c.conn.dead:
			alive = false
		case <-tick.C:
			_, _ = call(h.ctx, h, callPatience, func(l *libvirt.Libvirt) (uint64, error) { return l.ConnectGetLibVersion() })
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.current = nil
	h.emit(hypervisor.Event{Kind: hypervisor.EventDown})
	if !h.closed {
		h.log.Warn("the connection to libvirt was lost")
	}
}

// call runs fn, which may ask libvirt several things, on the current connection.
// When fn takes longer than patience the connection is ended, and fn with it.
// When ctx ends first the call returns and fn's outcome is nobody's: whoever
// must know it passes a context that does not end.
func call[T any](ctx context.Context, h *Host, patience time.Duration, fn func(*libvirt.Libvirt) (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	var zero T
	if err := ctx.Err(); err != nil {
		return zero, err
	}
	done := make(chan result, 1)
	h.mu.Lock()
	c := h.current
	if c == nil || h.closed {
		h.mu.Unlock()
		return zero, hypervisor.ErrAway
	}
	h.work.Go(func() {
		dog := time.AfterFunc(patience, c.kill)
		defer dog.Stop()
		value, err := fn(c.l)
		done <- result{value, err}
	})
	h.mu.Unlock()
	select {
	case r := <-done:
		return r.value, translate(r.err)
	case <-ctx.Done():
		return zero, ctx.Err()
	}
}

// do is call for what has no value.
func (h *Host) do(ctx context.Context, patience time.Duration, fn func(*libvirt.Libvirt) error) error {
	_, err := call(ctx, h, patience, func(l *libvirt.Libvirt) (struct{}, error) { return struct{}{}, fn(l) })
	return err
}

// lookup finds a VM.
func lookup(l *libvirt.Libvirt, id backstay.VMID) (libvirt.Domain, error) {
	uuid, err := parseUUID(id)
	if err != nil {
		return libvirt.Domain{}, err
	}
	return l.DomainLookupByUUID(uuid)
}

func parseUUID(id backstay.VMID) (libvirt.UUID, error) {
	var u libvirt.UUID
	b, err := hex.DecodeString(strings.ReplaceAll(string(id), "-", ""))
	if err != nil || len(b) != len(u) {
		return u, fmt.Errorf("VM id %q is not a UUID: %w", id, hypervisor.ErrNoVM)
	}
	copy(u[:], b)
	return u, nil
}

func vmID(u libvirt.UUID) backstay.VMID {
	return backstay.VMID(fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:]))
}
