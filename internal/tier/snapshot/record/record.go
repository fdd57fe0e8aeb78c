// Package record is what the snapshot tier writes beside the disks: a record for
// each layer and each point, and a journal for everything that is half done. It
// reads and writes them durably, and knows what they say of each other.
//
// It decides nothing and touches no image, hypervisor or VM: that is the
// snapshot tier's business.
package record

import (
	"time"

	backstay "github.com/backstay/backstay"
)

// Version is that of the records beside the disks. Records of a newer one are
// refused, older ones stay readable (I14).
const Version = 1

// Layer is the record of one image file of a disk's tree of overlays.
type Layer struct {
	Version int                 `json:"version"`
	ID      backstay.LayerID    `json:"id"`
	File    string              `json:"file"` // absolute, or the URI of an NBD export
	Format  string              `json:"format"`
	Parent  backstay.LayerID    `json:"parent"` // "" at the bottom
	Target  backstay.DiskTarget `json:"target"`
	VM      backstay.VMID       `json:"vm"`
	Size    int64               `json:"size"` // guest-visible bytes
	// Folder is where the record lies, if the layer's file is no file of the host:
	// a block device or an export on the network. "" means beside the file.
	Folder string `json:"folder,omitempty"`
	// Secret is the UUID of the libvirt secret that opens an encrypted image; ""
	// if it is not encrypted. The secret itself is nowhere in the records (I10).
	Secret string `json:"secret,omitempty"`
	// Element is the disk's element in the VM's definition when its protection
	// began, on the bottom layer only: the VM gets exactly it back (I15).
	Element string `json:"element,omitempty"`
	// Bottom marks the file that the VM used when its protection began. Nothing
	// below it is ever written (I15).
	Bottom bool `json:"bottom"`
	// Left marks a layer that the VM it was made for has left, for a copy: it goes
	// when nothing stands on it any more.
	Left bool `json:"left,omitempty"`
	// Kept marks a layer of a disk that a restore took out of its VM: its content is
	// its owner's. It is never removed, only merged into the layer below.
	Kept bool `json:"kept,omitempty"`
	// Points are those that rest on this layer; a layer with points is frozen.
	Points []backstay.PointID `json:"points"`
	Users  []User             `json:"users"`
	// Stamp is the frozen file as it was last seen by us; a file that differs
	// from it proves nothing about changes (I7).
	Stamp *Stamp `json:"stamp,omitempty"`
}

// UserKind is what kind of thing stands on a layer.
type UserKind string

// The kinds of user.
const (
	UserVM       UserKind = "vm"       // a VM restored from the layer without copying
	UserTransfer UserKind = "transfer" // a job that reads the layer
	UserMount    UserKind = "mount"    // a session that shows the layer's content to somebody
	// UserRestore is a restore that is making the layer: a VM may be put on it any
	// moment, so nothing below is merged.
	UserRestore UserKind = "restore"
	// UserUndo is the undo of a restore, which would put the VM back on the layer.
	// What is below may be merged as long as the layer's own content stays.
	UserUndo UserKind = "undo"
)

// User is something other than the layer's own VM that needs the layer as it is.
type User struct {
	Kind UserKind `json:"kind"`
	// ID is the VM's UUID, or the job's id, or begins with the session's and a slash.
	ID string `json:"id"`
	// Job is the job that made the entry.
	Job   backstay.JobID `json:"job,omitempty"`
	Since time.Time      `json:"since"`
	// By is who opened a session, Until when it ends at the latest, and Host where
	// it is open.
	By    string            `json:"by,omitempty"`
	Until time.Time         `json:"until,omitzero"`
	Host  backstay.HostName `json:"host,omitempty"`
	// Overlay is the file that the VM writes to.
	Overlay string `json:"overlay,omitempty"`
}

// Same tells whether two entries are of the same user. Of a VM each file of its own
// that stands on the layer counts: two restores may make a VM of the same UUID, of
// which one fails.
func (u User) Same(o User) bool {
	return u.Kind == o.Kind && u.ID == o.ID && (u.Kind != UserVM || u.Overlay == o.Overlay)
}

// PointState says whether a recorded point may be offered.
type PointState string

// The states of a point's record.
const (
	PointAvailable PointState = "available"
	// PointDropping: a merge has begun or will; its layers may hold more than
	// the point, and it is never offered again.
	PointDropping PointState = "dropping"
	// PointMap: it is in a vault, and of it only what the next change map is
	// relative to is left; it is never offered again.
	PointMap PointState = "map"
	// PointBroken: a VM wrote to a layer after it was frozen.
	PointBroken PointState = "broken"
)

// Point is the record of one snapshot-tier point.
type Point struct {
	Version     int              `json:"version"`
	ID          backstay.PointID `json:"id"`
	Job         backstay.JobID   `json:"job"`
	State       PointState       `json:"state"`
	StateReason string           `json:"stateReason,omitempty"`
	// Was is the state before PointDropping: a refusal takes it back.
	Was PointState `json:"was,omitempty"`
	// Pinned: it stays whatever is asked of it, until it is unpinned.
	Pinned bool `json:"pinned,omitempty"`
	// Vaulted: it was seen to be in its vault.
	Vaulted     bool                 `json:"vaulted,omitempty"`
	Time        time.Time            `json:"time"`
	VM          backstay.VMRef       `json:"vm"`
	Consistency backstay.Consistency `json:"consistency"`
	Reason      string               `json:"reason"`
	FreezeMs    int64                `json:"freezeMs"`
	Disks       []Disk               `json:"disks"`
	Shape       backstay.VM          `json:"shape"`
	// Sealed is the definition: gzip of its JSON under AES-256-GCM with the
	// host's key, the nonce in front, the point's id as associated data.
	Sealed []byte `json:"sealed"`
	// Secrets are references to those that the definition holds.
	Secrets []backstay.PointSecret `json:"secrets,omitempty"`

	// Parent is the point whose layers lie directly below. It is worked out from
	// the layers when records are read, since it changes as points are dropped.
	Parent backstay.PointID `json:"-"`
	// Notes are warnings of the call that took the point. They are not recorded.
	Notes []string `json:"-"`
}

// Disk is one disk of a recorded point. Layer is empty for a disk that
// is not part of the point.
type Disk struct {
	backstay.PointDisk
	Layer backstay.LayerID `json:"layer"`
}
