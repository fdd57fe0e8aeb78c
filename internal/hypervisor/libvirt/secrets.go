package libvirt

import (
	"context"
	"fmt"

	"github.com/digitalocean/go-libvirt"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
)

// Secret asks libvirt for a secret's value. The value is in no error and no log.
func (h *Host) Secret(ctx context.Context, uuid string) (backstay.Secret, error) {
	value, err := call(ctx, h, callPatience, func(l *libvirt.Libvirt) ([]byte, error) {
		id, err := parseUUID(backstay.VMID(uuid))
		if err != nil {
			return nil, fmt.Errorf("%w: %q is not a UUID", hypervisor.ErrNoSecret, uuid)
		}
		secret, err := l.SecretLookupByUUID(id)
		if isCode(err, libvirt.ErrNoSecret) {
			return nil, fmt.Errorf("%w: %w", hypervisor.ErrNoSecret, err)
		}
		if err != nil {
			return nil, err
		}
		value, err := l.SecretGetValue(secret, 0)
		switch {
		case isCode(err, libvirt.ErrInvalidSecret):
			return nil, fmt.Errorf("%w: %w", hypervisor.ErrPrivateSecret, err)
		case isCode(err, libvirt.ErrNoSecret): // defined, and never given a value
			return nil, fmt.Errorf("%w: %w", hypervisor.ErrNoSecret, err)
		}
		return value, err
	})
	if err != nil {
		return backstay.Secret{}, fmt.Errorf("read secret %s: %w", uuid, err)
	}
	return backstay.NewSecret(value), nil
}
