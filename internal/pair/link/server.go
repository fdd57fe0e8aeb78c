package link

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"strconv"
	"sync"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/pair"
)

// ServerOptions are what the server of a link is made of; all are required.
type ServerOptions struct {
	Identity *Identity
	// Known returns the region of which the certificate is pinned; "" if there is none.
	Known func(ctx context.Context, fingerprint string) (backstay.RegionName, error)
	// Strangers tells whether anybody but known regions may try to join, because a token
	// may be out.
	Strangers func() bool
	// Join pairs with a server that has a token, or refuses.
	Join func(ctx context.Context, fingerprint string, t Token, g Greeting) (Greeting, error)
	// Hello takes and returns a greeting.
	Hello func(ctx context.Context, region backstay.RegionName, g Greeting) (Greeting, error)
	// Holder returns what holds the vaults of a region.
	Holder func(region backstay.RegionName) (pair.Holder, error)
	Log    *slog.Logger
}

// Bounds of what is served at a time.
const (
	maxConnections = 256 // of all, also before they said who they are
	maxCalls       = 64  // of one region
	maxHeader      = 16 << 10
)

// server answers the calls of other regions.
type server struct {
	ServerOptions
	tm timing

	mu    sync.Mutex
	calls map[backstay.RegionName]int // guarded by mu
}

// Serve answers on the listener until ctx ends; calls that run then get some seconds.
// It closes the listener, and returns nil after a stop that was asked for.
func Serve(ctx context.Context, l net.Listener, o ServerOptions) error {
	return serve(ctx, l, o, defaultTiming)
}

func serve(ctx context.Context, l net.Listener, o ServerOptions, tm timing) error {
	s := &server{ServerOptions: o, tm: tm, calls: map[backstay.RegionName]int{}}
	base, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	srv := &http.Server{
		Handler:           http.HandlerFunc(s.handle),
		ReadHeaderTimeout: tm.dial, IdleTimeout: 4 * tm.silence, MaxHeaderBytes: maxHeader,
		ErrorLog:     slog.NewLogLogger(o.Log.Handler(), slog.LevelDebug),
		BaseContext:  func(net.Listener) context.Context { return base },
		TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){},
	}
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(tls.NewListener(newBounded(l, maxConnections), s.tls())) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	time.AfterFunc(4*time.Second, stop) // what cannot end in time is told to
	err := srv.Shutdown(grace)
	if err != nil {
		err = srv.Close()
	}
	if served := <-failed; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}

func (s *server) tls() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{s.Identity.certificate},
		ClientAuth: tls.RequireAnyClientCert, SessionTicketsDisabled: true,
		// Whose it is, each call asks anew: a handshake that failed for that would often
		// reach the other side as a broken connection only.
	}
}

// call is one call while it is served. Its goroutines are its own.
type call struct {
	s      *server
	w      http.ResponseWriter
	r      *http.Request
	rc     *http.ResponseController
	region backstay.RegionName

	mu   sync.Mutex // held while a frame is written
	gone error      // guarded by mu: the other side takes nothing any more
}

// handle serves one call, whatever it is.
func (s *server) handle(w http.ResponseWriter, r *http.Request) {
	c := &call{s: s, w: w, r: r, rc: http.NewResponseController(w)}
	body := &watchedBody{ReadCloser: r.Body, call: c, ended: make(chan struct{})}
	if r.Body == http.NoBody {
		body.once.Do(func() { close(body.ended) })
	}
	r.Body = body
	w.Header().Set("Content-Type", "application/octet-stream")
	if err := c.rc.EnableFullDuplex(); err != nil { // else a sign of life would close the request's body
		panic(http.ErrAbortHandler)
	}
	done := make(chan struct{})
	var signs sync.WaitGroup
	signs.Go(func() { c.signs(body.ended, done) })
	result, err := c.guarded()
	if err != nil {
		s.Log.Debug("call of a region failed", "region", c.region, "call", r.URL.Path, "error", err)
	}
	// An answer before the end of the request would be lost; objects are bounded, so
	// the rest of one that is refused can be taken.
	most := int64(pair.MaxObject)
	if c.region == "" {
		most = maxRequest
		w.Header().Set("Connection", "close")
	}
	if _, drained := io.Copy(io.Discard, http.MaxBytesReader(nil, r.Body, most)); drained != nil {
		close(done)
		signs.Wait()
		panic(http.ErrAbortHandler)
	}
	close(done)
	signs.Wait()
	c.end(result, err)
}

// guarded makes the call; one that panics fails like any other.
func (c *call) guarded() (result any, err error) {
	defer func() {
		if p := recover(); p != nil {
			c.s.Log.Error("call of a region panicked", "call", c.r.URL.Path, "panic", p, "stack", string(debug.Stack()))
			err = backstay.Errorf(backstay.CodeInternal, "something went wrong inside backstay")
		}
	}()
	fingerprint := peerOf(*c.r.TLS)
	if c.r.URL.Path == pathJoin && c.s.Strangers() {
		var q joinRequest
		if err := c.read(&q); err != nil {
			return nil, err
		}
		return c.s.Join(c.r.Context(), fingerprint, q.Token, q.Greeting)
	}
	// Asked anew for each call: a region that was unpaired has its connections still.
	c.region, err = c.s.Known(c.r.Context(), fingerprint)
	if err != nil {
		return nil, err
	}
	if c.region == "" {
		return nil, backstay.Errorf(backstay.CodePairing, "this server is not paired with the one that calls")
	}
	leave, err := c.s.enter(c.region)
	if err != nil {
		return nil, err
	}
	defer leave()
	return c.dispatch()
}

// enter counts a call of a region until leave is called.
func (s *server) enter(region backstay.RegionName) (leave func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.calls[region] >= maxCalls {
		return nil, backstay.Errorf(backstay.CodeRegionAway, "the other region's server has enough to do").Becausef("%d calls of this region run there", maxCalls)
	}
	s.calls[region]++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.calls[region]--
	}, nil
}

func (c *call) dispatch() (any, error) {
	ctx, query := c.r.Context(), c.r.URL.Query()
	if c.r.URL.Path == pathHello {
		var g Greeting
		if err := c.read(&g); err != nil {
			return nil, err
		}
		return c.s.Hello(ctx, c.region, g)
	}
	h, err := c.s.Holder(c.region)
	if err != nil {
		return nil, err
	}
	vault := query.Get("vault")
	switch c.r.URL.Path {
	case pathPut, pathComplete, pathList, pathGet:
		if !validName(vault) {
			return nil, refused("the vault's id is none")
		}
	}
	switch c.r.URL.Path {
	case pathOffer:
		var o pair.Offer
		if err := c.read(&o); err != nil {
			return nil, err
		}
		return h.Offer(ctx, o)
	case pathLacks:
		return c.lacks(h)
	case pathPut:
		return nil, c.put(h, vault)
	case pathComplete:
		return nil, c.complete(h, vault)
	case pathList:
		return nil, c.list(h, vault)
	case pathGet:
		return nil, c.get(h, vault)
	case pathVaults:
		return h.Vaults(ctx)
	}
	return nil, backstay.Errorf(backstay.CodeUsage, "there is no such call").Becausef("the other region's release may be an older one").
		Do("bring both regions to one release")
}

// refused makes the error of a call that no server of ours makes.
func refused(format string, args ...any) error {
	return backstay.Errorf(backstay.CodeReplicaRefused, "what came is not what it should be").Becausef(format, args...)
}

// read decodes the request's JSON.
func (c *call) read(into any) error {
	data, err := io.ReadAll(http.MaxBytesReader(nil, c.r.Body, maxRequest))
	if err != nil {
		return refused("the request cannot be read: %v", err)
	}
	if err := decode(data, into); err != nil {
		return refused("the request is none: %v", err)
	}
	return nil
}

func (c *call) lacks(h pair.Holder) (any, error) {
	var q lacksRequest
	if err := c.read(&q); err != nil {
		return nil, err
	}
	if !validName(q.Vault) || len(q.Objects) > pair.MaxAsked {
		return nil, refused("%d objects of the vault %q", len(q.Objects), q.Vault)
	}
	objects := make([]pair.Object, len(q.Objects))
	for i, w := range q.Objects {
		var err error
		if objects[i], err = w.object(); err != nil {
			return nil, refused("%v", err)
		}
	}
	lacks, err := h.Lacks(c.r.Context(), q.Vault, objects)
	if lacks == nil {
		lacks = []string{}
	}
	return lacks, err
}

func (c *call) put(h pair.Holder, vault string) error {
	query := c.r.URL.Query()
	size, err := strconv.ParseInt(query.Get("size"), 10, 64)
	if err != nil || size != c.r.ContentLength {
		return refused("the size %q of an object is not that of the request, %d", query.Get("size"), c.r.ContentLength)
	}
	o, err := wireObject{Name: query.Get("name"), Size: size, Sum: query.Get("sum")}.object()
	if err != nil {
		return refused("%v", err)
	}
	return h.Put(c.r.Context(), vault, o, c.r.Body)
}

func (c *call) complete(h pair.Holder, vault string) error {
	point := c.r.URL.Query().Get("point")
	if !validName(point) {
		return refused("the point's id is none")
	}
	manifest, err := io.ReadAll(http.MaxBytesReader(nil, c.r.Body, pair.MaxObject))
	if err != nil {
		return refused("the manifest cannot be read: %v", err)
	}
	return h.Complete(c.r.Context(), vault, backstay.PointID(point), manifest)
}

func (c *call) list(h pair.Holder, vault string) error {
	var batch []wireObject
	send := func() error {
		data, err := json.Marshal(batch)
		batch = batch[:0]
		if err != nil {
			return fmt.Errorf("encode the list: %w", err)
		}
		return c.frame(frameData, data)
	}
	err := h.List(c.r.Context(), vault, func(o pair.Object) error {
		batch = append(batch, toWire(o))
		if len(batch) < maxListed {
			return nil
		}
		return send()
	})
	if err == nil && len(batch) > 0 {
		err = send()
	}
	return err
}

func (c *call) get(h pair.Holder, vault string) error {
	name := c.r.URL.Query().Get("name")
	if !validName(name) {
		return refused("the object's name is none")
	}
	content, err := h.Get(c.r.Context(), vault, name)
	if err != nil {
		return err
	}
	defer content.Close()
	piece := make([]byte, 256<<10)
	for {
		n, err := content.Read(piece)
		if n > 0 {
			if err := c.frame(frameData, piece[:n]); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read object %q: %w", name, err)
		}
	}
}
