package backstay

import "time"

// The words of item-level restore: a session opens a point's disks in a small
// machine, where their volumes are found, browsed and read.

type (
	// FileSessionID names a session of item-level restore. It is a ULID.
	FileSessionID string
	// VolumeID names a volume within one point: "vda1", "sdb" for a disk without
	// partitions, "vg0/root", "md0", "vda5:@home" for a subvolume. It holds no space.
	VolumeID string
)

// VolumeKind is what a volume holds.
type VolumeKind string

// The kinds of volume.
const (
	VolumeFiles  VolumeKind = "files"  // a file system that can be read
	VolumeLocked VolumeKind = "locked" // encrypted, and not opened yet
	VolumeSwap   VolumeKind = "swap"
	VolumeEmpty  VolumeKind = "empty" // nothing but zeros where a file system would begin
	// VolumeUnread holds something that cannot be read; its Reason says why.
	VolumeUnread VolumeKind = "unreadable"
)

// VolumeKey names what opens a locked volume.
type VolumeKey string

// The keys of volumes.
const (
	KeyPassphrase VolumeKey = "passphrase"
	KeyFile       VolumeKey = "key-file"
	KeyRecovery   VolumeKey = "recovery-key" // BitLocker's 48 digits
)

// Volume is a part of a point's disks that holds files, or might.
type Volume struct {
	ID   VolumeID   `json:"id"`
	Kind VolumeKind `json:"kind"`
	// FileSystem is its type in the kernel's words: ext4, xfs, btrfs, vfat, exfat,
	// ntfs, iso9660, squashfs; crypto_LUKS or BitLocker for a locked one; "" if unknown.
	FileSystem string `json:"fileSystem"`
	Label      string `json:"label"`
	UUID       string `json:"uuid"`
	Size       int64  `json:"size"` // bytes
	Used       int64  `json:"used"` // bytes; 0 if not known
	// MountPoint is where the guest's own fstab puts it; "" if it does not say.
	MountPoint string `json:"mountPoint"`
	// Disks are those that it lies on, and On says how, outermost first: "partition 2",
	// "LUKS", "LVM vg0".
	Disks []DiskTarget `json:"disks"`
	On    []string     `json:"on"`
	// Reason says why it cannot be read, or only in part; "" if it can.
	Reason string `json:"reason"`
	// Keys are what may open a locked volume.
	Keys []VolumeKey `json:"keys,omitempty"`
}

// FileType is what an entry of a folder is.
type FileType string

// The types of entry.
const (
	TypeFile   FileType = "file"
	TypeFolder FileType = "folder"
	TypeLink   FileType = "link" // symbolic
	TypeBlock  FileType = "block-device"
	TypeChar   FileType = "character-device"
	TypeFIFO   FileType = "fifo"
	TypeSocket FileType = "socket"
)

// FileEntry is one entry of a folder of a point.
type FileEntry struct {
	Name    FilePath   `json:"name"`
	Type    FileType   `json:"type"`
	Size    int64      `json:"size"` // bytes, as the guest sees it
	Used    int64      `json:"used"` // bytes that it takes on its file system
	Mode    uint32     `json:"mode"` // the permission bits with set-uid, set-gid and sticky, as in stat(2)
	UID     uint32     `json:"uid"`
	GID     uint32     `json:"gid"`
	ModTime time.Time  `json:"modTime"`
	Changed *time.Time `json:"changed,omitempty"` // the inode; nil where the file system has none
	Links   uint64     `json:"links"`
	Inode   uint64     `json:"inode"`
	Target  FilePath   `json:"target,omitempty"` // of a symbolic link
}

// SessionKind is what a session is for.
type SessionKind string

// The kinds of session.
const (
	SessionBrowse SessionKind = "browse"
	SessionMount  SessionKind = "mount"
	SessionNBD    SessionKind = "nbd"
)

// DefaultSessionLife is how long a session lasts unless it is told otherwise, and
// MaxSessionLife the longest that can be asked for.
const (
	DefaultSessionLife = 12 * time.Hour
	MaxSessionLife     = 7 * 24 * time.Hour
)

// FileSession is an open session. It survives no restart of the server.
type FileSession struct {
	ID      FileSessionID `json:"id"`
	Kind    SessionKind   `json:"kind"`
	Point   PointID       `json:"point"`
	VM      VMRef         `json:"vm"`
	Tier    Tier          `json:"tier"`
	Host    HostName      `json:"host"` // where its small machine runs
	User    string        `json:"user"` // who opened it
	Created time.Time     `json:"created"`
	Used    time.Time     `json:"used"` // last
	Expires time.Time     `json:"expires"`
	// Holds says what cannot be merged or deleted while it is open; "" for nothing.
	Holds   string   `json:"holds"`
	Volumes []Volume `json:"volumes"`
}

// FoundFile is a path that Find found, with its versions.
type FoundFile struct {
	Volume   VolumeID      `json:"volume"`
	Path     FilePath      `json:"path"`
	Type     FileType      `json:"type"`
	Versions []FileVersion `json:"versions"` // newest first
}

// FileVersion is what a path was in some points that follow each other.
type FileVersion struct {
	Size    int64     `json:"size"`
	ModTime time.Time `json:"modTime"`
	SHA256  string    `json:"sha256"` // hex; "" for what is no file, and where the index has none
	First   PointID   `json:"first"`  // the oldest point that holds it
	Last    PointID   `json:"last"`   // the newest
	Points  int       `json:"points"`
}

// ChangeKind is how a file differs between two points.
type ChangeKind string

// The kinds of change.
const (
	FileAdded   ChangeKind = "added"
	FileChanged ChangeKind = "changed"
	FileRemoved ChangeKind = "removed"
)

// FileChange is one file that differs between two points.
type FileChange struct {
	Change ChangeKind `json:"change"`
	Volume VolumeID   `json:"volume"`
	Path   FilePath   `json:"path"`
	Type   FileType   `json:"type"`
	Before int64      `json:"before"` // size in bytes; 0 if added
	After  int64      `json:"after"`  // size in bytes; 0 if removed
}

// DiskChange is how much of a disk differs between two points.
type DiskChange struct {
	Target DiskTarget `json:"target"`
	Bytes  int64      `json:"bytes"` // at the granularity in which points are compared, so at least what changed
	Note   string     `json:"note"`  // why it could not be told more closely; "" otherwise
}

// PointDiff is what changed between two points of a VM.
type PointDiff struct {
	Before PointID      `json:"before"`
	After  PointID      `json:"after"`
	Disks  []DiskChange `json:"disks"`
	Files  []FileChange `json:"files"` // as many as were asked for
	More   int64        `json:"more"`  // how many there are beyond
	// Notes name volumes that could not be compared, and why.
	Notes []string `json:"notes"`
}

// Conflict says what becomes of a file that is there already.
type Conflict string

// What may become of it.
const (
	ConflictSkip      Conflict = "skip"
	ConflictRename    Conflict = "rename" // the new one gets another name
	ConflictOverwrite Conflict = "overwrite"
	ConflictAsk       Conflict = "ask" // where there is somebody to ask
)
