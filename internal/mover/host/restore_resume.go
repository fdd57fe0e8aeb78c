package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/durable"
	"github.com/backstay/backstay/internal/mover"
	"github.com/backstay/backstay/internal/tier/content"
)

// leftFor is how long what an attempt wrote is kept for a retry.
const leftFor = 24 * time.Hour

// patience is how long a restore waits for a vault that does not answer, and goes
// on when it does. Tests are less patient.
var patience = struct{ first, most, total time.Duration }{time.Second, 30 * time.Second, 10 * time.Minute}

// isAway tells whether a vault did not answer, rather than answered badly.
func isAway(err error) bool {
	return backstay.IsCode(err, backstay.CodeVaultAway) || errors.Is(err, blob.ErrAway)
}

// stagePatiently stages, and again where the vault was cut off, from what is
// durable. It gives up when nothing came for as long as the patience lasts.
func (h *Host) stagePatiently(ctx context.Context, r mover.StageRequest, progress mover.Progress) (mover.Staged, error) {
	last, pause, waited := mover.Report{Phase: "write"}, patience.first, time.Duration(0)
	for {
		moved := false
		staged, err := h.stage(ctx, r, func(r mover.Report) {
			moved, last = moved || r.Done > last.Done || r.Phase != last.Phase, r
			progress(r)
		})
		if err == nil || !isAway(err) || ctx.Err() != nil {
			return staged, err
		}
		if moved {
			pause, waited = patience.first, 0
		}
		if waited >= patience.total {
			left := backstay.Errorf(backstay.CodeVaultAway, "the vault stayed away while the disks of %s were written", r.Plan.Name).Because(err).
				Do("when it answers again, `backstay job retry %s` goes on where this job ended; what is written is kept for a day", r.Job)
			return staged, errors.Join(left, h.leave(r.Job))
		}
		h.log.Warn("a restore waits for its vault", "job", r.Job, "point", r.Plan.Point, "pause", pause, "error", err)
		progress(mover.Report{Phase: last.Phase, Done: last.Done, Total: last.Total,
			Note: fmt.Sprintf("the vault does not answer; asked again in %s", pause)})
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return mover.Staged{}, context.Cause(ctx)
		}
		waited, pause = waited+pause, min(2*pause, patience.most)
	}
}

// leave keeps what an attempt wrote for a retry.
func (h *Host) leave(job backstay.JobID) error {
	j, err := h.loadJournal(job)
	if err != nil || j == nil || len(j.Disks) == 0 {
		return err
	}
	now := h.now().UTC()
	return j.update(func() { j.Left = &now })
}

// waits tells whether what a failed attempt wrote is to stay: the next one goes on
// from it. A cancel is meant to undo.
func (j *restoreJournal) waits(ctx context.Context, err error) bool {
	switch {
	case len(j.Disks) == 0:
		return false
	case ctx.Err() != nil:
		return !errors.Is(context.Cause(ctx), backstay.ErrCancelled)
	}
	return isAway(err)
}

// continueAs makes what an attempt left that of the job which retries it. Only
// then is the old journal removed.
func (j *restoreJournal) continueAs(job backstay.JobID, path string) (*restoreJournal, error) {
	old := j.path
	j.Job, j.path, j.Left = job, path, nil
	if err := j.write(); err != nil {
		return nil, err
	}
	return j, durable.Remove(old)
}

// sumsFile is where the sums of a disk lie.
func (j *restoreJournal) sumsFile(d *diskProgress) string {
	return filepath.Join(filepath.Dir(j.path), filepath.Base(d.Sums))
}

// keepSums makes the sums of a range of the disk durable.
func (j *restoreJournal) keepSums(d *diskProgress, sums *content.Sums, part backstay.Range) error {
	if j.path == "" {
		return nil
	}
	f, err := os.OpenFile(j.sumsFile(d), os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("keep sums: %w", err)
	}
	from := part.Offset / content.Page
	_, err = f.WriteAt(sums.Save(from, (part.End()+content.Page-1)/content.Page), from*content.Saved)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("keep sums: %w", err)
	}
	return nil
}

// loadSums returns the sums of what is durable of a disk.
func (j *restoreJournal) loadSums(d *diskProgress, size int64) (*content.Sums, error) {
	saved, err := os.ReadFile(j.sumsFile(d))
	if err != nil && d.Done > 0 {
		return nil, fmt.Errorf("read sums: %w", err)
	}
	want := (d.Done + content.Page - 1) / content.Page * content.Saved
	if int64(len(saved)) < want {
		return nil, fmt.Errorf("read sums: %d bytes instead of %d", len(saved), want)
	}
	return content.LoadSums(size, d.Key, saved[:want])
}

// removeSums removes the sums of all disks.
func (j *restoreJournal) removeSums() error {
	for _, d := range j.Disks {
		if err := durable.Remove(j.sumsFile(d)); err != nil {
			return err
		}
	}
	return nil
}

// begin notes the disks that will be written, before the first is made.
func (j *restoreJournal) begin(plan backstay.RestorePlan) error {
	if len(j.Disks) > 0 {
		return nil
	}
	return j.update(func() {
		for i, p := range plan.Disks {
			j.Disks = append(j.Disks, &diskProgress{Target: p.Target, Path: p.Path, Sums: fmt.Sprintf("%s.%d.sums", j.Job, i)})
		}
	})
}

// disown takes a path out of what is removed with the restore: something else lies
// there.
func (j *restoreJournal) disown(path string) error {
	return j.update(func() { j.Files = slices.DeleteFunc(j.Files, func(p string) bool { return p == path }) })
}
