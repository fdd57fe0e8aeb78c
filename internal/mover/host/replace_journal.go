package host

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/durable"
	"github.com/backstay/backstay/internal/mover"
)

// replaceStage is how far a replace of a VM's disks is.
type replaceStage string

// The stages. What the VM is on decides in doubt, never the stage alone.
const (
	replaceStaging   replaceStage = "staging"   // new disks are being made; the VM is on the old ones
	replaceStaged    replaceStage = "staged"    // they are made and verified
	replaceSwitching replaceStage = "switching" // the new definition was asked for
	replaceSwitched  replaceStage = "switched"  // the VM is on the new disks, and Undo can put it back
	replaceUndoing   replaceStage = "undoing"   // the old definition was asked for
	replaceUndone    replaceStage = "undone"    // the VM is on the old disks again
)

// replaceJournal is what a replace of a VM's disks made, was about to make, and
// keeps for its undo. It is written before anything is done and stays until the
// undo's time is over. It holds definitions, and so is for root alone.
type replaceJournal struct {
	Version int              `json:"version"`
	Job     backstay.JobID   `json:"job"`
	VM      backstay.VMID    `json:"vm"`
	Name    string           `json:"name"`
	Point   backstay.PointID `json:"point"`
	Tier    backstay.Tier    `json:"tier"`
	Stage   replaceStage     `json:"stage"`
	// New are the files that the VM gets, Old those that it had in their places or
	// that are detached, and Whole those of New that stand on nothing.
	New   map[backstay.DiskTarget]string `json:"new"`
	Old   map[backstay.DiskTarget]string `json:"old"`
	Whole []string                       `json:"whole,omitempty"`
	// Staged is set once every new disk was made and verified.
	Staged *mover.Staged `json:"staged,omitempty"`
	// OldXML and NewXML are the definition before and after the switch.
	OldXML string `json:"oldXML,omitempty"`
	NewXML string `json:"newXML,omitempty"`
	// NVRAM is the file of the point's firmware variables, and OldNVRAM that of
	// those that the VM had; "" where none was replaced.
	NVRAM    string `json:"nvram,omitempty"`
	OldNVRAM string `json:"oldNVRAM,omitempty"`
	// TPM is the exchange of the TPM's state; nil where there is none.
	TPM *tpmExchange `json:"tpm,omitempty"`
	// KeepOld is for how long the undo is kept, and Until is its end.
	KeepOld time.Duration `json:"keepOld"`
	Until   time.Time     `json:"until,omitzero"`
	// Switched is when the VM was put on the new disks.
	Switched time.Time `json:"switched,omitzero"`
	secretNotes
	// By is the job of the undo, once one has begun.
	By backstay.JobID `json:"by,omitempty"`

	path string
}

func (h *Host) replaceFolder() string { return filepath.Join(h.state, "replaces") }

func (h *Host) replacePath(job backstay.JobID) (string, error) {
	path, err := h.journalPath(job) // which checks the id
	if err != nil {
		return "", err
	}
	return filepath.Join(h.replaceFolder(), filepath.Base(path)), nil
}

// loadReplace reads a job's journal; nil if it has none.
func (h *Host) loadReplace(job backstay.JobID) (*replaceJournal, error) {
	path, err := h.replacePath(job)
	if err != nil {
		return nil, err
	}
	return readReplace(path)
}

func readReplace(path string) (*replaceJournal, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read journal of a replace: %w", err)
	}
	j := &replaceJournal{path: path}
	if err := json.Unmarshal(data, j); err != nil {
		return nil, fmt.Errorf("read journal of a replace %s: %w", path, err)
	}
	if j.Version != journalVersion {
		return nil, fmt.Errorf("read journal of a replace %s: it has version %d, and this backstay knows %d", path, j.Version, journalVersion)
	}
	return j, nil
}

// replaceJournals reads all of them, oldest job first.
func (h *Host) replaceJournals() ([]*replaceJournal, error) {
	paths, err := filepath.Glob(filepath.Join(h.replaceFolder(), "*.json"))
	if err != nil {
		return nil, fmt.Errorf("list journals of replaces: %w", err)
	}
	slices.Sort(paths)
	var all []*replaceJournal
	for _, path := range paths {
		j, err := readReplace(path)
		if err != nil {
			return nil, err
		}
		if j != nil {
			all = append(all, j)
		}
	}
	return all, nil
}

// newReplace makes the journal of a replace that begins. It is not written yet.
func (h *Host) newReplace(r mover.StageRequest) (*replaceJournal, error) {
	path, err := h.replacePath(r.Job)
	if err != nil {
		return nil, err
	}
	j := &replaceJournal{
		Version: journalVersion, Job: r.Job, VM: r.Plan.UUID, Name: r.Plan.Name, Point: r.Plan.Point, Tier: r.Plan.Tier,
		Stage: replaceStaging, New: map[backstay.DiskTarget]string{}, Old: map[backstay.DiskTarget]string{},
		KeepOld: time.Duration(r.Plan.KeepOld), path: path,
	}
	for _, d := range r.Plan.Disks {
		if made(d) {
			j.New[d.Target] = d.Path
		}
		if d.Old != "" && d.Action != backstay.DiskKept {
			j.Old[d.Target] = d.Old
		}
	}
	return j, nil
}

// made tells whether a planned disk gets a file of its own.
func made(d backstay.PlannedDisk) bool {
	return d.Action == backstay.DiskReplaced || d.Action == backstay.DiskReturned
}

// of checks that the journal is that of this plan: a job has one plan for life.
func (j *replaceJournal) of(plan backstay.RestorePlan) error {
	if j.VM != plan.UUID || j.Point != plan.Point || j.Tier != plan.Tier {
		return backstay.Errorf(backstay.CodeInternal, "job %s replaced the disks of %s with point %s before, and is now asked for another plan", j.Job, j.VM, j.Point)
	}
	return nil
}

// switchedAt is when the VM was put on the new disks.
func (j *replaceJournal) switchedAt() time.Time {
	if j.Switched.IsZero() { // written before it was noted
		return j.Until.Add(-j.KeepOld)
	}
	return j.Switched
}

// enter makes a stage durable.
func (j *replaceJournal) enter(stage replaceStage) error {
	j.Stage = stage
	return j.write()
}

func (j *replaceJournal) write() error {
	data, err := json.MarshalIndent(j, "", "  ")
	if err != nil {
		return fmt.Errorf("encode journal of a replace: %w", err)
	}
	folder := filepath.Dir(j.path)
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return fmt.Errorf("make folder of journals: %w", err)
	}
	if err := cutOff(j.path); err != nil {
		return err
	}
	if err := durable.WriteFile(j.path, append(data, '\n')); err != nil {
		return fmt.Errorf("write journal of a replace: %w", err)
	}
	return durable.Sync(filepath.Dir(folder))
}

func (j *replaceJournal) remove() error {
	if err := cutOff(j.path); err != nil {
		return err
	}
	return durable.Remove(j.path)
}

func (j *replaceJournal) newFiles() []string { return slices.Sorted(maps.Values(j.New)) }
func (j *replaceJournal) oldFiles() []string { return slices.Sorted(maps.Values(j.Old)) }

// detached are the files of disks that were taken out of the VM with nothing in
// their places: they stay their owner's.
func (j *replaceJournal) detached() (files []string) {
	for target, file := range j.Old {
		if _, replaced := j.New[target]; !replaced {
			files = append(files, file)
		}
	}
	return files
}

// cutOff is where tests end the process: it is asked before each durable change
// that a replace or its undo makes outside the snapshot tier.
var cutOff = func(path string) error { return nil }
