package link

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/pair"
)

// Client calls the server of another region. It implements pair.Holder; all methods
// may be called concurrently.
type Client struct {
	region  backstay.RegionName
	address string
	http    *http.Client
	tm      timing
}

// connections is how many calls run at once at most; more wait.
const connections = 32

// Dial returns a client of the server of that region at the address, which is known
// by its fingerprint. No connection is made before the first call; Close lets go of
// those that were.
func Dial(id *Identity, region backstay.RegionName, address, fingerprint string) *Client {
	return dial(id, region, address, fingerprint, defaultTiming)
}

func dial(id *Identity, region backstay.RegionName, address, fingerprint string, tm timing) *Client {
	c := &Client{region: region, address: address, tm: tm}
	dialer := &net.Dialer{Timeout: tm.dial, KeepAlive: 15 * time.Second}
	transport := &http.Transport{
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := dialer.DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			return watchedConn{Conn: conn, silence: tm.silence}, nil
		},
		TLSClientConfig: &tls.Config{
			MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{id.certificate},
			// No authority vouches for the other side: the pinned certificate does, and the
			// handshake proves that it has the key.
			InsecureSkipVerify: true,
			VerifyConnection: func(state tls.ConnectionState) error {
				if got := peerOf(state); got != fingerprint {
					return otherServer{got}
				}
				return nil
			},
		},
		TLSHandshakeTimeout: tm.dial, IdleConnTimeout: tm.idle, DisableCompression: true,
		MaxConnsPerHost: connections, MaxIdleConnsPerHost: connections, MaxResponseHeaderBytes: 16 << 10,
		WriteBufferSize: 32 << 10, ReadBufferSize: 64 << 10,
		TLSNextProto: map[string]func(string, *tls.Conn) http.RoundTripper{}, // one call on a connection at a time
	}
	c.http = &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return c
}

// Close lets go of connections that no call uses.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// otherServer: it answered, and is not the one that was paired.
type otherServer struct{ fingerprint string }

func (e otherServer) Error() string {
	return "its certificate has the fingerprint " + e.fingerprint + ", which is not the one that was pinned at pairing"
}

// request is one call.
type request struct {
	method, path string
	query        url.Values
	body         io.Reader
	size         int64
	// data takes the pieces of a stream; nil where none are due.
	data func([]byte) error
}

// question makes a request of a JSON value.
func question(path string, v any) (request, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return request{}, fmt.Errorf("encode the question: %w", err)
	}
	if len(data) > maxRequest {
		return request{}, fmt.Errorf("a question of %d bytes", len(data))
	}
	return request{method: http.MethodPost, path: path, body: bytes.NewReader(data), size: int64(len(data))}, nil
}

// ask makes a call and decodes its result.
func ask[T any](ctx context.Context, c *Client, r request, err error) (T, error) {
	var out T
	if err != nil {
		return out, err
	}
	result, err := c.exchange(ctx, r)
	if err != nil {
		return out, err
	}
	if err := decode(result, &out); err != nil {
		return out, c.away(fmt.Errorf("its answer is none: %w", err))
	}
	return out, nil
}

// exchange makes a call and returns its result.
func (c *Client) exchange(ctx context.Context, r request) (json.RawMessage, error) {
	s, err := c.start(ctx, r)
	if err != nil {
		return nil, err
	}
	defer s.close()
	for {
		data, result, err := s.next()
		switch {
		case err != nil:
			return nil, err
		case data == nil:
			return result, nil
		case r.data == nil:
			return nil, c.away(errors.New("it sent what nobody asked for"))
		}
		if err := r.data(data); err != nil {
			return nil, err
		}
	}
}

// stream is a call whose answer is being read.
type stream struct {
	client *Client
	outer  context.Context // of the caller
	cancel context.CancelCauseFunc
	sent   *sentBody
	watch  *time.Timer
	body   io.Closer
	in     *bufio.Reader
}

var errSlow = errors.New("no answer came in time")

// start sends the request and returns once the answer has begun.
func (c *Client) start(ctx context.Context, r request) (*stream, error) {
	if c.address == "" {
		return nil, backstay.Errorf(backstay.CodeRegionAway, "region %s cannot be called", c.region).
			Becausef("its server did not say where it listens").Do("set pair.address in the configuration of its server, or let that one push")
	}
	inner, cancel := context.WithCancelCause(ctx)
	s := &stream{client: c, outer: ctx, cancel: cancel, body: io.NopCloser(nil)}
	s.watch = time.AfterFunc(c.tm.answer, func() { cancel(errSlow) })
	s.sent = &sentBody{Reader: r.body, size: r.size, begun: s.watch, patience: c.tm.answer}
	url := "https://" + c.address + r.path
	if len(r.query) > 0 {
		url += "?" + r.query.Encode()
	}
	var body io.Reader
	if r.body != nil && r.size > 0 {
		s.watch.Stop() // until the body was sent; a body that does not move is noticed by the connection
		body = s.sent
	}
	req, err := http.NewRequestWithContext(inner, r.method, url, body)
	if err != nil {
		s.close()
		return nil, fmt.Errorf("make the request: %w", err)
	}
	req.ContentLength = r.size
	response, err := c.http.Do(req)
	if err != nil {
		defer s.close()
		return nil, s.failed(err)
	}
	s.body, s.in = response.Body, bufio.NewReaderSize(response.Body, 64<<10)
	if response.StatusCode != http.StatusOK {
		defer s.close()
		return nil, c.away(fmt.Errorf("it answered %d", response.StatusCode))
	}
	return s, nil
}

// next returns the next piece of a stream, or the result.
func (s *stream) next() (data []byte, result json.RawMessage, err error) {
	for {
		kind, body, err := readFrame(s.in)
		if err != nil {
			return nil, nil, s.failed(err)
		}
		switch kind {
		case frameData:
			s.watch.Reset(s.client.tm.answer)
			return append([]byte{}, body...), nil, nil
		case frameOutcome:
			var o outcome
			if err := decode(body, &o); err != nil {
				return nil, nil, s.client.away(fmt.Errorf("its answer is none: %w", err))
			}
			if o.Error != nil {
				return nil, nil, believed(o.Error)
			}
			return nil, o.Result, nil
		}
	}
}

func (s *stream) close() {
	s.watch.Stop()
	s.cancel(context.Canceled)
	_ = s.body.Close() // what is not read is not wanted
}

// failed says why a call came to nothing: the caller ended it, what was to be sent
// could not be read, or the other region is away.
func (s *stream) failed(err error) error {
	if s.outer.Err() != nil {
		return fmt.Errorf("call region %s: %w", s.client.region, context.Cause(s.outer))
	}
	if own := s.sent.err(); own != nil {
		return fmt.Errorf("read what is to be sent: %w", own)
	}
	return s.client.away(err)
}

// away makes an error of what went wrong between here and the other region.
func (c *Client) away(err error) error {
	var other otherServer
	var op *net.OpError
	switch {
	case errors.As(err, &other):
		return backstay.Errorf(backstay.CodePairing, "what answers at %s is not the server of region %s", c.address, c.region).Because(other).
			Do("find out who answers there; if region %s has a new server, pair anew with `backstay region pair --replace %s`", c.region, c.region)
	case errors.As(err, &op) && op.Op == "remote error":
		return backstay.Errorf(backstay.CodePairing, "the server of region %s does not know this one", c.region).Because(err)
	}
	// What http.Client says is `Put "https://…?query": cause`; the query is of no use to anybody.
	var at *url.Error
	if errors.As(err, &at) {
		err = at.Err
	}
	return backstay.Errorf(backstay.CodeRegionAway, "region %s cannot be reached at %s", c.region, c.address).Because(err)
}

// sentBody is the body of a request. It remembers an error of its own, and starts
// the wait for the answer at its end.
type sentBody struct {
	io.Reader
	size     int64 // what it must have
	read     int64
	begun    *time.Timer
	patience time.Duration

	mu  sync.Mutex
	own error // guarded by mu
}

// Read implements io.Reader.
func (b *sentBody) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	b.read += int64(n)
	if b.read > b.size || errors.Is(err, io.EOF) && b.read < b.size {
		n, err = 0, fmt.Errorf("it has not the %d bytes that it should have", b.size)
	}
	if err != nil {
		b.begun.Reset(b.patience)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.own = err
	}
	return n, err
}

func (b *sentBody) err() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.own
}

// Hello tells the other server what this one is, and returns what that one is. It is
// how one sees whether it is there.
func (c *Client) Hello(ctx context.Context, g Greeting) (Greeting, error) {
	r, err := question(pathHello, g)
	return ask[Greeting](ctx, c, r, err)
}

// Join asks the server that made the token to be paired with this one, whose
// greeting is given. The server that answers is the one of the token, or it is an
// error; asking again with the same token is not.
func Join(ctx context.Context, id *Identity, t Token, g Greeting) (Greeting, error) {
	c := Dial(id, t.Region, t.Address, t.Fingerprint)
	defer c.Close()
	r, err := question(pathJoin, joinRequest{Token: t, Greeting: g})
	return ask[Greeting](ctx, c, r, err)
}

// Offer implements pair.Holder.
func (c *Client) Offer(ctx context.Context, o pair.Offer) (pair.Held, error) {
	r, err := question(pathOffer, o)
	return ask[pair.Held](ctx, c, r, err)
}

// Lacks implements pair.Holder. Names that were not asked for are an error.
func (c *Client) Lacks(ctx context.Context, vault string, objects []pair.Object) ([]string, error) {
	if len(objects) > pair.MaxAsked {
		return nil, fmt.Errorf("ask for %d objects: at most %d at a time", len(objects), pair.MaxAsked)
	}
	q := lacksRequest{Vault: vault}
	for _, o := range objects {
		q.Objects = append(q.Objects, toWire(o))
	}
	r, err := question(pathLacks, q)
	lacks, err := ask[[]string](ctx, c, r, err)
	if err != nil {
		return nil, err
	}
	next := 0
	for _, name := range lacks {
		for next < len(objects) && objects[next].Name != name {
			next++
		}
		if next == len(objects) {
			return nil, c.away(errors.New("it lacks what it was not asked for, or names it in another order"))
		}
		next++
	}
	return lacks, nil
}

// Put implements pair.Holder.
func (c *Client) Put(ctx context.Context, vault string, o pair.Object, content io.Reader) error {
	if o.Size < 0 || o.Size > pair.MaxObject {
		return fmt.Errorf("put %s: an object of %d bytes", o.Name, o.Size)
	}
	_, err := c.exchange(ctx, request{
		method: http.MethodPut, path: pathPut, body: content, size: o.Size,
		query: url.Values{"vault": {vault}, "name": {o.Name}, "size": {strconv.FormatInt(o.Size, 10)}, "sum": {hex.EncodeToString(o.Sum[:])}},
	})
	return err
}

// Complete implements pair.Holder.
func (c *Client) Complete(ctx context.Context, vault string, point backstay.PointID, manifest []byte) error {
	if len(manifest) > pair.MaxObject {
		return fmt.Errorf("complete point %s: a manifest of %d bytes", point, len(manifest))
	}
	_, err := c.exchange(ctx, request{
		method: http.MethodPut, path: pathComplete, body: bytes.NewReader(manifest), size: int64(len(manifest)),
		query: url.Values{"vault": {vault}, "point": {string(point)}},
	})
	return err
}

// List implements pair.Holder.
func (c *Client) List(ctx context.Context, vault string, fn func(pair.Object) error) error {
	_, err := c.exchange(ctx, request{
		method: http.MethodGet, path: pathList, query: url.Values{"vault": {vault}},
		data: func(data []byte) error {
			var batch []wireObject
			if err := decode(data, &batch); err != nil {
				return c.away(fmt.Errorf("its list is none: %w", err))
			}
			for _, w := range batch {
				o, err := w.object()
				if err != nil {
					return c.away(fmt.Errorf("its list is none: %w", err))
				}
				if err := fn(o); err != nil {
					return err
				}
			}
			return nil
		},
	})
	return err
}

// Get implements pair.Holder. What it reads is no more than an object can have; that it
// is the right one is for the caller to prove.
func (c *Client) Get(ctx context.Context, vault string, name string) (io.ReadCloser, error) {
	s, err := c.start(ctx, request{method: http.MethodGet, path: pathGet, query: url.Values{"vault": {vault}, "name": {name}}})
	if err != nil {
		return nil, err
	}
	r := &getReader{stream: s}
	// The first piece is waited for, so that an object that is not there is an error here.
	if err := r.fill(); err != nil && !errors.Is(err, io.EOF) {
		s.close()
		return nil, err
	}
	return r, nil
}

// getReader reads one object.
type getReader struct {
	stream *stream
	rest   []byte
	read   int64
	err    error
}

func (r *getReader) fill() error {
	data, _, err := r.stream.next()
	r.read += int64(len(data))
	switch {
	case err != nil:
		r.err = err
	case data == nil:
		r.err = io.EOF
	case r.read > pair.MaxObject:
		r.err = r.stream.client.away(errors.New("it sent more than an object can have"))
	default:
		r.rest = data
	}
	return r.err
}

// Read implements io.Reader.
func (r *getReader) Read(p []byte) (int, error) {
	for len(r.rest) == 0 {
		if r.err != nil {
			return 0, r.err
		}
		if err := r.fill(); err != nil {
			return 0, err
		}
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// Close implements io.Closer.
func (r *getReader) Close() error {
	r.stream.close()
	return nil
}

// Vaults implements pair.Holder.
func (c *Client) Vaults(ctx context.Context) ([]pair.Offer, error) {
	return ask[[]pair.Offer](ctx, c, request{method: http.MethodGet, path: pathVaults}, nil)
}

var _ pair.Holder = (*Client)(nil)
