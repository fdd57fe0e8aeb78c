package fake

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
)

// secret is one that the hypervisor keeps.
type secret struct {
	value   []byte
	private bool
	info    hypervisor.SecretInfo
}

// fingerprint is what an image remembers of the value that it was made with.
func (s secret) fingerprint() string {
	sum := sha256.Sum256(s.value)
	return hex.EncodeToString(sum[:8])
}

// SetSecret gives the hypervisor a secret, or with a nil value takes it away.
func (h *Host) SetSecret(uuid string, value []byte, private bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if value == nil {
		delete(h.secrets, uuid)
		return
	}
	h.secrets[uuid] = secret{value, private, hypervisor.SecretInfo{UUID: uuid, Private: private}}
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
		case image.Secret != info.Secret || info.Key != "" && info.Key != s.fingerprint():
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
	return createLayer(absolute(image.Location), image.Format, header{Size: size, Secret: image.Secret, Key: h.secrets[image.Secret].fingerprint()})
}

// SecretInfo describes a secret.
func (h *Host) SecretInfo(ctx context.Context, uuid string) (hypervisor.SecretInfo, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.away {
		return hypervisor.SecretInfo{}, hypervisor.ErrAway
	}
	s, ok := h.secrets[uuid]
	if !ok {
		return hypervisor.SecretInfo{}, fmt.Errorf("describe secret %s: %w", uuid, hypervisor.ErrNoSecret)
	}
	return s.info, ctx.Err()
}

// DefineSecret makes a secret.
func (h *Host) DefineSecret(ctx context.Context, info hypervisor.SecretInfo, value backstay.Secret) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.away {
		return hypervisor.ErrAway
	}
	if err := h.enter(ctx, "define-secret"); err != nil {
		return err
	}
	if _, ok := h.secrets[info.UUID]; ok {
		return fmt.Errorf("make secret %s: %w", info.UUID, hypervisor.ErrExists)
	}
	for _, s := range h.secrets {
		if s.info.Usage == info.Usage && s.info.UsageID == info.UsageID {
			info.Usage, info.UsageID = "", ""
		}
	}
	h.secrets[info.UUID] = secret{append([]byte(nil), value.Reveal()...), info.Private, info}
	return nil
}

// UndefineSecret removes a secret.
func (h *Host) UndefineSecret(ctx context.Context, uuid string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.away {
		return hypervisor.ErrAway
	}
	if err := h.enter(ctx, "undefine-secret"); err != nil {
		return err
	}
	delete(h.secrets, uuid)
	return nil
}

// keyOf is the fingerprint of a secret that is there. The caller holds mu.
func (h *Host) keyOf(uuid string) string {
	if s, ok := h.secrets[uuid]; ok {
		return s.fingerprint()
	}
	return ""
}
