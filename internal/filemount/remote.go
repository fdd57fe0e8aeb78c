package filemount

import (
	"context"
	"io"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/client"
)

// Connect reaches the session of an order at its server, with its ticket.
func Connect(o Order) Source {
	return remote{client: client.New(o.Server, string(o.Ticket.Reveal())), id: o.Session}
}

// remote is a session of a server.
type remote struct {
	client *client.Client
	id     backstay.FileSessionID
}

func located(volume backstay.VolumeID, path backstay.FilePath) backstay.FilePath {
	return backstay.FilePath(string(volume) + ":" + string(path))
}

// Session is Source's.
func (r remote) Session(ctx context.Context) (backstay.FileSession, error) {
	return r.client.FileSession(ctx, r.id)
}

// Folder is Source's.
func (r remote) Folder(ctx context.Context, volume backstay.VolumeID, path backstay.FilePath, after string) ([]backstay.FileEntry, string, error) {
	page, err := r.client.Folder(ctx, r.id, located(volume, path), after, 0)
	return page.Entries, page.Next, err
}

// Entry is Source's.
func (r remote) Entry(ctx context.Context, volume backstay.VolumeID, path backstay.FilePath) (backstay.FileEntry, error) {
	e, err := r.client.Entry(ctx, r.id, located(volume, path))
	return e.Entry, err
}

// Read is Source's.
func (r remote) Read(ctx context.Context, what What, offset, length int64) (io.ReadCloser, error) {
	if what.Disk != "" {
		return r.client.ReadDisk(ctx, r.id, what.Disk, offset, length)
	}
	return r.client.ReadFile(ctx, r.id, located(what.Volume, what.Path), offset, length)
}

// End is Source's.
func (r remote) End(ctx context.Context) error {
	defer r.client.Close()
	return r.client.EndFileSession(ctx, r.id)
}
