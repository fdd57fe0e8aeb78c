package record

import (
	"path/filepath"
	"slices"
	"strings"
	"time"

	backstay "github.com/backstay/backstay"
)

// Stage is how far the taking of a point has come.
type Stage string

// The stages, in order.
const (
	StagePrepared  Stage = "prepared"  // overlays may exist; nobody uses them
	StageSwitching Stage = "switching" // the switch was asked for; whether it happened, the VM tells
	StageSwitched  Stage = "switched"  // the switch happened; its outcome is in the intent
	StageRecorded  Stage = "recorded"  // the point is recorded; its guest is owed something
)

// Intent is the journal of one point in the making. It is written before the
// first overlay and removed after the point's record.
type Intent struct {
	Version int              `json:"version"`
	ID      backstay.PointID `json:"id"`
	Job     backstay.JobID   `json:"job"`
	VM      backstay.VMRef   `json:"vm"`
	Stage   Stage            `json:"stage"`
	Disks   []IntentDisk     `json:"disks"`
	// Owed is what has been done to the guest and must be undone (I9); nil for
	// nothing. It is written before it is done.
	Owed *Owed `json:"owed,omitempty"`

	// From here on known since StageSwitching.
	Time time.Time            `json:"time,omitzero"`
	Wish backstay.Consistency `json:"wish,omitempty"`
	// Allowed are the consistencies that the point may have; nil allows all.
	Allowed []backstay.Consistency `json:"allowed,omitzero"`
	// Quiesce: the guest was to be frozen for the switch.
	Quiesce bool         `json:"quiesce,omitempty"`
	Shape   *backstay.VM `json:"shape,omitempty"`
	// Sealed is the definition as it was before the switch; while StagePrepared one
	// with secrets alone, if the point has any.
	Sealed []byte `json:"sealed,omitempty"`
	// Secrets are references to those in Sealed.
	Secrets []backstay.PointSecret `json:"secrets,omitempty"`

	// Known since StageSwitched.
	Consistency backstay.Consistency `json:"consistency,omitempty"`
	Reason      string               `json:"reason,omitempty"`
	FreezeMs    int64                `json:"freezeMs,omitempty"`

	// Path is where the journal lies.
	Path string `json:"-"`
}

// Owed is what is owed to a guest.
type Owed struct {
	Asked  bool  `json:"asked,omitempty"`  // it was asked to freeze, or was about to be
	Paused bool  `json:"paused,omitempty"` // its VM was paused, or was about to be
	Post   *Hook `json:"post,omitempty"`   // the application's post hook must run
}

// Hook is a program in the guest.
type Hook struct {
	Path              string   `json:"path"`
	Args              []string `json:"args,omitempty"`
	TimeoutSeconds    int      `json:"timeoutSeconds,omitempty"`
	Retries           int      `json:"retries,omitempty"`
	RetryDelaySeconds int      `json:"retryDelaySeconds,omitempty"`
}

// IntentDisk is one disk of a point in the making.
type IntentDisk struct {
	Target  backstay.DiskTarget `json:"target"`
	Source  string              `json:"source"` // the file that will be frozen
	Format  string              `json:"format"`
	Secret  string              `json:"secret,omitempty"` // see Layer.Secret
	Size    int64               `json:"size"`
	Layer   backstay.LayerID    `json:"layer"`
	Overlay string              `json:"overlay"`
	Next    backstay.LayerID    `json:"next"` // the overlay's layer id
}

// Merge is the journal of one merge: layer Child is being committed into
// layer Into, after which Child is gone.
type Merge struct {
	Version int                 `json:"version"`
	Point   backstay.PointID    `json:"point"` // the point that is being dropped
	VM      backstay.VMID       `json:"vm"`
	Target  backstay.DiskTarget `json:"target"`
	Into    backstay.LayerID    `json:"into"`
	Child   backstay.LayerID    `json:"child"`
	// Active: Child was the file that the VM writes to.
	Active bool `json:"active"`
	// Live: the merge was begun by the running hypervisor.
	Live bool `json:"live"`
	// Committed is Child's file when Into held all of it, nil before. A Child
	// that is as it was then is never committed again: the VM may have gone on on
	// Into (I8). One that changed has the VM on it still.
	Committed *Stamp `json:"committed,omitempty"`

	// Path is where the journal lies.
	Path string `json:"-"`
}

// mergePrefix starts the file name of a merge's journal.
const mergePrefix = "merge-"

// IntentFile is the path of a point's journal, in a folder of its disks.
func IntentFile(folder string, p backstay.PointID) string {
	return filepath.Join(folder, Folder, intentFolder, string(p)+".json")
}

// MergeFile is the path of the journal of a merge into a layer.
func MergeFile(into *Layer) string {
	return filepath.Join(into.RecordFolder(), Folder, intentFolder, mergePrefix+string(into.ID)+".json")
}

// readIntents reads the journals of one folder, but those of foreign layers.
func (b *Book) readIntents(folder string, foreign map[backstay.LayerID]bool) error {
	paths, err := listJSON(folder)
	if err != nil {
		return err
	}
	for _, path := range paths {
		if strings.HasPrefix(filepath.Base(path), mergePrefix) {
			m := &Merge{Path: path}
			if err := ReadJSON(path, m); err != nil {
				return err
			}
			if !foreign[m.Into] && !foreign[m.Child] {
				b.Merges = append(b.Merges, m)
			}
			continue
		}
		if strings.HasPrefix(filepath.Base(path), copyPrefix) {
			c := &Copy{Path: path}
			if err := ReadJSON(path, c); err != nil {
				return err
			}
			if !foreign[c.Active] && !foreign[c.Bottom] {
				b.Copies = append(b.Copies, c)
			}
			continue
		}
		in := &Intent{Path: path}
		if err := ReadJSON(path, in); err != nil {
			return err
		}
		if !slices.ContainsFunc(in.Disks, func(d IntentDisk) bool { return foreign[d.Layer] }) {
			b.Intents = append(b.Intents, in)
		}
	}
	return nil
}
