package host

import (
	"context"
	"errors"
	"fmt"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/keyring"
	"github.com/backstay/backstay/internal/mover"
	"github.com/backstay/backstay/internal/tier"
	"github.com/backstay/backstay/internal/tier/vault"
)

// servicePatience bounds what a key service is waited for, for one secret.
const servicePatience = 20 * time.Second

// wrapSecret lets a key service wrap the value of a secret, and keeps a copy for
// the vault's recovery recipients alone. A service that is away is no reason not to
// back up: the point then says that only the recovery key brings the value back.
func (h *Host) wrapSecret(ctx context.Context, s tier.Secret, value backstay.Secret, keys mover.KeyPolicy) (_ tier.Secret, warning string, err error) {
	s.Scheme, s.Service = backstay.SecretInService, keys.Service.Name
	about := backstay.SecretAbout(s.UUID)
	var escrowErr error
	if s.Escrow, escrowErr = vault.Escrow(value, about, keys.Escrow); escrowErr != nil {
		warning = fmt.Sprintf("secret %s: the copy for the recovery key: %v", s.UUID, escrowErr)
		s.Reason = "no copy of it is kept for a recovery key"
		if s.Escrow != nil {
			s.Reason = "the copy for the recovery key is not for all recovery recipients"
		}
	}
	service, err := h.keyService(keys.Service)
	if err == nil {
		bounded, cancel := context.WithTimeout(ctx, servicePatience)
		defer cancel()
		s.Wrapped, err = service.Wrap(bounded, value, about)
	}
	if err == nil {
		return s, warning, nil
	}
	if ctx.Err() != nil {
		return s, "", fmt.Errorf("wrap secret %s: %w", s.UUID, context.Cause(ctx))
	}
	s.Wrapped = ""
	if s.Escrow == nil {
		return s, "", serviceError(keys.Service.Name, fmt.Sprintf("secret %s of the VM could not be wrapped, nor kept for a recovery key", s.UUID), err)
	}
	h.log.Warn("a key service did not wrap a secret", "service", keys.Service.Name, "secret", s.UUID, "error", err)
	s.Reason = "the key service did not wrap it when the point was taken"
	return s, fmt.Sprintf("%v; the secret of the point comes back with the recovery key alone",
		serviceError(keys.Service.Name, fmt.Sprintf("secret %s of the VM could not be wrapped", s.UUID), err)), nil
}

// unwrapSecret lets the key service that a point names unwrap the value.
func (b *secretBook) unwrapSecret(ctx context.Context, n neededSecret) (backstay.Secret, error) {
	message := fmt.Sprintf("secret %s of the point could not be unwrapped", n.UUID)
	if n.Wrapped == "" {
		return backstay.Secret{}, backstay.Errorf(backstay.CodeSecretMissing, "secret %s is not on host %s, and key service %s has not wrapped it for this point", n.UUID, b.name, n.Service).
			Becausef("%s", n.Reason).Do("bring the vault's recovery key: --recovery-key FILE")
	}
	for _, known := range b.services {
		if known.Name != n.Service {
			continue
		}
		service, err := b.keyService(known)
		if err != nil {
			return backstay.Secret{}, serviceError(n.Service, message, err)
		}
		bounded, cancel := context.WithTimeout(ctx, servicePatience)
		defer cancel()
		value, err := service.Unwrap(bounded, n.Wrapped, backstay.SecretAbout(n.UUID))
		if err != nil && ctx.Err() == nil {
			err = serviceError(n.Service, message, err)
		}
		return value, err
	}
	return backstay.Secret{}, serviceError(n.Service, message, fmt.Errorf("%w: the server's configuration has none of this name", keyring.ErrServiceAway))
}

func (h *Host) keyService(s mover.KeyService) (keyring.Service, error) {
	if h.openKeyService == nil {
		return nil, fmt.Errorf("%w: this mover can use none", keyring.ErrServiceAway)
	}
	service, err := h.openKeyService(s)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", keyring.ErrServiceDenied, err)
	}
	return service, nil
}

// serviceError gives an error of a key service its code.
func serviceError(name, message string, err error) error {
	code := backstay.CodeKeyServiceAway
	switch {
	case errors.Is(err, keyring.ErrServiceDenied):
		code = backstay.CodeKeyDenied
	case errors.Is(err, keyring.ErrForged):
		code = backstay.CodeDamaged
	}
	return backstay.Errorf(code, "%s by key service %s", message, name).Because(err)
}
