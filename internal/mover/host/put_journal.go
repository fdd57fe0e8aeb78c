package host

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/mover"
)

// The journal of a put is a file of JSON lines on the host. What is about to be
// made in the guest stands in it, synced, before the guest hears of it.

// putLine is one line; exactly one field is set.
type putLine struct {
	Begin *putBegin `json:"begin,omitempty"`
	// Folders will be made; Entries will be written under their new names.
	Folders []backstay.FilePath `json:"folders,omitempty"`
	Entries []putEntry          `json:"entries,omitempty"`
	// Taking has entries that were verified and are about to take their places.
	Taking []putTaking `json:"taking,omitempty"`
	// Done: all are in their places.
	Done *mover.PutReport `json:"done,omitempty"`
	// Cleaned: nothing is left in the guest but what was put.
	Cleaned bool `json:"cleaned,omitempty"`
}

type putBegin struct {
	Version int            `json:"version"`
	Job     backstay.JobID `json:"job"`
	VM      backstay.VMID  `json:"vm"`
}

// putEntry is a file or link that is put: number n of the job.
type putEntry struct {
	N    int               `json:"n"`
	Path backstay.FilePath `json:"path"`
}

// putTaking is what must be known of an entry to take it back. Inode is that of
// the new file and when it was changed last, as `stat` of the guest says them, and Had
// tells that something was in its place.
type putTaking struct {
	N     int    `json:"n"`
	Inode string `json:"inode"`
	Had   bool   `json:"had"`
}

// putJournal is what its lines say.
type putJournal struct {
	putBegin
	folders []backstay.FilePath
	entries []putEntry
	taking  map[int]putTaking
	done    *mover.PutReport
	cleaned bool
	path    string
}

func (h *Host) putFolder() string { return filepath.Join(h.state, "puts") }

func (h *Host) putPath(job backstay.JobID) (string, error) {
	path, err := h.journalPath(job) // which checks the id
	if err != nil {
		return "", err
	}
	return filepath.Join(h.putFolder(), filepath.Base(path)), nil
}

// putLog appends to a journal.
type putLog struct{ f *os.File }

// beginPut makes the journal of a put; fs.ErrExist if there is one.
func (h *Host) beginPut(r mover.PutRequest) (*putLog, error) {
	path, err := h.putPath(r.Job)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("make journal of a put: %w", err)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("make journal of a put: %w", err)
	}
	l := &putLog{f}
	if err := l.add(putLine{Begin: &putBegin{Version: journalVersion, Job: r.Job, VM: r.VM}}); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	folder, err := os.Open(filepath.Dir(path))
	if err == nil {
		err = errors.Join(folder.Sync(), folder.Close())
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make journal of a put: %w", err), f.Close())
	}
	return l, nil
}

// add writes a line and returns when it is durable.
func (l *putLog) add(line putLine) error {
	data, err := json.Marshal(line)
	if err == nil {
		_, err = l.f.Write(append(data, '\n'))
	}
	if err == nil {
		err = l.f.Sync()
	}
	if err != nil {
		return fmt.Errorf("write journal of a put: %w", err)
	}
	return nil
}

// loadPut reads a job's journal; nil if it has none.
func (h *Host) loadPut(job backstay.JobID) (*putJournal, error) {
	path, err := h.putPath(job)
	if err != nil {
		return nil, err
	}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read journal of a put: %w", err)
	}
	j := &putJournal{path: path, taking: map[int]putTaking{}, putBegin: putBegin{Job: job}}
	in := bufio.NewReader(bytes.NewReader(data))
	for {
		text, err := in.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return j, nil // a line that was cut off was not acted on
		}
		var line putLine
		if err := json.Unmarshal(text, &line); err != nil {
			return nil, fmt.Errorf("read journal of a put %s: %w", path, err)
		}
		if err := j.read(line); err != nil {
			return nil, err
		}
	}
}

func (j *putJournal) read(line putLine) error {
	if line.Begin != nil {
		j.putBegin = *line.Begin
		if j.Version != journalVersion {
			return fmt.Errorf("read journal of a put %s: it has version %d, and this backstay knows %d", j.path, j.Version, journalVersion)
		}
	}
	j.folders = append(j.folders, line.Folders...)
	j.entries = append(j.entries, line.Entries...)
	for _, t := range line.Taking {
		j.taking[t.N] = t
	}
	j.cleaned = j.cleaned || line.Cleaned
	if line.Done != nil {
		j.done = line.Done
	}
	return nil
}

// putJobs lists the jobs that have journals here.
func (h *Host) putJobs() ([]backstay.JobID, error) {
	entries, err := os.ReadDir(h.putFolder())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list journals of puts: %w", err)
	}
	var jobs []backstay.JobID
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), ".json"); ok {
			jobs = append(jobs, backstay.JobID(name))
		}
	}
	return jobs, nil
}
