package keyringtest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/keyring"
)

// ServiceSubject is a key service under test.
type ServiceSubject struct {
	Service keyring.Service
	// Rotate makes a new version of the key; old ones stay.
	Rotate func(t *testing.T)
	// Forget makes the service forget the versions before the newest.
	Forget func(t *testing.T)
	// Away is the same service where nobody answers; Denied where the credential, or
	// what stands for it, is not taken; Keyless where the key is not there.
	Away, Denied, Keyless keyring.Service
}

// RunService runs the suite.
func RunService(t *testing.T, s ServiceSubject) {
	ctx := t.Context()
	const value, about = "correct horse, battery staple", "secret 1 of point 2"
	secret := backstay.NewSecret([]byte(value))
	if err := s.Service.Check(ctx); err != nil {
		t.Fatalf("check: %v", err)
	}
	wrap := func() string {
		t.Helper()
		wrapped, err := s.Service.Wrap(ctx, secret, about)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(wrapped, value) || strings.ContainsAny(wrapped, "\n\x00") {
			t.Fatalf("wrapped it is %q", wrapped)
		}
		return wrapped
	}
	unwraps := func(wrapped string) {
		t.Helper()
		back, err := s.Service.Unwrap(ctx, wrapped, about)
		if err != nil || string(back.Reveal()) != value {
			t.Errorf("unwrapped: %v", err)
		}
	}
	first := wrap()
	unwraps(first)
	if wrap() == first {
		t.Error("the same value is wrapped the same twice: whoever sees it learns that two points share a secret")
	}
	for _, forged := range []string{"", "nonsense", first[:len(first)-4], first + "AAAA", swap(first)} {
		if _, err := s.Service.Unwrap(ctx, forged, about); !errors.Is(err, keyring.ErrForged) {
			t.Errorf("forged %q: %v", forged, err)
		}
	}
	if _, err := s.Service.Unwrap(ctx, first, "secret 1 of point 3"); !errors.Is(err, keyring.ErrForged) {
		t.Errorf("about something else: %v", err)
	}
	s.Rotate(t)
	unwraps(first)
	second := wrap()
	unwraps(second)
	s.Forget(t)
	unwraps(second)
	if _, err := s.Service.Unwrap(ctx, first, about); !errors.Is(err, keyring.ErrServiceDenied) {
		t.Errorf("of a version that is gone: %v", err)
	}
	refuses(t, "nobody answers", s.Away, keyring.ErrServiceAway, second)
	refuses(t, "the credential is wrong", s.Denied, keyring.ErrServiceDenied, second)
	refuses(t, "the key is not there", s.Keyless, keyring.ErrServiceDenied, second)
	ended, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := s.Service.Wrap(ended, secret, about); !errors.Is(err, context.Canceled) {
		t.Errorf("after its context ended: %v", err)
	}
}

func refuses(t *testing.T, why string, s keyring.Service, want error, wrapped string) {
	t.Helper()
	const value = "not to be seen"
	_, wrapErr := s.Wrap(t.Context(), backstay.NewSecret([]byte(value)), "x")
	_, unwrapErr := s.Unwrap(t.Context(), wrapped, "secret 1 of point 2")
	for _, err := range []error{s.Check(t.Context()), wrapErr, unwrapErr} {
		if !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", why, err, want)
		}
		if strings.Contains(fmt.Sprint(err), value) {
			t.Errorf("%s: the error has the value", why)
		}
	}
}

// swap changes one character in the middle of the payload.
func swap(wrapped string) string {
	b := []byte(wrapped)
	at := len(b) - len(b)/4
	if b[at] == 'A' {
		b[at] = 'B'
	} else {
		b[at] = 'A'
	}
	return string(b)
}
