// Package transit is a key service in the transit engine of HashiCorp Vault or
// OpenBao, over HTTP. The key's type must take associated data, as aes256-gcm96
// (the engine's default), aes128-gcm96 and chacha20-poly1305 do.
//
// It signs in with a token, or with the role id and secret id of an AppRole.
package transit

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/keyring"
)

// patience bounds one request; maxAnswer the bytes of its answer.
const (
	patience  = 10 * time.Second
	maxAnswer = 1 << 20
)

// Options say where the engine is, and who asks.
type Options struct {
	URL   string // of the server: https://vault.example:8200
	Mount string // of the engine; "" means transit
	Key   string // name of the key in it
	// Credential is a token; or, in two lines, an AppRole's role id and secret id.
	Credential backstay.Secret
	CA         []byte // PEM; nil means the machine's own
}

// Service is a key service in a transit engine.
type Service struct {
	base, mount, key string
	credential       []string // a token, or role id and secret id
	http             *http.Client

	mu    sync.Mutex
	token string // of an AppRole's sign-in; guarded by mu
}

var _ keyring.Service = (*Service)(nil)

// New returns the service; it connects to nothing yet.
func New(o Options) (*Service, error) {
	u, err := url.Parse(o.URL)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil {
		return nil, fmt.Errorf("key service address %q: want http://… or https://…, without a credential in it", o.URL)
	}
	if o.Mount == "" {
		o.Mount = "transit"
	}
	for what, name := range map[string]string{"mount": o.Mount, "key name": o.Key} {
		if name == "" || strings.HasPrefix(name, ".") || strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.") != "" {
			return nil, fmt.Errorf("%s %q: want letters, digits, hyphens, underscores and dots", what, name)
		}
	}
	lines := strings.Fields(string(o.Credential.Reveal()))
	if len(lines) != 1 && len(lines) != 2 {
		return nil, errors.New("the credential is neither a token nor a role id and a secret id in two lines")
	}
	transport := &http.Transport{Proxy: http.ProxyFromEnvironment, IdleConnTimeout: time.Minute, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12}}
	if len(o.CA) > 0 {
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(o.CA) {
			return nil, errors.New("the CA file holds no certificate")
		}
		transport.TLSClientConfig.RootCAs = pool
	}
	return &Service{
		base: strings.TrimRight(o.URL, "/") + "/v1/", mount: o.Mount, key: o.Key, credential: lines,
		http: &http.Client{Transport: transport, Timeout: patience, CheckRedirect: sameHost},
	}, nil
}

// sameHost follows a standby server's word on who is active no further than one
// step, and never from https to http: the credential would go along.
func sameHost(req *http.Request, via []*http.Request) error {
	if len(via) > 1 || via[0].URL.Scheme == "https" && req.URL.Scheme != "https" {
		return errors.New("the key service redirects too far")
	}
	return nil
}

// Check wraps and unwraps a probe.
func (s *Service) Check(ctx context.Context) error { return keyring.Probe(ctx, s) }

// answer is what the server says.
type answer struct {
	Data struct {
		Ciphertext string `json:"ciphertext"`
		Plaintext  string `json:"plaintext"`
	} `json:"data"`
	Auth struct {
		ClientToken string `json:"client_token"`
	} `json:"auth"`
	Errors []string `json:"errors"`
}

// Wrap lets the engine encrypt a value with the newest version of the key.
func (s *Service) Wrap(ctx context.Context, value backstay.Secret, about string) (string, error) {
	a, err := s.ask(ctx, "encrypt", map[string]string{"plaintext": encode(value.Reveal()), "associated_data": encode([]byte(about))})
	if err != nil {
		return "", fmt.Errorf("wrap: %w", err)
	}
	if a.Data.Ciphertext == "" {
		return "", fmt.Errorf("wrap: %w: its answer holds nothing", keyring.ErrServiceAway)
	}
	return a.Data.Ciphertext, nil
}

// Unwrap lets the engine decrypt what it encrypted.
func (s *Service) Unwrap(ctx context.Context, wrapped, about string) (backstay.Secret, error) {
	a, err := s.ask(ctx, "decrypt", map[string]string{"ciphertext": wrapped, "associated_data": encode([]byte(about))})
	if err != nil {
		return backstay.Secret{}, fmt.Errorf("unwrap: %w", err)
	}
	value, err := base64.StdEncoding.DecodeString(a.Data.Plaintext)
	if err != nil {
		return backstay.Secret{}, fmt.Errorf("unwrap: %w: its answer cannot be read", keyring.ErrServiceAway)
	}
	return backstay.NewSecret(value), nil
}

func encode(b []byte) string { return base64.StdEncoding.EncodeToString(b) }

// ask makes one request of the engine, and signs in anew once if a token of an
// AppRole has ended.
func (s *Service) ask(ctx context.Context, verb string, body map[string]string) (answer, error) {
	path := s.mount + "/" + verb + "/" + s.key
	token, fresh, err := s.signIn(ctx, "")
	if err != nil {
		return answer{}, err
	}
	a, err := s.post(ctx, path, token, body)
	if errors.Is(err, errForbidden) && !fresh && len(s.credential) == 2 {
		if token, _, err = s.signIn(ctx, token); err != nil {
			return answer{}, err
		}
		a, err = s.post(ctx, path, token, body)
	}
	return a, err
}

// signIn returns the token; that of an AppRole is asked for where there is none
// yet, or only the one that has ended. fresh says that it was made now.
func (s *Service) signIn(ctx context.Context, ended string) (token string, fresh bool, err error) {
	if len(s.credential) == 1 {
		return s.credential[0], true, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.token != "" && s.token != ended {
		return s.token, false, nil
	}
	a, err := s.post(ctx, "auth/approle/login", "", map[string]string{"role_id": s.credential[0], "secret_id": s.credential[1]})
	if errors.Is(err, keyring.ErrForged) { // a wrong id is a bad request
		err = fmt.Errorf("%w: the role id or the secret id is not taken", keyring.ErrServiceDenied)
	}
	if err != nil {
		return "", false, fmt.Errorf("sign in: %w", err)
	}
	s.token = a.Auth.ClientToken
	return s.token, true, nil
}

// errForbidden: the token has ended, or may not do this.
var errForbidden = fmt.Errorf("%w: the credential is not taken, or may not use the key", keyring.ErrServiceDenied)

func (s *Service) post(ctx context.Context, path, token string, body map[string]string) (answer, error) {
	data, err := json.Marshal(body)
	if err != nil {
		return answer{}, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.base+path, bytes.NewReader(data))
	if err != nil {
		return answer{}, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-Vault-Request", "true")
	if token != "" {
		req.Header.Set("X-Vault-Token", token)
	}
	res, err := s.http.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return answer{}, ctx.Err()
		}
		return answer{}, fmt.Errorf("%w: %w", keyring.ErrServiceAway, err)
	}
	defer res.Body.Close()
	var a answer
	decodeErr := json.NewDecoder(io.LimitReader(res.Body, maxAnswer)).Decode(&a)
	if res.StatusCode == http.StatusOK && decodeErr != nil {
		return answer{}, fmt.Errorf("%w: its answer cannot be read: %w", keyring.ErrServiceAway, decodeErr)
	}
	return a, refusal(res.StatusCode, a.Errors)
}

// refusal says what a status means. The engine's own words are few, and hold
// nothing of the request.
func refusal(status int, words []string) error {
	said := strings.Join(words, "; ")
	switch {
	case status == http.StatusOK:
		return nil
	case status == http.StatusForbidden || status == http.StatusUnauthorized:
		return errForbidden
	case status == http.StatusNotFound:
		return fmt.Errorf("%w: it has no such engine or key", keyring.ErrServiceDenied)
	case status == http.StatusBadRequest && keyGone(said):
		return fmt.Errorf("%w: %s", keyring.ErrServiceDenied, said)
	case status == http.StatusBadRequest:
		return fmt.Errorf("%w: %s", keyring.ErrForged, said)
	}
	return fmt.Errorf("%w: HTTP status %d: %s", keyring.ErrServiceAway, status, said)
}

// keyGone tells the engine's words for a key, or a version of one, that is not
// there (any more).
func keyGone(said string) bool {
	for _, words := range []string{"key not found", "disallowed by policy (too old)", "version is too old", "unsupported path"} {
		if strings.Contains(said, words) {
			return true
		}
	}
	return false
}
