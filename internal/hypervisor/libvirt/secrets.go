package libvirt

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/beevik/etree"
	"github.com/digitalocean/go-libvirt"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
)

// Secret asks libvirt for a secret's value. The value is in no error and no log.
func (h *Host) Secret(ctx context.Context, uuid string) (backstay.Secret, error) {
	value, err := call(ctx, h, callPatience, func(l *libvirt.Libvirt) ([]byte, error) {
		secret, err := secretBy(l, uuid)
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

// SecretInfo asks libvirt what it knows of a secret beside its value.
func (h *Host) SecretInfo(ctx context.Context, uuid string) (hypervisor.SecretInfo, error) {
	xml, err := call(ctx, h, callPatience, func(l *libvirt.Libvirt) (string, error) {
		secret, err := secretBy(l, uuid)
		if err != nil {
			return "", err
		}
		return l.SecretGetXMLDesc(secret, 0)
	})
	if err != nil {
		return hypervisor.SecretInfo{}, fmt.Errorf("describe secret %s: %w", uuid, err)
	}
	doc := etree.NewDocument()
	if err := doc.ReadFromString(xml); err != nil || doc.Root() == nil {
		return hypervisor.SecretInfo{}, fmt.Errorf("describe secret %s: libvirt's answer cannot be read: %w", uuid, err)
	}
	root := doc.Root()
	info := hypervisor.SecretInfo{
		UUID: strings.ToLower(text(root, "uuid")), Description: text(root, "description"),
		Ephemeral: attr(root, "", "ephemeral") == "yes", Private: attr(root, "", "private") == "yes",
	}
	if usage := find(root, "usage"); usage != nil {
		info.Usage = attr(usage, "", "type")
		for _, id := range usage.ChildElements() { // volume, name or target, by type
			info.UsageID = strings.TrimSpace(id.Text())
		}
	}
	return info, nil
}

func secretBy(l *libvirt.Libvirt, uuid string) (libvirt.Secret, error) {
	id, err := parseUUID(backstay.VMID(uuid))
	if err != nil {
		return libvirt.Secret{}, fmt.Errorf("%w: %q is not a UUID", hypervisor.ErrNoSecret, uuid)
	}
	secret, err := l.SecretLookupByUUID(id)
	if isCode(err, libvirt.ErrNoSecret) {
		return libvirt.Secret{}, fmt.Errorf("%w: %w", hypervisor.ErrNoSecret, err)
	}
	return secret, err
}

// DefineSecret makes a secret and gives it its value. libvirt would take the
// definition of one that is there as a change to it, so it is looked up first. One
// that was defined and has no value is what a crash between the two leaves.
func (h *Host) DefineSecret(ctx context.Context, info hypervisor.SecretInfo, value backstay.Secret) error {
	err := h.do(context.WithoutCancel(ctx), callPatience, func(l *libvirt.Libvirt) error {
		secret, err := secretBy(l, info.UUID)
		switch {
		case errors.Is(err, hypervisor.ErrNoSecret):
			if secret, err = defineSecret(l, info); err != nil {
				return err
			}
		case err != nil:
			return err
		default:
			_, err := l.SecretGetValue(secret, 0)
			if err == nil || isCode(err, libvirt.ErrInvalidSecret) {
				return hypervisor.ErrExists
			}
			if !isCode(err, libvirt.ErrNoSecret) {
				return err
			}
		}
		return l.SecretSetValue(secret, value.Reveal(), 0)
	})
	if err != nil {
		return fmt.Errorf("make secret %s: %w", info.UUID, err)
	}
	return nil
}

func defineSecret(l *libvirt.Libvirt, info hypervisor.SecretInfo) (libvirt.Secret, error) {
	xml, err := secretXML(info)
	if err != nil {
		return libvirt.Secret{}, err
	}
	secret, err := l.SecretDefineXML(xml, 0)
	if err != nil && info.Usage != "" {
		// Somebody else's has the usage, or this libvirt does not know of its kind.
		info.Usage = ""
		if xml, xmlErr := secretXML(info); xmlErr == nil {
			secret, err = l.SecretDefineXML(xml, 0)
		}
	}
	return secret, err
}

func secretXML(info hypervisor.SecretInfo) (string, error) {
	doc := etree.NewDocument()
	root := doc.CreateElement("secret")
	root.CreateAttr("ephemeral", yesNo(info.Ephemeral))
	root.CreateAttr("private", yesNo(info.Private))
	root.CreateElement("uuid").SetText(info.UUID)
	if info.Description != "" {
		root.CreateElement("description").SetText(info.Description)
	}
	if info.Usage != "" {
		usage := root.CreateElement("usage")
		usage.CreateAttr("type", info.Usage)
		// The element's name goes by the type.
		id := map[string]string{"volume": "volume", "iscsi": "target"}[info.Usage]
		if id == "" {
			id = "name"
		}
		usage.CreateElement(id).SetText(info.UsageID)
	}
	return doc.WriteToString()
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// UndefineSecret removes a secret.
func (h *Host) UndefineSecret(ctx context.Context, uuid string) error {
	err := h.do(ctx, callPatience, func(l *libvirt.Libvirt) error {
		secret, err := secretBy(l, uuid)
		if err != nil {
			return err
		}
		return l.SecretUndefine(secret)
	})
	if err != nil && !errors.Is(err, hypervisor.ErrNoSecret) {
		return fmt.Errorf("remove secret %s: %w", uuid, err)
	}
	return nil
}
