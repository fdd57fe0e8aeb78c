package mover

import (
	"context"
	"io"
	"time"

	backstay "github.com/backstay/backstay"
)

// OpenFilesRequest asks for a session of item-level restore.
type OpenFilesRequest struct {
	Session backstay.FileSessionID
	Point   backstay.PointID
	Tier    backstay.Tier
	Vault   *VaultAccess // with VaultTier
	// User is who opens it, for those who must be told what a session holds.
	User string
	// Disks are those that are wanted; empty means all of the point.
	Disks []backstay.DiskTarget
	// Raw wants the disks only as they are (FileRead with a disk): no small machine is
	// started.
	Raw bool
	// Expires is when the host ends the session by itself, should nobody else.
	Expires time.Time
	// Services are the key services that the point's secrets may need.
	Services []KeyService
}

// OpenedFiles is an open session.
type OpenedFiles struct {
	Volumes []backstay.Volume
	Disks   []backstay.PointDisk
	// Holds says what cannot be merged or deleted meanwhile; "" for nothing.
	Holds string
}

// UnlockRequest opens a locked volume of a session. Key is what the user gave.
type UnlockRequest struct {
	Session backstay.FileSessionID
	Volume  backstay.VolumeID
	Kind    backstay.VolumeKey
	Key     backstay.Secret // rpc carries it, nothing prints it
}

// FolderRequest asks for a part of a folder: at most Limit entries after those that
// an answer ended with. Limit 0 leaves it to the host.
type FolderRequest struct {
	Session backstay.FileSessionID
	Volume  backstay.VolumeID
	Path    backstay.FilePath
	After   string
	Limit   int
	// Itself asks for the entry of the path instead of what is in it.
	Itself bool
}

// FolderPage is a part of a folder.
type FolderPage struct {
	Entries []backstay.FileEntry `json:"entries"`
	Next    string               `json:"next"` // After of the next request; "" if that was all
}

// FileReadRequest asks for bytes of a file or, with a Disk, of a disk of the point.
type FileReadRequest struct {
	Session backstay.FileSessionID
	Volume  backstay.VolumeID
	Path    backstay.FilePath
	Disk    backstay.DiskTarget
	Offset  int64
	Length  int64 // -1: to the end
}

// FileTakeRequest asks for files and folders with all that is in them, as a stream of
// internal/items. Strip is the folder to which the items' paths are relative; "" means
// the parent of each path.
type FileTakeRequest struct {
	Session backstay.FileSessionID
	Volume  backstay.VolumeID
	Paths   []backstay.FilePath
	Strip   backstay.FilePath
}

// Files opens points for item-level restore. A session is gone when it is closed,
// when it expires, when the mover ends, or when a backup needs the room of a layer that
// it holds: every call then fails with CodeSessionEnded.
type Files interface {
	// OpenFiles opens a session; with an id that is open already it returns that one.
	OpenFiles(ctx context.Context, r OpenFilesRequest, progress Progress) (OpenedFiles, error)
	// UnlockVolume opens a locked volume and returns all volumes. CodeVolumeKey if the
	// key is wrong.
	UnlockVolume(ctx context.Context, r UnlockRequest) ([]backstay.Volume, error)
	// Folder lists a folder. CodeUnknownFile if there is none of that path.
	Folder(ctx context.Context, r FolderRequest) (FolderPage, error)
	// ReadFile writes what was asked for to w. ctx ends it.
	ReadFile(ctx context.Context, r FileReadRequest, w io.Writer) error
	// TakeFiles writes a stream of items to w. ctx ends it.
	TakeFiles(ctx context.Context, r FileTakeRequest, w io.Writer) error
	// CloseFiles ends a session; no error if it is not open.
	CloseFiles(ctx context.Context, id backstay.FileSessionID) error
	// OpenSessions lists the sessions that are open on the host.
	OpenSessions(ctx context.Context) ([]backstay.FileSessionID, error)
}
