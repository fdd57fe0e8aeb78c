package host

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/beevik/etree"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
	"github.com/backstay/backstay/internal/mover"
	"github.com/backstay/backstay/internal/tier"
)

// secretsOf reads what a point keeps of the secrets that the disks in it and the
// VM's TPM need. It is done before the guest is touched, since a key service may be
// asked. A value that cannot be read is no reason not to back up: the point says
// that it lacks it.
func (h *Host) secretsOf(ctx context.Context, vm backstay.VMID, disks []backstay.DiskTarget, keys *mover.KeyPolicy) (secrets []tier.Secret, warnings []string, err error) {
	domain, err := h.hv.Domain(ctx, vm)
	if err != nil {
		return nil, nil, nil //nolint:nilerr // what asks for the point says it in its own words
	}
	for _, uuid := range secretsNamed(domain.LiveXML, domain.InactiveXML, disks, true) {
		s, warning, err := h.secretOf(ctx, uuid, keys)
		if err != nil {
			return nil, nil, err
		}
		if warning != "" {
			warnings = append(warnings, warning)
		}
		secrets = append(secrets, s)
	}
	return secrets, warnings, nil
}

// secretOf reads one secret.
func (h *Host) secretOf(ctx context.Context, uuid string, keys *mover.KeyPolicy) (s tier.Secret, warning string, err error) {
	s = tier.Secret{UUID: uuid, Scheme: backstay.SecretAbsent}
	info, err := h.hv.SecretInfo(ctx, uuid)
	var value backstay.Secret
	if err == nil {
		s.Usage, s.UsageID, s.Description, s.Ephemeral, s.Private = info.Usage, info.UsageID, info.Description, info.Ephemeral, info.Private
		value, err = h.hv.Secret(ctx, uuid)
	}
	switch {
	case errors.Is(err, hypervisor.ErrPrivateSecret):
		s.Reason = "it is private, so that nobody can read its value"
		return s, "", nil
	case errors.Is(err, hypervisor.ErrNoSecret):
		s.Reason = "the host had no value for it"
		return s, "", nil
	case err != nil:
		return s, "", h.hostError(err, "secret %s of the VM could not be read", uuid)
	case keys == nil:
		s.Scheme, s.Value = backstay.SecretInPoint, value.Reveal()
		return s, "", nil
	}
	return h.wrapSecret(ctx, s, value, *keys)
}

// secretsNamed lists the UUIDs of the secrets that definitions name for these
// disks, and for a TPM if that is asked for, each once.
func secretsNamed(live, inactive string, disks []backstay.DiskTarget, tpm bool) []string {
	var all []string
	add := func(uuid string) {
		if uuid = strings.ToLower(uuid); uuid != "" && !slices.Contains(all, uuid) {
			all = append(all, uuid)
		}
	}
	for _, text := range []string{inactive, live} {
		doc := etree.NewDocument()
		if text == "" || doc.ReadFromString(text) != nil {
			continue
		}
		for _, d := range doc.FindElements("/domain/devices/disk") {
			target := d.SelectElement("target")
			if target == nil || !slices.Contains(disks, backstay.DiskTarget(target.SelectAttrValue("dev", ""))) {
				continue
			}
			for _, e := range d.FindElements(".//encryption/secret") {
				add(e.SelectAttrValue("uuid", ""))
			}
		}
		for _, e := range doc.FindElements("/domain/devices/tpm/backend/encryption") {
			if !tpm {
				break
			}
			add(e.SelectAttrValue("secret", ""))
		}
	}
	return all
}

// tpmSecret is the UUID of the secret that the TPM's state is encrypted with; ""
// for none.
func tpmSecret(def tier.Definition) string {
	named := secretsNamed(def.LiveXML, def.InactiveXML, nil, true)
	if len(named) == 0 {
		return ""
	}
	return named[0]
}

// neededSecret is a secret without which a planned restore fails.
type neededSecret struct {
	tier.Secret
	disks []backstay.DiskTarget // that it opens; none for a TPM's
}

// neededSecrets are those of the disks that a plan makes, and of a TPM if it has
// one. A point of an older release holds none, and needs them all the same.
func neededSecrets(def tier.Definition, disks []backstay.PlannedDisk, tpm bool) []neededSecret {
	var needed []neededSecret
	of := func(uuid string) *neededSecret {
		for i := range needed {
			if needed[i].UUID == uuid {
				return &needed[i]
			}
		}
		s := tier.Secret{UUID: uuid, Scheme: backstay.SecretAbsent, Reason: "the point was taken by a release that did not keep secrets"}
		for _, held := range def.Secrets {
			if held.UUID == uuid {
				s = held
			}
		}
		needed = append(needed, neededSecret{Secret: s})
		return &needed[len(needed)-1]
	}
	for _, d := range disks {
		if d.Secret != "" {
			n := of(d.Secret)
			n.disks = append(n.disks, d.Target)
		}
	}
	if uuid := tpmSecret(def); tpm && uuid != "" {
		of(uuid)
	}
	return needed
}

// secretBook is what a restore knows of where secrets and layers are.
type secretBook struct {
	*Host
	services []mover.KeyService
	// layers are the frozen layers of a point in the snapshot tier, which only the
	// right value opens; nil for the vault tier, whose disks are encrypted anew.
	layers map[backstay.DiskTarget]hypervisor.Image
}

// check tells whether a restore would have the secret. With value it has to be
// made from that; without, and without error, it is present and fits.
func (b *secretBook) check(ctx context.Context, n neededSecret) (value *backstay.Secret, note string, err error) {
	present, err := b.hv.Secret(ctx, n.UUID)
	switch {
	case err == nil:
		note, err := b.fits(ctx, n, present)
		return nil, note, err
	case errors.Is(err, hypervisor.ErrPrivateSecret):
		if len(n.disks) == 0 {
			return nil, "", nil // libvirt itself reads it for a TPM
		}
		return nil, "", backstay.Errorf(backstay.CodeSecretMissing, "the value of secret %s cannot be read on host %s", n.UUID, b.name).
			Becausef("it is private there, and the disks %s are encrypted with it", targets(n.disks)).
			Do("define the secret with private='no' and its value, then try again")
	case !errors.Is(err, hypervisor.ErrNoSecret):
		return nil, "", b.hostError(err, "secret %s could not be looked up", n.UUID)
	}
	held, err := b.valueOf(ctx, n)
	if err != nil {
		return nil, "", err
	}
	return &held, "", nil
}

// fits tells whether the value that the host has is the one that is needed. Layers
// tell by themselves: only the right value opens them. For disks that are
// encrypted anew any would do; but another value than the point's means that
// somebody else uses the UUID for something else.
func (b *secretBook) fits(ctx context.Context, n neededSecret, present backstay.Secret) (note string, err error) {
	if b.layers != nil {
		return "", b.opens(ctx, n)
	}
	held, err := b.valueOf(ctx, n)
	if err != nil {
		return fmt.Sprintf("secret %s is on the host, and whether its value is the point's could not be found out: %s", n.UUID, backstay.AsError(err).Error()), nil
	}
	if string(held.Reveal()) == string(present.Reveal()) {
		return "", nil
	}
	return "", differs(n.UUID, b.name, errOtherValue)
}

var errOtherValue = errors.New("there it has another value, and is not overwritten")

// opens tries the host's value on the layers that are encrypted with it.
func (b *secretBook) opens(ctx context.Context, n neededSecret) error {
	for _, target := range n.disks {
		layer, ok := b.layers[target]
		if !ok || layer.Secret != n.UUID {
			continue
		}
		export, err := b.images.Export(ctx, layer.Location, hypervisor.ExportOptions{Format: layer.Format, Secret: layer.Secret, Connections: 1})
		if err == nil {
			err = export.Close()
		} else if ctx.Err() == nil {
			return differs(n.UUID, b.name, fmt.Errorf("it does not open disk %s of the point: %w", target, err))
		}
		if err != nil {
			return fmt.Errorf("try secret %s: %w", n.UUID, err)
		}
	}
	return nil
}

func differs(uuid string, host backstay.HostName, because error) error {
	return backstay.Errorf(backstay.CodeSecretDiffers, "secret %s on host %s is not the one that the point needs", uuid, host).Because(because)
}

// valueOf returns the value that the point holds, or that its key service unwraps.
func (b *secretBook) valueOf(ctx context.Context, n neededSecret) (backstay.Secret, error) {
	switch n.Scheme {
	case backstay.SecretInPoint:
		return backstay.NewSecret(n.Value), nil
	case backstay.SecretInService:
		return b.unwrapSecret(ctx, n)
	}
	return backstay.Secret{}, backstay.Errorf(backstay.CodeSecretMissing, "secret %s is not on host %s, and the point does not hold its value", n.UUID, b.name).
		Becausef("%s", n.Reason)
}

// secretNotes are what a journal knows of secrets: UUIDs, no values.
type secretNotes struct {
	// Secrets were not on the host when the restore began; it makes them.
	Secrets []string `json:"secrets,omitempty"`
	// Needs are all that it needs.
	Needs []string `json:"needs,omitempty"`
}

func (n *secretNotes) noted() *secretNotes { return n }

// secretJournal is the journal of a restore of any kind.
type secretJournal interface {
	noted() *secretNotes
	write() error
}

// makeSecrets sees to it that the host has every secret that a restore needs,
// before anything is written with it. The journal names those that it makes, and
// those that it needs, first.
func (b *secretBook) makeSecrets(ctx context.Context, journal secretJournal, needed []neededSecret) error {
	if len(needed) == 0 {
		return nil
	}
	unlock, err := b.vms.lock(ctx, "secrets")
	if err != nil {
		return err
	}
	defer unlock()
	j := journal.noted()
	var missing []neededSecret
	var values []backstay.Secret
	for _, n := range needed {
		value, note, err := b.check(ctx, n)
		if err != nil {
			return err
		}
		if note != "" {
			b.log.Warn("a secret that is on the host is taken as it is", "what", note)
		}
		if !slices.Contains(j.Needs, n.UUID) {
			j.Needs = append(j.Needs, n.UUID)
		}
		if value != nil {
			missing, values = append(missing, n), append(values, *value)
			if !slices.Contains(j.Secrets, n.UUID) {
				j.Secrets = append(j.Secrets, n.UUID)
			}
		}
	}
	if err := journal.write(); err != nil {
		return err
	}
	for i, n := range missing {
		if err := b.define(ctx, n, values[i]); err != nil {
			return err
		}
	}
	return nil
}

// define makes a secret and sees that it opens what it must.
func (b *secretBook) define(ctx context.Context, n neededSecret, value backstay.Secret) error {
	err := b.hv.DefineSecret(ctx, hypervisor.SecretInfo{
		UUID: n.UUID, Usage: n.Usage, UsageID: n.UsageID, Description: n.Description, Ephemeral: n.Ephemeral, Private: n.Private,
	}, value)
	if errors.Is(err, hypervisor.ErrExists) { // somebody made it in this moment
		return differs(n.UUID, b.name, errOtherValue)
	}
	if err != nil {
		return b.hostError(err, "secret %s could not be made", n.UUID)
	}
	b.log.Info("made a secret that the host lacked", "secret", n.UUID)
	if b.layers != nil {
		return b.opens(ctx, n)
	}
	return nil
}

// dropSecrets removes the secrets that a restore made, unless somebody uses them
// by now: a VM, or another restore.
func (h *Host) dropSecrets(ctx context.Context, job backstay.JobID, j *secretNotes) error {
	if len(j.Secrets) == 0 {
		return nil
	}
	unlock, err := h.vms.lock(ctx, "secrets")
	if err != nil {
		return err
	}
	defer unlock()
	for _, uuid := range j.Secrets {
		used, err := h.secretUsed(ctx, job, uuid)
		if err != nil {
			return err
		}
		if used {
			continue
		}
		if err := h.hv.UndefineSecret(ctx, uuid); err != nil {
			return err
		}
	}
	return nil
}

func (h *Host) secretUsed(ctx context.Context, job backstay.JobID, uuid string) (bool, error) {
	others, err := h.journals()
	if err != nil {
		return false, err
	}
	for _, o := range others {
		if o.Job != job && slices.Contains(o.Needs, uuid) {
			return true, nil
		}
	}
	replaces, err := h.replaceJournals()
	if err != nil {
		return false, err
	}
	for _, o := range replaces {
		if o.Job != job && slices.Contains(o.Needs, uuid) {
			return true, nil
		}
	}
	vms, err := h.hv.VMs(ctx)
	if err != nil {
		return false, fmt.Errorf("list VMs: %w", err)
	}
	for _, vm := range vms {
		domain, err := h.hv.Domain(ctx, vm.ID)
		if errors.Is(err, hypervisor.ErrNoVM) {
			continue
		}
		if err != nil {
			return false, fmt.Errorf("look at VM %s: %w", vm.Name, err)
		}
		if strings.Contains(strings.ToLower(domain.LiveXML+domain.InactiveXML), uuid) {
			return true, nil
		}
	}
	return false, nil
}

func targets(disks []backstay.DiskTarget) string {
	var names []string
	for _, d := range disks {
		names = append(names, string(d))
	}
	return strings.Join(names, ", ")
}
