package keyring

import (
	"context"
	"errors"

	backstay "github.com/backstay/backstay"
)

// Errors by which callers of a Service decide. What an adapter returns wraps one.
var (
	// ErrServiceAway: the service does not answer, or cannot at the moment.
	ErrServiceAway = errors.New("the key service cannot be reached")
	// ErrServiceDenied: it does not take the credential, or does not have the key.
	ErrServiceDenied = errors.New("the key service refuses")
	// ErrForged: what was to be unwrapped is not what the key wrapped about this.
	ErrForged = errors.New("it is not what the key service wrapped")
)

// Service is an outside key service: it wraps values with a key that never leaves
// it. The key may be rotated there at any time: what an older version wrapped is
// unwrapped for as long as the service keeps that version. Every method may be
// called concurrently, and ends with ctx.
type Service interface {
	// Check proves that the service answers, takes the credential, and wraps and
	// unwraps with the key.
	Check(ctx context.Context) error
	// Wrap encrypts a value. about says what the value is of; it is not secret, and
	// the same must be said to unwrap it.
	Wrap(ctx context.Context, value backstay.Secret, about string) (wrapped string, err error)
	// Unwrap is Wrap's inverse; ErrForged for anything else.
	Unwrap(ctx context.Context, wrapped, about string) (backstay.Secret, error)
}

// Probe is what a Check of any service does: it wraps a value and unwraps it.
func Probe(ctx context.Context, s Service) error {
	const about, value = "backstay check", "probe"
	wrapped, err := s.Wrap(ctx, backstay.NewSecret([]byte(value)), about)
	if err != nil {
		return err
	}
	back, err := s.Unwrap(ctx, wrapped, about)
	if err != nil {
		return err
	}
	if string(back.Reveal()) != value {
		return ErrForged
	}
	return nil
}
