// Package idle is an HTTP transport that gives up on a request without progress.
//
// A store on the network may accept a connection and then say nothing for ever.
// A deadline for the whole request would be wrong either way, since an object may
// be one byte or many megabytes; here the clock starts anew with every byte that
// is sent or received.
package idle

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

// ErrStalled is why a request was given up.
var ErrStalled = errors.New("no byte was sent or received for too long")

// Limit is how long a request may be without progress unless said otherwise.
const Limit = 30 * time.Second

// Transport makes requests through another one.
type Transport struct {
	below http.RoundTripper
	limit time.Duration
	roots *x509.CertPool
}

// shared are the transports of this process: units are opened for each piece of
// work, and their connections should outlive it.
var shared struct {
	sync.Mutex
	all []*Transport // guarded by the mutex
}

// New returns a transport that gives up after limit without progress; 0 means
// Limit. Servers must be certified by one of the roots; nil means those of the
// system. It follows the environment's proxies, and is one and the same for all
// who ask for the same.
func New(limit time.Duration, roots *x509.CertPool) *Transport {
	if limit <= 0 {
		limit = Limit
	}
	shared.Lock()
	defer shared.Unlock()
	for _, t := range shared.all {
		if t.limit == limit && (t.roots == nil) == (roots == nil) && (roots == nil || roots.Equal(t.roots)) {
			return t
		}
	}
	t := fresh(limit, roots)
	shared.all = append(shared.all, t)
	return t
}

func fresh(limit time.Duration, roots *x509.CertPool) *Transport {
	return &Transport{limit: limit, roots: roots, below: &http.Transport{
		TLSClientConfig:       &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: min(limit, 10*time.Second), KeepAlive: 15 * time.Second}).DialContext,
		TLSHandshakeTimeout:   min(limit, 10*time.Second),
		ForceAttemptHTTP2:     false, // one connection a request: a stalled one takes no other with it
		MaxIdleConnsPerHost:   64,
		IdleConnTimeout:       90 * time.Second,
		ExpectContinueTimeout: time.Second,
		WriteBufferSize:       64 << 10,
		ReadBufferSize:        64 << 10,
		DisableCompression:    true, // sealed bytes do not compress, and lengths must be exact
	}}
}

// CloseIdleConnections closes what no request uses.
func (t *Transport) CloseIdleConnections() {
	if c, ok := t.below.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

// RoundTrip implements http.RoundTripper. A request that was given up returns an
// error that wraps ErrStalled, from here or from reading the answer's body.
func (t *Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(r.Context())
	w := &watch{limit: t.limit, cancel: cancel}
	w.timer = time.AfterFunc(t.limit, func() { cancel(ErrStalled) })
	r = r.Clone(ctx)
	if r.Body != nil && r.Body != http.NoBody {
		r.Body = &body{ReadCloser: r.Body, watch: w, ctx: ctx}
	}
	answer, err := t.below.RoundTrip(r)
	if err != nil {
		w.stop()
		return nil, why(ctx, err)
	}
	w.moved()
	answer.Body = &body{ReadCloser: answer.Body, watch: w, ctx: ctx, last: true}
	return answer, nil
}

// why replaces the error of a request that was given up.
func why(ctx context.Context, err error) error {
	if err != nil && !errors.Is(err, io.EOF) && errors.Is(context.Cause(ctx), ErrStalled) {
		return ErrStalled
	}
	return err
}

// watch is the clock of one request.
type watch struct {
	limit  time.Duration
	cancel context.CancelCauseFunc

	mu    sync.Mutex
	timer *time.Timer // guarded by mu; nil when the request is over
}

func (w *watch) moved() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.timer != nil {
		w.timer.Reset(w.limit)
	}
}

func (w *watch) stop() {
	w.mu.Lock()
	if w.timer != nil {
		w.timer.Stop()
		w.timer = nil
	}
	w.mu.Unlock()
	w.cancel(nil)
}

// body is a request's or an answer's.
type body struct {
	io.ReadCloser
	watch *watch
	ctx   context.Context
	last  bool // the answer's: the request is over with it
}

func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if n > 0 {
		b.watch.moved()
	}
	return n, why(b.ctx, err)
}

func (b *body) Close() error {
	err := b.ReadCloser.Close()
	if b.last {
		b.watch.stop()
	}
	return err
}
