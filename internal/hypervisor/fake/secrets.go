package fake

import (
	"context"
	"fmt"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
)

// secret is one that the hypervisor keeps.
type secret struct {
	value   []byte
	private bool
}

// SetSecret gives the hypervisor a secret, or with a nil value takes it away.
func (h *Host) SetSecret(uuid string, value []byte, private bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if value == nil {
		delete(h.secrets, uuid)
		return
	}
	h.secrets[uuid] = secret{value, private}
}

// Secret returns a secret's value.
func (h *Host) Secret(ctx context.Context, uuid string) (backstay.Secret, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.away {
		return backstay.Secret{}, hypervisor.ErrAway
	}
	if err := ctx.Err(); err != nil {
		return backstay.Secret{}, err
	}
	s, ok := h.secrets[uuid]
	switch {
	case !ok:
		return backstay.Secret{}, fmt.Errorf("read secret %s: %w", uuid, hypervisor.ErrNoSecret)
	case s.private:
		return backstay.Secret{}, fmt.Errorf("read secret %s: %w", uuid, hypervisor.ErrPrivateSecret)
	}
	return backstay.NewSecret(append([]byte(nil), s.value...)), nil
}

// unlocks fails unless the secret that is named opens every image of the chain
// that is encrypted, as QEMU's tools do. The caller holds mu.
func (h *Host) unlocks(image hypervisor.Image, alone bool) error {
	chain := chainOf(absolute(image.Location))
	if alone {
		chain = chain[:1]
	}
	for _, file := range chain {
		info, err := imageHeader(file)
		if err != nil || info.Secret == "" {
			continue
		}
		s, ok := h.secrets[image.Secret]
		switch {
		case image.Secret == "":
			return fmt.Errorf("image %s is encrypted, and no secret is named", file)
		case !ok:
			return fmt.Errorf("open image %s: %w", file, hypervisor.ErrNoSecret)
		case s.private:
			return fmt.Errorf("open image %s: %w", file, hypervisor.ErrPrivateSecret)
		case image.Secret != info.Secret:
			return fmt.Errorf("open image %s: the key does not fit", file)
		}
	}
	return nil
}

// CreateEncrypted makes an empty encrypted image.
func (h *Host) CreateEncrypted(ctx context.Context, image hypervisor.Image, size int64) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.enter(ctx, "create"); err != nil {
		return err
	}
	if image.Secret == "" || image.Format != "qcow2" && image.Format != "luks" {
		return fmt.Errorf("create image %s: an encrypted image is qcow2 or luks, and has a secret", image.Location)
	}
	if _, ok := h.secrets[image.Secret]; !ok {
		return fmt.Errorf("create image %s: %w", image.Location, hypervisor.ErrNoSecret)
	}
	return createLayer(absolute(image.Location), image.Format, header{Size: size, Secret: image.Secret})
}
