// Package filemount shows a recovery point on the user's own machine: its files as a
// read-only folder (FUSE), or one of its disks as a read-only NBD export. It speaks to
// the server as any client does, with the ticket of one session, and goes with that
// session: when the session ends, when the server is gone, or when the user unmounts,
// nothing of it is left.
//
// It runs as a process of its own behind the command line (Start, Serve), watched by a
// second one (CleanUp) that cleans up should the first be killed. It parses no disk and
// no file system: what it shows are names and bytes from the server.
package filemount

import (
	"context"
	"errors"
	"io"

	backstay "github.com/backstay/backstay"
)

// What names a file of a point or, with a Disk, one of its disks.
type What struct {
	Volume backstay.VolumeID
	Path   backstay.FilePath
	Disk   backstay.DiskTarget
}

// Source is one open session. Its methods may be called concurrently. When the
// session has ended they fail with CodeSessionEnded, CodeUnknownSession or
// CodeNotSignedIn.
type Source interface {
	// Session tells how the session stands, with its volumes.
	Session(ctx context.Context) (backstay.FileSession, error)
	// Folder lists a part of a folder: what comes after what an answer ended with; next
	// is "" if that was all.
	Folder(ctx context.Context, volume backstay.VolumeID, path backstay.FilePath, after string) (page []backstay.FileEntry, next string, err error)
	// Entry tells of one path. CodeUnknownFile if there is none.
	Entry(ctx context.Context, volume backstay.VolumeID, path backstay.FilePath) (backstay.FileEntry, error)
	// Read returns length bytes from an offset, or fewer if ctx ends it.
	Read(ctx context.Context, what What, offset, length int64) (io.ReadCloser, error)
	// End ends the session.
	End(ctx context.Context) error
}

// errOver: the session has ended, and with it everything here.
var errOver = errors.New("the session has ended")

// over tells whether an error means that the session is no more.
func over(err error) bool {
	return errors.Is(err, errOver) || backstay.IsCode(err, backstay.CodeSessionEnded) || backstay.IsCode(err, backstay.CodeUnknownSession) ||
		backstay.IsCode(err, backstay.CodeNotSignedIn)
}
