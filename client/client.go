// Package client calls the HTTP API of a region. The command line and the
// tests use nothing else, so everything that they can do, a script in Go can.
//
// Every error that comes back is a *backstay.Error: the server's own, or
// server-unreachable. It retries nothing, except that a stream of a job's
// changes is taken up again where the connection broke.
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/api"
)

// Client calls one server. It may be used concurrently.
type Client struct {
	base  string
	token string
	http  *http.Client
	slow  *http.Client // waits for an answer as long as its caller
	// pause is the time before the first new try of a broken stream.
	pause time.Duration
}

// New makes a client of the server at an address (http://HOST:PORT), with a token.
func New(server, token string) *Client {
	return &Client{
		base: strings.TrimRight(server, "/"), token: token, pause: 500 * time.Millisecond,
		http: caller(3 * time.Minute), slow: caller(0),
	}
}

// caller waits so long for the head of an answer; 0 means as long as the request lives.
func caller(patience time.Duration) *http.Client {
	return &http.Client{
		Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, DialContext: (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
			ResponseHeaderTimeout: patience, IdleConnTimeout: time.Minute, MaxIdleConnsPerHost: 8, DisableCompression: true},
		// A redirect could carry the token to another server.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// Server is the address of the server that is called.
func (c *Client) Server() string { return c.base }

// Close gives up idle connections.
func (c *Client) Close() {
	c.http.CloseIdleConnections()
	c.slow.CloseIdleConnections()
}

// do sends a request and decodes the answer into out, unless out is nil.
func (c *Client) do(ctx context.Context, method, path string, in, out any) error {
	resp, err := c.send(ctx, method, path, in, "application/json")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if out == nil {
		return nil
	}
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		return c.broken(ctx, fmt.Errorf("decode the answer to %s %s: %w", method, path, err))
	}
	return nil
}

// send returns the response if it is a success; the caller closes its body. headers
// are names and values by turns.
func (c *Client) send(ctx context.Context, method, path string, in any, accept string, headers ...string) (*http.Response, error) {
	var body io.Reader
	if in != nil {
		data, err := json.Marshal(in)
		if err != nil {
			return nil, fmt.Errorf("encode the request: %w", err)
		}
		body = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, body)
	if err != nil {
		return nil, backstay.Errorf(backstay.CodeUsage, "%q is not the address of a server", c.base).Because(err).Do("say http://HOST:PORT")
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	req.Header.Set("Accept", accept)
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.broken(ctx, err)
	}
	if resp.StatusCode < 300 {
		return resp, nil
	}
	defer resp.Body.Close()
	return nil, c.refused(resp)
}

// broken is the error of a connection that could not be made or that broke.
func (c *Client) broken(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var outer *url.Error
	if errors.As(err, &outer) {
		err = outer.Err // without the URL, which the message has
	}
	return backstay.Errorf(backstay.CodeServerAway, "the server at %s does not answer", c.base).Because(err)
}

// refused decodes the error in an answer. What is not the API's own form comes
// from something between us and the server, or from another server.
func (c *Client) refused(resp *http.Response) error {
	data, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<20)) // a cut-off body is no JSON, and said below
	var body api.ErrorResponse
	if err := json.Unmarshal(data, &body); err != nil || body.Error.Code == "" {
		return backstay.Errorf(backstay.CodeServerAway, "what answers at %s is not a backstay server", c.base).
			Becausef("it answered with status %s", resp.Status)
	}
	e := body.Error
	if e.Kind == "" {
		e.Kind = backstay.KindFailed
		if known, ok := backstay.Codes()[e.Code]; ok {
			e.Kind = known.Kind
		}
	}
	return &e
}

func get[T any](ctx context.Context, c *Client, path string) (T, error) {
	var out T
	err := c.do(ctx, http.MethodGet, path, nil, &out)
	return out, err
}

func post[T any](ctx context.Context, c *Client, path string, in any) (T, error) {
	var out T
	err := c.do(ctx, http.MethodPost, path, in, &out)
	return out, err
}
