package rpc

import (
	"context"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/mover"
)

// LookAt is mover.Imports'.
func (c *Client) LookAt(ctx context.Context, image backstay.ImageBackup) ([]backstay.ImageDisk, error) {
	return call[[]backstay.ImageDisk, none](ctx, c, "LookAt", image, nil)
}

// Import is mover.Imports'.
func (c *Client) Import(ctx context.Context, r mover.ImportRequest, progress mover.Progress) (mover.Pulled, error) {
	return call[mover.Pulled](ctx, c, "Import", toImportWire(r), progress)
}

type importWire struct {
	mover.ImportRequest
	Vault vaultWire `json:"Vault"`
}

func toImportWire(r mover.ImportRequest) importWire { return importWire{r, toVaultWire(r.Vault)} }

func (w importWire) request() mover.ImportRequest {
	r := w.ImportRequest
	r.Vault = w.Vault.access()
	return r
}

func registerImports(s *side, m mover.Mover) {
	handle(s, "LookAt", func(ctx context.Context, image backstay.ImageBackup, _ func(none)) ([]backstay.ImageDisk, error) {
		return m.LookAt(ctx, image)
	})
	handle(s, "Import", func(ctx context.Context, r importWire, progress func(mover.Report)) (mover.Pulled, error) {
		return m.Import(ctx, r.request(), progress)
	})
}
