package mover

import (
	"context"
	"time"

	backstay "github.com/backstay/backstay"
)

// ImportRequest asks for a point of image files that belong to no VM.
type ImportRequest struct {
	Job   backstay.JobID
	Point backstay.PointID
	// VM is the made-up VM's UUID; the rest of it is in Image.
	VM    backstay.VMID
	Image backstay.ImageBackup
	Time  time.Time
	// The rest is as in TransferRequest.
	Vault   VaultAccess
	Parent  backstay.PointID
	Packs   []string
	Avoid   []string
	Expires *time.Time
}

// Imports makes points of image files. Nothing is ever written to them.
type Imports interface {
	// LookAt returns the disks with the formats and sizes that Import would use. It
	// refuses with CodeImageUnfit what Import could not read to its end or must not
	// open, CodeNotAllowed outside of the folders that are allowed, and CodeConflict
	// if somebody has an image open for writing.
	LookAt(ctx context.Context, image backstay.ImageBackup) ([]backstay.ImageDisk, error)
	// Import makes a point in the vault, or nothing. Phases: transfer, validate. A
	// point that an earlier attempt stored is returned as it is.
	Import(ctx context.Context, r ImportRequest, progress Progress) (Pulled, error)
}
