package pull

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
	"github.com/backstay/backstay/internal/quiesce"
	"github.com/backstay/backstay/internal/tier/snapshot/record"
)

// version is that of the records. Those of a newer one are refused.
const version = 1

// vmRecord is what is kept of one VM: which checkpoint belongs to which point,
// and the session that is under way.
type vmRecord struct {
	Version  int             `json:"version"`
	VM       backstay.VMID   `json:"vm"`
	Bindings []binding       `json:"bindings,omitempty"`
	Session  *sessionJournal `json:"session,omitempty"`

	path string
}

// binding says that a checkpoint and a point are of the same instant. It is
// written before the point: one that no vault has is never built on, and so its
// binding is never used.
type binding struct {
	Checkpoint string                             `json:"checkpoint"`
	Point      backstay.PointID                   `json:"point"`
	Vault      string                             `json:"vault"` // its id
	Disks      map[backstay.DiskTarget]diskRecord `json:"disks"`
}

// diskRecord identifies a disk at the instant of a checkpoint.
type diskRecord struct {
	Size  int64    `json:"size"`
	Chain []string `json:"chain"` // from the active image down
}

// sessionJournal names what a session makes, before it does.
type sessionJournal struct {
	Job     backstay.JobID   `json:"job"`
	Point   backstay.PointID `json:"point"`
	Folder  string           `json:"folder"` // of the socket
	Socket  string           `json:"socket"`
	Scratch []string         `json:"scratch"`
	// Owed is what must be undone in the guest; nil for nothing.
	Owed *quiesce.Debt `json:"owed,omitempty"`
}

// load reads the record of a VM; an empty one if there is none.
func (p *Puller) load(vm backstay.VMID) (*vmRecord, error) {
	if vm == "" || strings.ContainsAny(string(vm), "/\x00") || strings.HasPrefix(string(vm), ".") {
		return nil, fmt.Errorf("%q cannot be the id of a VM", string(vm))
	}
	r := &vmRecord{Version: version, VM: vm, path: filepath.Join(p.state, string(vm)+".json")}
	err := record.ReadJSON(r.path, r)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return r, nil
}

// write makes the record durable as it stands; one that says nothing goes.
func (r *vmRecord) write() error {
	if len(r.Bindings) == 0 && r.Session == nil {
		return record.RemoveFile(r.path)
	}
	return record.WriteJSON(r.path, r)
}

// binding returns that of a point.
func (r *vmRecord) binding(p backstay.PointID) *binding {
	i := slices.IndexFunc(r.Bindings, func(b binding) bool { return b.Point == p })
	if i < 0 {
		return nil
	}
	return &r.Bindings[i]
}

// keeps tells whether a checkpoint belongs to a point that may be built on.
func (r *vmRecord) keeps(checkpoint string) bool {
	return slices.ContainsFunc(r.Bindings, func(b binding) bool { return b.Checkpoint == checkpoint })
}

// basis is what the changes of a disk can be told from.
type basis struct {
	since  string // the checkpoint; "" if everything must be compared
	reason string // why there is none
}

// basisOf decides whether the checkpoint of the parent tells the changes of a
// disk. Any doubt means no (I7).
func (r *vmRecord) basisOf(q Request, d backstay.Disk, chain []string, checkpoints []hypervisor.Checkpoint) basis {
	b := r.binding(q.Parent)
	switch {
	case q.Parent == "":
		return basis{reason: "there is no earlier point"}
	case d.Format != "qcow2":
		return basis{reason: fmt.Sprintf("a %s image keeps no dirty bitmap", d.Format)}
	case b == nil:
		return basis{reason: fmt.Sprintf("no checkpoint belongs to point %s, the newest in the vault", q.Parent)}
	case b.Vault != q.Vault:
		return basis{reason: fmt.Sprintf("the checkpoint of point %s belongs to another vault", q.Parent)}
	}
	then, ok := b.Disks[d.Target]
	i := slices.IndexFunc(checkpoints, func(c hypervisor.Checkpoint) bool { return c.Name == b.Checkpoint })
	switch {
	case !ok:
		return basis{reason: fmt.Sprintf("the disk was no part of the checkpoint of point %s", q.Parent)}
	case i < 0:
		return basis{reason: fmt.Sprintf("the checkpoint %s is gone", b.Checkpoint)}
	case !slices.Contains(checkpoints[i].Disks, d.Target):
		return basis{reason: fmt.Sprintf("the checkpoint %s does not have the disk any more", b.Checkpoint)}
	case then.Size != d.Size:
		return basis{reason: fmt.Sprintf("the disk had %d bytes at the checkpoint and has %d", then.Size, d.Size)}
	case !slices.Equal(then.Chain, chain):
		return basis{reason: "the disk is on other image files than at the checkpoint"}
	}
	return basis{since: b.Checkpoint}
}
