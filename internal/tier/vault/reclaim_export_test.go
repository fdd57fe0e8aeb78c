package vault

import (
	"context"
	"strings"

	"github.com/backstay/backstay/internal/blob"
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
