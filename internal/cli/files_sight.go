package cli

import (
	"context"
	"io"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/api"
	"github.com/backstay/backstay/client"
	"github.com/backstay/backstay/internal/recover"
)

// sight is a point that is open: in a session of the server's or, without one, here.
type sight interface {
	// Unlock opens a locked volume and returns all volumes.
	Unlock(ctx context.Context, id backstay.VolumeID, kind backstay.VolumeKey, key []byte) ([]backstay.Volume, error)
	// Folder lists a part of a folder; links that lead to it are followed.
	Folder(ctx context.Context, path backstay.FilePath, after string) (api.Folder, error)
	// Entry returns what is at a path; of a symbolic link the link itself.
	Entry(ctx context.Context, path backstay.FilePath) (api.Entry, error)
	// Take returns files and folders of one volume as a stream of items.
	Take(ctx context.Context, of []backstay.FileLocation) (io.ReadCloser, error)
	// Explain says why a stream broke off.
	Explain(ctx context.Context, err error) error
}

// remote is a session of the server's.
type remote struct {
	client  *client.Client
	session backstay.FileSessionID
}

// Unlock has the server open a volume.
func (r remote) Unlock(ctx context.Context, id backstay.VolumeID, kind backstay.VolumeKey, key []byte) ([]backstay.Volume, error) {
	session, err := r.client.UnlockVolume(ctx, r.session, api.UnlockRequest{Volume: id, Kind: kind, Key: key})
	return session.Volumes, err
}

// Folder asks the server for a folder.
func (r remote) Folder(ctx context.Context, path backstay.FilePath, after string) (api.Folder, error) {
	return r.client.Folder(ctx, r.session, path, after, 0)
}

// Entry asks the server for an entry.
func (r remote) Entry(ctx context.Context, path backstay.FilePath) (api.Entry, error) {
	return r.client.Entry(ctx, r.session, path)
}

// Take asks the server for files.
func (r remote) Take(ctx context.Context, of []backstay.FileLocation) (io.ReadCloser, error) {
	var paths []string
	for _, at := range of {
		paths = append(paths, at.String())
	}
	return r.client.TakeFiles(ctx, r.session, api.TakeRequest{Paths: paths, Format: api.TakeItems})
}

// Explain tells whether the session ended.
func (r remote) Explain(ctx context.Context, err error) error {
	if !backstay.IsCode(err, backstay.CodeTransferFailed) {
		return err
	}
	if _, ended := r.client.FileSession(ctx, r.session); backstay.IsCode(ended, backstay.CodeSessionEnded) {
		return ended
	}
	return err
}

// local is a point that was opened here.
type local struct{ files *recover.Files }

// Unlock opens a volume.
func (l local) Unlock(ctx context.Context, id backstay.VolumeID, kind backstay.VolumeKey, key []byte) ([]backstay.Volume, error) {
	err := l.files.Unlock(ctx, id, kind, backstay.NewSecret(key))
	return l.files.Volumes(), err
}

// Folder lists a part of a folder.
func (l local) Folder(ctx context.Context, path backstay.FilePath, after string) (api.Folder, error) {
	at, entry, err := l.files.Find(ctx, path, true)
	if err != nil {
		return api.Folder{}, err
	}
	if entry.Type != backstay.TypeFolder {
		return api.Folder{}, backstay.Errorf(backstay.CodeFileUnfit, "%s is no folder", at).Becausef("it is a %s", entry.Type).
			Do("get it with `backstay recover files get`")
	}
	entries, next, err := l.files.Folder(ctx, at, after)
	return api.Folder{FileLocation: at, Entries: entries, Next: next}, err
}

// Entry finds an entry.
func (l local) Entry(ctx context.Context, path backstay.FilePath) (api.Entry, error) {
	at, entry, err := l.files.Find(ctx, path, false)
	return api.Entry{FileLocation: at, Entry: entry}, err
}

// Take takes files.
func (l local) Take(ctx context.Context, of []backstay.FileLocation) (io.ReadCloser, error) {
	return l.files.Take(ctx, of[0].Volume, pathsOf(of))
}

// pathsOf are locations of one volume without it.
func pathsOf(of []backstay.FileLocation) []backstay.FilePath {
	var paths []backstay.FilePath
	for _, at := range of {
		paths = append(paths, at.Path)
	}
	return paths
}

// Explain has nothing to add: what broke off says why.
func (l local) Explain(_ context.Context, err error) error { return err }
