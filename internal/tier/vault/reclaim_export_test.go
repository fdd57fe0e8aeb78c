package vault

import (
	"context"
	"strings"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/tier/vault/chunk"
	"github.com/backstay/backstay/internal/tier/vault/pack"
)

// ReadDirectories reads the directory of every pack, as looking for a chunk by
// its name does, so that the vault knows them.
func (v *Vault) ReadDirectories(ctx context.Context) error {
	if err := v.places.refresh(ctx); err != nil {
		return err
	}
	return v.store.List(ctx, "packs/", func(i blob.Info) error {
		id, err := pack.ParseID(i.Name[strings.LastIndexByte(i.Name, '/')+1:])
		if err == nil {
			_, err = v.places.directory(ctx, id)
		}
		return err
	})
}

// OrderOf says where the chunks of a disk lie, in the order in which the disk
// first uses them: offsets in the one pack that has them all.
func (v *Vault) OrderOf(ctx context.Context, id backstay.PointID, target backstay.DiskTarget) ([]uint32, error) {
	p, err := v.OpenPoint(ctx, id)
	if err != nil {
		return nil, err
	}
	d, _ := p.disk(target)
	m := &image{ctx: ctx, v: v, disk: d}
	var order []uint32
	for i := range d.PageCount() {
		page, err := m.page(ctx, i)
		if err != nil {
			return nil, err
		}
		for n, name := range page.Names {
			order = append(order, v.current(ctx, ref{chunk.Data, name, page.Places[n]}).Offset)
		}
	}
	return order, nil
}
