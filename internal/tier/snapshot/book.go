package snapshot

import (
	"context"
	"crypto/rand"
	"fmt"

	"github.com/oklog/ulid/v2"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
	"github.com/backstay/backstay/internal/tier/snapshot/record"
)

// The records beside the disks, under the names that this package's callers use.
type (
	// Layer is the record of one image file of a disk's tree of overlays.
	Layer = record.Layer
	// User is something other than the layer's own VM that needs the layer as it is.
	User = record.User
	// UserKind is what kind of thing stands on a layer.
	UserKind = record.UserKind
	// PointRecord is the record of one snapshot-tier point.
	PointRecord = record.Point
	// RecordDisk is one disk of a recorded point.
	RecordDisk = record.Disk
)

// The kinds of user.
const (
	UserVM       = record.UserVM
	UserTransfer = record.UserTransfer
	UserMount    = record.UserMount
	UserRestore  = record.UserRestore
	UserUndo     = record.UserUndo
)

type (
	intent      = record.Intent
	intentDisk  = record.IntentDisk
	mergeIntent = record.Merge
)

// book is all records of the host at one instant, with what this package
// decides by them.
type book struct{ *record.Book }

// imageOf is how a layer is opened.
func imageOf(l *Layer) hypervisor.Image {
	return hypervisor.Image{Location: l.File, Format: l.Format, Secret: l.Secret}
}

// sourceOf is what a VM is put on when it uses the layer as its own.
func sourceOf(l *Layer) hypervisor.Source {
	return hypervisor.Source{Image: imageOf(l), Element: l.Element}
}

// load reads all records.
func (t *Tier) load() (*book, error) {
	b, err := t.records.Load()
	return &book{b}, err
}

// change reads all records and lets fn change and write them, while nobody
// else does.
func (t *Tier) change(fn func(b *book) error) error {
	return t.records.Change(func(b *record.Book) error { return fn(&book{b}) })
}

func (t *Tier) newLayerID() (backstay.LayerID, error) {
	id, err := ulid.New(ulid.Timestamp(t.now()), rand.Reader)
	if err != nil {
		return "", fmt.Errorf("make layer id: %w", err)
	}
	return backstay.LayerID(id.String()), nil
}

// steady returns a context that goes on when ctx is cancelled: for what must
// not stop half-way.
func steady(ctx context.Context) context.Context { return context.WithoutCancel(ctx) }
