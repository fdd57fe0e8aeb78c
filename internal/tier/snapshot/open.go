package snapshot

import (
	"context"
	"fmt"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/tier"
)

// Point is a snapshot-tier point that was opened: what is recorded of it, its
// definition unsealed, and the layers that its disks consist of.
type Point struct {
	Record     PointRecord
	Definition tier.Definition
	// Disks are the disks that are part of the point.
	Disks []PointLayers

	tier *Tier
}

// PointLayers is one disk of a point: the frozen layer that is its content,
// and the chain below.
type PointLayers struct {
	Target backstay.DiskTarget
	Size   int64 // guest-visible bytes
	Layer  backstay.LayerID
	Path   string  // of the frozen layer
	Format string  // of that file
	Secret string  // UUID of the host's secret that opens it; "" for a plain one
	Chain  []Layer // from the frozen layer down to the bottom
}

// Open opens a point. CodeUnknownPoint if there is no record of it,
// CodeNotRestorable if it is being dropped or a layer of it is gone.
func (t *Tier) Open(ctx context.Context, id backstay.PointID) (*Point, error) {
	b, err := t.find(ctx, id)
	if err != nil {
		return nil, err
	}
	record := b.Points[id]
	if reason := b.Unusable(record); reason != "" {
		return nil, backstay.Errorf(backstay.CodeNotRestorable, "point %s cannot be read from the snapshot tier", id).Becausef("%s", reason)
	}
	p := &Point{Record: *record, tier: t}
	for _, d := range record.Disks {
		if d.Layer == "" {
			continue
		}
		chain := b.Chain(d.Layer)
		top := chain[0]
		p.Disks = append(p.Disks, PointLayers{
			Target: d.Target, Size: d.Size, Layer: top.ID, Path: top.File, Format: top.Format, Secret: top.Secret, Chain: chain,
		})
	}
	key, err := t.hostKey(ctx)
	if err != nil {
		return nil, err
	}
	if p.Definition, err = unseal(key, id, record.Sealed); err != nil {
		return nil, fmt.Errorf("open point %s: %w", id, err)
	}
	return p, nil
}

// Disk returns the layers of one disk of the point; false if the disk is not
// part of it.
func (p *Point) Disk(target backstay.DiskTarget) (PointLayers, bool) {
	for _, d := range p.Disks {
		if d.Target == target {
			return d, true
		}
	}
	return PointLayers{}, false
}

// FormatOf returns the format of the VM's own file of a disk, which is not
// that of its layers.
func (p *Point) FormatOf(target backstay.DiskTarget) string {
	for _, d := range p.Record.Disks {
		if d.Target == target {
			return d.Format
		}
	}
	return ""
}

// Record returns what is recorded of a point, in whatever state it is.
// CodeUnknownPoint if there is no record of it.
func (t *Tier) Record(ctx context.Context, id backstay.PointID) (PointRecord, error) {
	b, err := t.find(ctx, id)
	if err != nil {
		return PointRecord{}, err
	}
	return *b.Points[id], nil
}

// find reads all records, that of the point among them: it may lie beside disks
// that came to this host since it was last looked around.
func (t *Tier) find(ctx context.Context, id backstay.PointID) (*book, error) {
	b, err := t.load()
	if err != nil || b.Points[id] != nil {
		return b, err
	}
	if err := t.lookAround(ctx); err != nil {
		return nil, hypervisorError(err, "host %s cannot be looked at", t.host)
	}
	if b, err = t.load(); err == nil && b.Points[id] == nil {
		err = backstay.Errorf(backstay.CodeUnknownPoint, "no point %s in the snapshot tier of host %s", id, t.host)
	}
	return b, err
}
