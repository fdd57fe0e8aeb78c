package rpc

import (
	"context"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/mover"
)

// IndexPoint is mover.Indexes'.
func (c *Client) IndexPoint(ctx context.Context, r mover.IndexRequest, progress mover.Progress) (mover.Indexed, error) {
	return call[mover.Indexed](ctx, c, "IndexPoint", indexWire{r, toVaultWire(r.Vault), toServiceWires(r.Services)}, progress)
}

// FindFiles is mover.Indexes'.
func (c *Client) FindFiles(ctx context.Context, r mover.FindRequest) (mover.FoundFiles, error) {
	return call[mover.FoundFiles, none](ctx, c, "FindFiles", findWire{r, toVaultWire(r.Vault)}, nil)
}

// DiffPoints is mover.Indexes'.
func (c *Client) DiffPoints(ctx context.Context, r mover.DiffRequest, progress mover.Progress) (backstay.PointDiff, error) {
	return call[backstay.PointDiff](ctx, c, "DiffPoints", diffWire{r, toOptionalVaultWire(r.Vault), toServiceWires(r.Services)}, progress)
}

type indexWire struct {
	mover.IndexRequest
	Vault    vaultWire     `json:"Vault"`
	Services []serviceWire `json:"Services"`
}

type findWire struct {
	mover.FindRequest
	Vault vaultWire `json:"Vault"`
}

type diffWire struct {
	mover.DiffRequest
	Vault    *vaultWire    `json:"Vault"`
	Services []serviceWire `json:"Services"`
}

func registerIndexes(s *side, m mover.Mover) {
	handle(s, "IndexPoint", func(ctx context.Context, w indexWire, progress func(mover.Report)) (mover.Indexed, error) {
		r := w.IndexRequest
		r.Vault, r.Services = w.Vault.access(), services(w.Services)
		return m.IndexPoint(ctx, r, progress)
	})
	handle(s, "FindFiles", func(ctx context.Context, w findWire, _ func(none)) (mover.FoundFiles, error) {
		r := w.FindRequest
		r.Vault = w.Vault.access()
		return m.FindFiles(ctx, r)
	})
	handle(s, "DiffPoints", func(ctx context.Context, w diffWire, progress func(mover.Report)) (backstay.PointDiff, error) {
		r := w.DiffRequest
		r.Vault, r.Services = w.Vault.optional(), services(w.Services)
		return m.DiffPoints(ctx, r, progress)
	})
}
