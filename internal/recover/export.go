package recover

import (
	"context"
	"errors"
	"slices"
	"strings"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/nbd"
	"github.com/backstay/backstay/internal/tier"
	"github.com/backstay/backstay/internal/tier/vault"
)

// ServeOptions describe how a disk is offered.
type ServeOptions struct {
	// Socket is the path of the unix socket. Only this user can connect to it.
	Socket string
	// Ready is called when the disk is opened and clients can be told of it.
	Ready func() error
	// Failed is told of what could not be read. It may be nil.
	Failed func(error)
}

// Serve offers a disk of a point, read-only, over NBD to every client that
// connects to the socket, until ctx ends; then it returns nil.
func (v *Vault) Serve(ctx context.Context, id backstay.PointID, target backstay.DiskTarget, o ServeOptions) error {
	image, err := v.disk(ctx, id, target)
	if err != nil {
		return err
	}
	defer func() { _ = image.Close() }()
	l, err := nbd.ListenUnix(o.Socket)
	if err != nil {
		return backstay.Errorf(backstay.CodeRestoreFailed, "the socket %s cannot be made", o.Socket).Because(err).
			Do("name a path in a folder of yours at which there is nothing yet")
	}
	if o.Ready != nil {
		if err := o.Ready(); err != nil {
			return errors.Join(err, l.Close())
		}
	}
	return nbd.Serve(ctx, l, export(image, string(target), o.Failed))
}

// disk opens a disk of a point.
func (v *Vault) disk(ctx context.Context, id backstay.PointID, target backstay.DiskTarget) (tier.Image, error) {
	p, err := v.open(ctx, id)
	if err != nil {
		return nil, err
	}
	if !slices.Contains(targets(p), target) {
		return nil, noDisk(p, target)
	}
	return p.Disk(ctx, target)
}

// targets names the disks that the point holds.
func targets(p *vault.Point) []backstay.DiskTarget {
	var out []backstay.DiskTarget
	for _, d := range p.Facts().Disks {
		if d.Included {
			out = append(out, d.Target)
		}
	}
	return out
}

func noDisk(p *vault.Point, target backstay.DiskTarget) error {
	var names []string
	for _, t := range targets(p) {
		names = append(names, string(t))
	}
	return backstay.Errorf(backstay.CodeUnknownPoint, "the point %s has no disk %s", p.Header().Point, target).
		Becausef("it has %s", strings.Join(names, ", ")).Do("name one of these")
}

// export is an image as the block protocol has it.
func export(image tier.Image, name string, failed func(error)) nbd.Export {
	return nbd.Export{
		Name: name, Size: image.Size(), Content: image, Failed: failed,
		Extents: func(offset, length int64) ([]nbd.Extent, error) {
			extents, err := image.Extents(offset, length)
			if err != nil {
				return nil, err
			}
			runs := make([]nbd.Extent, len(extents))
			for i, e := range extents {
				runs[i] = nbd.Extent{Offset: e.Offset, Length: e.Length}
				if e.Zero {
					runs[i].Flags = nbd.Hole | nbd.Zero
				}
			}
			return runs, nil
		},
	}
}
