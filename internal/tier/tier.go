// Package tier is the port to where recovery points live. A tier's points are
// opened disk by disk for reading; how they are written differs and is each
// tier's own (snapshot: layers beside the disk; vault: sealed chunks).
package tier

import (
	"io"

	backstay "github.com/backstay/backstay"
)

// Extent is a run of a disk's content that is data, or is zeros and need not be read.
type Extent struct {
	backstay.Range
	Zero bool
}

// Image is the content of one disk of a recovery point, or of a disk being read.
// ReadAt and Extents may be called concurrently. ReadAt fills the whole slice or
// fails; content that cannot be authenticated is an error, never data (I4).
type Image interface {
	io.ReaderAt
	io.Closer
	// Size is the guest-visible size in bytes.
	Size() int64
	// Extents describes [offset, offset+length) completely, in order and
	// without gaps; neighbours may be of one sort.
	Extents(offset, length int64) ([]Extent, error)
}

// Definition is what a recovery point holds of its VM beside the disks. It
// contains secrets and is only ever stored sealed (I10).
type Definition struct {
	LiveXML     string            `json:"liveXML"`
	InactiveXML string            `json:"inactiveXML"`
	NVRAM       []byte            `json:"nvram,omitempty"`
	TPM         map[string][]byte `json:"tpm,omitempty"` // relative path → content
	// Autostart: the host started the VM when it started itself. No definition says so.
	Autostart bool `json:"autostart,omitempty"`
	// Files are files of the host that the definition hands to the guest through its
	// firmware, by their paths: keys with which the guest opens its own disks, for
	// instance.
	Files map[string]HostFile `json:"files,omitempty"`
	// Secrets are those that the point's disks and its TPM are encrypted with. A
	// point of an older release has none; a reader of an older release passes them
	// over.
	Secrets []Secret `json:"secrets,omitempty"`
}
