package servertest

import (
	"context"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/engine/index"
	"github.com/backstay/backstay/internal/mover"
	"github.com/backstay/backstay/internal/server"
)

// lists are the real lists of files over the mover in memory.
func (w *World) lists() server.FileLists {
	return fileLists{&index.Runner{
		Catalog: w.Catalog, Services: func() []mover.KeyService { return nil },
		Mover: func(backstay.HostName) (mover.Indexes, error) { return w.Files, nil },
		Vault: func(_ context.Context, name backstay.VaultName) (mover.VaultAccess, error) {
			return mover.VaultAccess{Name: name, Key: backstay.NewSecret([]byte(vaultKey))}, nil
		},
	}}
}

type fileLists struct{ *index.Runner }

func (l fileLists) Find(ctx context.Context, f server.FileFind) (mover.FoundFiles, error) {
	return l.Runner.Find(ctx, index.Find(f))
}

// List puts a point that is in the vault into the list of its VM's files.
func (w *World) List(t testing.TB, p backstay.PointID) {
	_, err := w.Files.IndexPoint(t.Context(), mover.IndexRequest{Point: p, Tier: backstay.VaultTier,
		Vault: mover.VaultAccess{Key: backstay.NewSecret([]byte(vaultKey))}}, nil)
	if err != nil {
		t.Fatal(err)
	}
}
