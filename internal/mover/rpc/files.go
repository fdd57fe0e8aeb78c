package rpc

import (
	"context"
	"io"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/mover"
)

// OpenFiles is mover.Files'.
func (c *Client) OpenFiles(ctx context.Context, r mover.OpenFilesRequest, progress mover.Progress) (mover.OpenedFiles, error) {
	return call[mover.OpenedFiles](ctx, c, "OpenFiles", toOpenFilesWire(r), progress)
}

// UnlockVolume is mover.Files'.
func (c *Client) UnlockVolume(ctx context.Context, r mover.UnlockRequest) ([]backstay.Volume, error) {
	return call[[]backstay.Volume, none](ctx, c, "UnlockVolume", unlockWire{r, r.Key.Reveal()}, nil)
}

// Folder is mover.Files'.
func (c *Client) Folder(ctx context.Context, r mover.FolderRequest) (mover.FolderPage, error) {
	return call[mover.FolderPage, none](ctx, c, "Folder", r, nil)
}

// ReadFile is mover.Files'. An error of w ends the call and is what it returns.
func (c *Client) ReadFile(ctx context.Context, r mover.FileReadRequest, w io.Writer) error {
	return c.stream(ctx, "ReadFile", r, w)
}

// TakeFiles is mover.Files'. An error of w ends the call and is what it returns.
func (c *Client) TakeFiles(ctx context.Context, r mover.FileTakeRequest, w io.Writer) error {
	return c.stream(ctx, "TakeFiles", r, w)
}

// CloseFiles is mover.Files'.
func (c *Client) CloseFiles(ctx context.Context, id backstay.FileSessionID) error {
	_, err := call[none, none](ctx, c, "CloseFiles", id, nil)
	return err
}

// OpenSessions is mover.Files'.
func (c *Client) OpenSessions(ctx context.Context) ([]backstay.FileSessionID, error) {
	return call[[]backstay.FileSessionID, none](ctx, c, "OpenSessions", none{}, nil)
}

// EndSessionsOn is mover.GivesWay's.
func (c *Client) EndSessionsOn(ctx context.Context, p backstay.PointID, why string) ([]backstay.FileSessionID, error) {
	return call[[]backstay.FileSessionID, none](ctx, c, "EndSessionsOn", endSessionsWire{p, why}, nil)
}

type endSessionsWire struct {
	Point backstay.PointID
	Why   string
}

type openFilesWire struct {
	mover.OpenFilesRequest
	Vault    *vaultWire    `json:"Vault"`
	Services []serviceWire `json:"Services"`
}

func toOpenFilesWire(r mover.OpenFilesRequest) openFilesWire {
	return openFilesWire{r, toOptionalVaultWire(r.Vault), toServiceWires(r.Services)}
}

func (w openFilesWire) request() mover.OpenFilesRequest {
	r := w.OpenFilesRequest
	r.Vault, r.Services = w.Vault.optional(), services(w.Services)
	return r
}

// unlockWire is an UnlockRequest whose key is really there; see vaultWire.
type unlockWire struct {
	mover.UnlockRequest
	Key []byte `json:"Key"`
}

func (w unlockWire) request() mover.UnlockRequest {
	r := w.UnlockRequest
	r.Key = backstay.NewSecret(w.Key)
	return r
}

func registerFiles(s *side, m mover.Mover) {
	handle(s, "OpenFiles", func(ctx context.Context, r openFilesWire, progress func(mover.Report)) (mover.OpenedFiles, error) {
		return m.OpenFiles(ctx, r.request(), progress)
	})
	handle(s, "UnlockVolume", func(ctx context.Context, r unlockWire, _ func(none)) ([]backstay.Volume, error) {
		return m.UnlockVolume(ctx, r.request())
	})
	handle(s, "Folder", func(ctx context.Context, r mover.FolderRequest, _ func(none)) (mover.FolderPage, error) {
		return m.Folder(ctx, r)
	})
	streaming(s, "ReadFile", m.ReadFile)
	streaming(s, "TakeFiles", m.TakeFiles)
	handle(s, "CloseFiles", func(ctx context.Context, id backstay.FileSessionID, _ func(none)) (none, error) {
		return none{}, m.CloseFiles(ctx, id)
	})
	handle(s, "OpenSessions", func(ctx context.Context, _ none, _ func(none)) ([]backstay.FileSessionID, error) {
		return m.OpenSessions(ctx)
	})
	handle(s, "EndSessionsOn", func(ctx context.Context, r endSessionsWire, _ func(none)) ([]backstay.FileSessionID, error) {
		return m.EndSessionsOn(ctx, r.Point, r.Why)
	})
}
