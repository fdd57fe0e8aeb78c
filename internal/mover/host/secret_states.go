package host

import (
	"context"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
	"github.com/backstay/backstay/internal/mover"
	"github.com/backstay/backstay/internal/tier"
	"github.com/backstay/backstay/internal/tier/snapshot"
)

// SecretStates tells of each secret of a point whether a restore here has what it
// needs. It makes nothing.
func (h *Host) SecretStates(ctx context.Context, r mover.SecretsRequest) ([]mover.SecretState, error) {
	b, needed, err := h.secretsOfPoint(ctx, r)
	if err != nil {
		return nil, err
	}
	states := []mover.SecretState{}
	for _, n := range needed {
		s := mover.SecretState{
			PointSecret: backstay.PointSecret{UUID: n.UUID, Scheme: n.Scheme, Service: n.Service, Reason: n.Reason},
			Disks:       n.disks, Escrow: n.Escrow,
		}
		value, note, err := b.check(ctx, n)
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if err != nil {
			s.Problem = backstay.AsError(err)
		}
		s.Note = note
		_, infoErr := h.hv.SecretInfo(ctx, n.UUID)
		s.Present = value == nil && infoErr == nil
		states = append(states, s)
	}
	return states, nil
}

// secretsOfPoint lists the secrets that a restore of all of a point needs.
func (h *Host) secretsOfPoint(ctx context.Context, r mover.SecretsRequest) (*secretBook, []neededSecret, error) {
	stage := mover.StageRequest{Vault: r.Vault, Services: r.Services, Plan: backstay.RestorePlan{Point: r.Point, Tier: r.Tier}}
	held, err := h.heldOf(ctx, stage)
	if err != nil {
		return nil, nil, err
	}
	var disks []backstay.PlannedDisk
	for _, d := range held.disks {
		disks = append(disks, backstay.PlannedDisk{Target: d.Target, Secret: held.shape.SecretOf(d.Target)})
	}
	return h.secretBook(r.Services, held.layers), neededSecrets(held.definition, disks, true), nil
}

// secretBook is that of a restore; layers is nil for one from the vault tier.
func (h *Host) secretBook(services []mover.KeyService, layers []snapshot.PointLayers) *secretBook {
	b := &secretBook{Host: h, services: services}
	if layers == nil {
		return b
	}
	b.layers = map[backstay.DiskTarget]hypervisor.Image{}
	for _, l := range layers {
		b.layers[l.Target] = hypervisor.Image{Location: l.Path, Format: l.Format, Secret: l.Secret}
	}
	return b
}

// GiveSecrets makes those of a point's secrets that the host lacks with values
// that somebody brought along. They are kept by the hypervisor and nowhere else.
func (h *Host) GiveSecrets(ctx context.Context, r mover.GiveRequest) error {
	b, needed, err := h.secretsOfPoint(ctx, r.SecretsRequest)
	if err != nil {
		return err
	}
	unlock, err := h.vms.lock(ctx, "secrets")
	if err != nil {
		return err
	}
	defer unlock()
	for _, given := range r.Secrets {
		n, ok := find(needed, given.UUID)
		if !ok {
			return backstay.Errorf(backstay.CodeUsage, "point %s needs no secret %s", r.Point, given.UUID).Becausef("none of its disks is encrypted with it")
		}
		if err := b.give(ctx, n, given.Value); err != nil {
			return err
		}
	}
	return nil
}

func find(needed []neededSecret, uuid string) (neededSecret, bool) {
	for _, n := range needed {
		if n.UUID == uuid {
			return n, true
		}
	}
	return neededSecret{}, false
}

// give makes one secret. A value that does not open the point's layers does not stay.
func (b *secretBook) give(ctx context.Context, n neededSecret, value backstay.Secret) error {
	if there, err := b.hv.Secret(ctx, n.UUID); err == nil {
		if string(there.Reveal()) == string(value.Reveal()) {
			return nil
		}
		return differs(n.UUID, b.name, errOtherValue)
	}
	if len(value.Reveal()) == 0 {
		return backstay.Errorf(backstay.CodeUsage, "the value of secret %s is empty", n.UUID).Becausef("nothing can be encrypted with it")
	}
	err := b.define(ctx, n, value)
	if backstay.IsCode(err, backstay.CodeSecretDiffers) {
		if undoErr := b.hv.UndefineSecret(context.WithoutCancel(ctx), n.UUID); undoErr != nil {
			b.log.Warn("a secret that does not fit could not be removed", "secret", n.UUID, "error", undoErr)
		}
	}
	return err
}

// heldPoint is what a tier holds of a point beside the content of its disks.
type heldPoint struct {
	definition tier.Definition
	shape      backstay.VM
	disks      []backstay.PointDisk
	layers     []snapshot.PointLayers // in the snapshot tier
}

// heldOf opens the point of a restore in the tier that its plan names.
func (h *Host) heldOf(ctx context.Context, r mover.StageRequest) (heldPoint, error) {
	if h.streamed(r.Plan) {
		return h.heldElsewhere(ctx, r)
	}
	if r.Plan.Tier != backstay.VaultTier {
		point, err := h.openPoint(ctx, r.Plan.Point)
		if err != nil {
			return heldPoint{}, err
		}
		held := heldPoint{definition: point.Definition, shape: point.Record.Shape, layers: point.Disks}
		for _, d := range point.Record.Disks {
			if d.Included {
				held.disks = append(held.disks, d.PointDisk)
			}
		}
		return held, nil
	}
	if r.Vault == nil {
		return heldPoint{}, backstay.Errorf(backstay.CodeInternal, "a restore from the vault tier names no vault")
	}
	v, err := h.openVault(ctx, *r.Vault)
	if err != nil {
		return heldPoint{}, err
	}
	point, err := v.OpenPoint(ctx, r.Plan.Point)
	if err != nil {
		return heldPoint{}, err
	}
	facts := point.Facts()
	held := heldPoint{definition: point.Definition(), shape: facts.Shape}
	for _, d := range facts.Disks {
		if d.Included {
			held.disks = append(held.disks, d)
		}
	}
	return held, nil
}
