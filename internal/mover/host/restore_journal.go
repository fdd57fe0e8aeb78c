package host

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/durable"
	"github.com/backstay/backstay/internal/mover"
)

// journalVersion is that of a restore's journal.
const journalVersion = 1

// restoreJournal is what a restore made or was about to make, written before
// it does. Undoing the restore goes by it alone: what is not named here was not
// made by it, and is never removed. It holds no secret.
type restoreJournal struct {
	Version int              `json:"version"`
	Job     backstay.JobID   `json:"job"`
	VM      backstay.VMID    `json:"vm"`
	Name    string           `json:"name"`
	Point   backstay.PointID `json:"point"`
	Tier    backstay.Tier    `json:"tier"`
	// Files were not there when the restore began. Disks are among them.
	Files []string `json:"files"`
	// Folders likewise; with all that is in them.
	Folders []string `json:"folders,omitempty"`
	secretNotes
	// Devices were there, and files that a VM of this journal stands on: they are
	// never removed.
	Devices []string `json:"devices,omitempty"`
	// Disks is how far each disk is that is written from a vault.
	Disks []*diskProgress `json:"disks,omitempty"`
	// Left is when an attempt ended because the vault was away. What it wrote waits
	// for a retry, of which the plan is the same.
	Left *time.Time `json:"left,omitempty"`
	// Drill is the job of the drill that the restore is part of; empty for none. What
	// was restored for a drill goes with it.
	Drill backstay.JobID `json:"drill,omitempty"`
	// Live is set while the VM's disks stand on an export.
	Live *liveJournal `json:"live,omitempty"`
	// Staged is set once every disk was written and verified.
	Staged *mover.Staged `json:"staged,omitempty"`
	// Until is until when a restore that has ended can be taken back.
	Until time.Time `json:"until,omitzero"`
	// Defining is set before the VM is defined, when nobody had its UUID.
	Defining bool `json:"defining,omitempty"`
	// Abandoned is set when all of it is to go; a sweep finishes that.
	Abandoned bool `json:"abandoned,omitempty"`

	path string
	mu   sync.Mutex // held while Disks are changed and while it is written
}

// diskProgress is what of a disk is durable, and lets a later life go on from there.
type diskProgress struct {
	Target backstay.DiskTarget `json:"target"`
	Path   string              `json:"path"`
	// File is the file that was made; nil before.
	File *fileID `json:"file,omitempty"`
	// Done: all before this byte was written and is durable, and its sums are in
	// the file Sums, keyed with Key.
	Done int64  `json:"done"`
	Sums string `json:"sums,omitempty"`
	Key  []byte `json:"key,omitempty"`
	// Read and Wrote are bytes of data.
	Read     int64 `json:"read"`
	Wrote    int64 `json:"wrote"`
	Verified bool  `json:"verified,omitempty"`
}

// fileID tells a file from another one under its name.
type fileID struct {
	Device uint64 `json:"device"`
	Inode  uint64 `json:"inode"`
	// Born is when it was made, in nanoseconds, where the file system tells: the
	// number of a file that was removed is given to another one.
	Born int64 `json:"born,omitempty"`
}

// identify returns which file lies at a path.
func identify(path string) (fileID, error) {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, 0, unix.STATX_INO|unix.STATX_BTIME, &st); err != nil {
		return fileID{}, fmt.Errorf("look at %s: %w", path, err)
	}
	id := fileID{Device: unix.Mkdev(st.Dev_major, st.Dev_minor), Inode: st.Ino}
	if st.Mask&unix.STATX_BTIME != 0 {
		id.Born = st.Btime.Sec*1e9 + int64(st.Btime.Nsec)
	}
	return id, nil
}

// update changes the journal and makes it durable.
func (j *restoreJournal) update(change func()) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	change()
	if j.path == "" { // kept by nobody
		return nil
	}
	return j.write()
}

// disk returns how far a disk is; nil if it is not written from a vault.
func (j *restoreJournal) disk(target backstay.DiskTarget) *diskProgress {
	for _, d := range j.Disks {
		if d.Target == target {
			return d
		}
	}
	return nil
}

// unfinished tells whether a later life can go on from what an attempt wrote.
func (j *restoreJournal) unfinished(plan backstay.RestorePlan) bool {
	if j.Abandoned || j.Staged != nil || len(j.Disks) == 0 || len(j.Disks) != len(plan.Disks) {
		return false
	}
	return !slices.ContainsFunc(plan.Disks, func(p backstay.PlannedDisk) bool {
		d := j.disk(p.Target)
		return d == nil || d.Path != p.Path
	})
}

// foreign tells whether something else than what was made lies at a path.
func (j *restoreJournal) foreign(path string) bool {
	for _, d := range j.Disks {
		if d.Path == path && d.File != nil {
			now, err := identify(path)
			return err == nil && now != *d.File
		}
	}
	return false
}

// takes tells whether the restore makes or fills what lies at a path.
func (j *restoreJournal) takes(path string) bool {
	return slices.Contains(j.Files, path) || slices.Contains(j.Devices, path)
}

func (h *Host) journalFolder() string { return filepath.Join(h.state, "restores") }

// journalPath is where a job's journal lies. The job's id comes over the wire
// and must not lead anywhere else.
func (h *Host) journalPath(job backstay.JobID) (string, error) {
	if job == "" || strings.ContainsAny(string(job), "/\x00") || strings.HasPrefix(string(job), ".") {
		return "", backstay.Errorf(backstay.CodeInternal, "%q cannot be the id of a job", string(job))
	}
	return filepath.Join(h.journalFolder(), string(job)+".json"), nil
}

// loadJournal reads a job's journal; nil if it has none.
func (h *Host) loadJournal(job backstay.JobID) (*restoreJournal, error) {
	path, err := h.journalPath(job)
	if err != nil {
		return nil, err
	}
	return readJournal(path)
}

func readJournal(path string) (*restoreJournal, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read restore journal: %w", err)
	}
	j := &restoreJournal{path: path}
	if err := json.Unmarshal(data, j); err != nil {
		return nil, fmt.Errorf("read restore journal %s: %w", path, err)
	}
	if j.Version != journalVersion {
		return nil, fmt.Errorf("read restore journal %s: it has version %d, and this backstay knows %d", path, j.Version, journalVersion)
	}
	return j, nil
}

// journals reads those of all restores that have not ended.
func (h *Host) journals() ([]*restoreJournal, error) {
	entries, err := os.ReadDir(h.journalFolder())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list restore journals: %w", err)
	}
	var all []*restoreJournal
	for _, e := range entries {
		if filepath.Ext(e.Name()) != ".json" {
			continue
		}
		j, err := readJournal(filepath.Join(h.journalFolder(), e.Name()))
		if err != nil {
			return nil, err
		}
		if j != nil {
			all = append(all, j)
		}
	}
	return all, nil
}

// newJournal makes the journal of a restore that begins. It is not written yet.
func (h *Host) newJournal(r mover.StageRequest) (*restoreJournal, error) {
	path, err := h.journalPath(r.Job)
	if err != nil {
		return nil, err
	}
	j := &restoreJournal{
		Version: journalVersion, Job: r.Job, VM: r.Plan.UUID, Name: r.Plan.Name,
		Point: r.Plan.Point, Tier: r.Plan.Tier, path: path,
	}
	if r.Plan.Drill != nil {
		j.Drill = r.Plan.Drill.Drill
	}
	return j, nil
}

// of checks that the journal is that of this plan: a job has one plan for life.
func (j *restoreJournal) of(plan backstay.RestorePlan) error {
	if j.VM != plan.UUID || j.Point != plan.Point || j.Tier != plan.Tier {
		return backstay.Errorf(backstay.CodeInternal, "job %s restored point %s as %s before, and is now asked for another plan", j.Job, j.Point, j.VM)
	}
	return nil
}

// add names files that will be made and are not there yet.
func (j *restoreJournal) add(paths ...string) {
	for _, p := range paths {
		if !slices.Contains(j.Files, p) {
			j.Files = append(j.Files, p)
		}
	}
}

// write makes the journal durable as it stands.
func (j *restoreJournal) write() error {
	data, err := json.MarshalIndent(j, "", "  ")
	if err != nil {
		return fmt.Errorf("encode restore journal: %w", err)
	}
	folder := filepath.Dir(j.path)
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return fmt.Errorf("make folder of restore journals: %w", err)
	}
	if err := durable.WriteFile(j.path, append(data, '\n')); err != nil {
		return fmt.Errorf("write restore journal: %w", err)
	}
	return durable.Sync(filepath.Dir(folder))
}

func (j *restoreJournal) remove() error { return durable.Remove(j.path) }

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
