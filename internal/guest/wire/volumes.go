package wire

import backstay "github.com/backstay/backstay"

// The operations on disks and volumes.
const (
	OpAttached = "attached" // AttachedRequest → nothing, once the disk is there
	OpScan     = "scan"     // nothing → Scanned
	OpUnlock   = "unlock"   // UnlockRequest → Scanned
)

// AttachedRequest tells of a disk that was plugged in, with its serial number.
type AttachedRequest struct {
	Serial string              `json:"serial"` // at most 20 bytes
	Disk   backstay.DiskTarget `json:"disk"`
	Size   int64               `json:"size"` // bytes
	// Opens is the volume of which it is the opened content; "" for a disk of the point.
	Opens backstay.VolumeID `json:"opens,omitempty"`
}

// Scanned are all volumes that were found on the disks so far.
type Scanned struct {
	Volumes []backstay.Volume `json:"volumes"`
	// Locks are the locked ones among them that whoever has the key may open outside,
	// where that is faster, and plug in as a disk that Opens them.
	Locks []Lock `json:"locks,omitempty"`
}

// Lock tells where a locked volume lies on one disk as one run, with its header.
type Lock struct {
	Volume backstay.VolumeID   `json:"volume"`
	Disk   backstay.DiskTarget `json:"disk"`
	// Offset and Length are bytes of the disk. Length 0: it does not lie on a disk in one
	// run, and can be opened in the machine alone.
	Offset int64 `json:"offset"`
	Length int64 `json:"length"`
	// Header is the beginning of the volume, at most 16 MiB, where Length is 0.
	Header []byte `json:"header,omitempty"`
}

// UnlockRequest opens a locked volume inside the machine. One of the keys is set.
type UnlockRequest struct {
	Volume backstay.VolumeID `json:"volume"`
	// VolumeKey is the key that the content itself is encrypted with.
	VolumeKey   []byte `json:"volumeKey,omitempty"`
	Passphrase  []byte `json:"passphrase,omitempty"`
	KeyFile     []byte `json:"keyFile,omitempty"`
	RecoveryKey []byte `json:"recoveryKey,omitempty"`
}
