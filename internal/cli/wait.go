package cli

import (
	"context"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/client"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
)

// started says that a job began and, unless told otherwise, waits for its end.
// The result is printed on stdout; an error comes back for a job that did not
// succeed.
func (a *app) started(ctx context.Context, c *client.Client, job backstay.Job) error {
	if a.output == "table" {
		fmt.Fprintf(a.Stdout, "job %s\n", job.ID)
	} else {
		a.note("job %s", job.ID)
	}
	if a.noWait {
		if a.output == "table" {
			a.note("follow it with: %s", a.again("backstay job watch %s", job.ID))
			return nil
		}
		return a.emit(job, nil)
	}
	return a.wait(ctx, c, job.ID)
}

// wait follows a job to its end and prints what became of it.
func (a *app) wait(ctx context.Context, c *client.Client, id backstay.JobID) error {
	p := a.progress(ctx)
	job, err := c.Follow(ctx, id, p.show)
	p.end()
	if ctx.Err() != nil && !job.State.Ended() {
		a.note("stopped waiting; the job goes on\nfollow it with: %s\ncancel it with: %s", a.again("backstay job watch %s", id), a.again("backstay job cancel %s", id))
		return errInterrupted
	}
	if err != nil {
		return err
	}
	for _, w := range job.Warnings {
		a.note("warning: %s", oneLine(w))
	}
	if err := a.emit(job, func(w io.Writer) { a.summary(w, job) }); err != nil {
		return err
	}
	return outcome(job)
}

// outcome is the error of a job that did not succeed, or nil.
func outcome(job backstay.Job) error {
	switch job.State {
	case backstay.JobSucceeded, backstay.JobWarning:
		return nil
	case backstay.JobCancelled:
		return backstay.Errorf(backstay.CodeCancelled, "the job %s was cancelled", job.ID).Becausef("somebody cancelled it; what it had not finished is undone")
	}
	if job.Error != nil {
		e := *job.Error
		if known, ok := backstay.Codes()[e.Code]; ok && e.Kind == "" {
			e.Kind = known.Kind
		}
		return &e
	}
	return backstay.Errorf(backstay.CodeInternal, "the job %s ended as %s", job.ID, job.State)
}

// backupLines say what a backup made of each VM: which disks, which not and why,
// and what became of the way to the vault.
func backupLines(w io.Writer, backups []backstay.BackedUp) {
	for _, b := range backups {
		who := ""
		if len(backups) > 1 {
			who = vmLabel(b.VM) + ": "
			fmt.Fprintf(w, "%spoint %s\n", who, b.Point)
		}
		var names []string
		for _, d := range b.Disks {
			names = append(names, string(d))
		}
		fmt.Fprintf(w, "%sbacked-up disks: %s (%s)\n", who, strings.Join(names, ", "), size(b.Size))
		for _, d := range b.Excluded {
			fmt.Fprintf(w, "%snot backed up: %s: %s\n", who, d.Target, d.Reason)
		}
		for _, target := range sortedKeys(b.Modes) {
			fmt.Fprintf(w, "%s%s: %s\n", who, target, b.Modes[target])
		}
		if b.Skipped != "" {
			fmt.Fprintf(w, "%snot transferred: %s\n", who, b.Skipped)
		}
	}
}

// summary is one line about an ended job, and one for each thing it made.
func (a *app) summary(w io.Writer, job backstay.Job) {
	took := ""
	if job.Started != nil && job.Ended != nil {
		took = " in " + span(job.Ended.Sub(*job.Started))
	}
	fmt.Fprintf(w, "%s of %s: %s%s\n", job.Kind, job.Target, job.State, took)
	r, s := job.Result, job.Stats
	if r.Point != "" {
		fmt.Fprintf(w, "point %s\n", r.Point)
	}
	backupLines(w, r.Backups)
	if r.Folder != "" && job.Kind == backstay.JobRestore {
		fmt.Fprintf(w, "%d disk(s) and %d other file(s) in %s\n", len(r.Disks), len(r.Files), r.Folder)
		if slices.ContainsFunc(r.Files, func(f string) bool { return path.Base(f) == "template.xml" }) {
			fmt.Fprintf(w, "make a VM of them with: %s\n", a.again("backstay deploy %s", r.Folder))
		}
	}
	if p := r.Put; p != nil {
		fmt.Fprintf(w, "%d file(s), %d link(s) and %d new folder(s) in %s (%s); %d left as they were\n", p.Files, p.Links, p.Folders, p.To, size(p.Bytes), p.Skipped)
	}
	if r.VM != nil {
		fmt.Fprintf(w, "VM %s (%s)\n", vmLabel(*r.VM), r.VM.UUID)
	}
	if r.Repaired > 0 {
		fmt.Fprintf(w, "%d copies of objects written anew (%s) and read back\n", r.Repaired, size(s.BytesNew))
	}
	for _, change := range r.Changes {
		fmt.Fprintln(w, change)
	}
	if job.Kind == backstay.JobVerify && r.Point == "" && s.BytesRead > 0 {
		fmt.Fprintf(w, "read %s over all copies\n", size(s.BytesRead))
	}
	if r.Reclaimed != nil {
		fmt.Fprintf(w, "moved %s; to the trash %s; deleted %s; needed again %s\n", sum(r.Reclaimed.Moved), sum(r.Reclaimed.Condemned),
			sum(r.Reclaimed.Deleted), sum(r.Reclaimed.Rescued))
	}
	if r.UpSeconds > 0 {
		fmt.Fprintf(w, "up after %.1f s\n", r.UpSeconds)
	}
	if r.DownSeconds > 0 {
		fmt.Fprintf(w, "down for %.1f s\n", r.DownSeconds)
	}
	if r.SafetyPoint != "" {
		fmt.Fprintf(w, "what was there before is recovery point %s\n", r.SafetyPoint)
	}
	if r.UndoUntil != nil {
		fmt.Fprintf(w, "take it back until %s with: %s\n", r.UndoUntil.Local().Format("2006-01-02 15:04 MST"), a.again("backstay restore undo %s", job.ID))
	}
	for _, d := range sortedKeys(r.SHA256) {
		fmt.Fprintf(w, "disk %s sha256 %s\n", d, r.SHA256[d])
	}
	if job.Kind == backstay.JobBackup && job.State != backstay.JobFailed && job.State != backstay.JobCancelled {
		fmt.Fprintf(w, "read %s, changed %s, stored %s; guest frozen for %d ms at most\n", size(s.BytesRead), size(s.BytesDirty), size(s.BytesNew), s.FreezeMs)
	}
}

// progress shows how a job goes on, on stderr.
type progress interface {
	show(job backstay.Job)
	end()
}

func (a *app) progress(ctx context.Context) progress {
	if a.IsTerminal(a.Stderr) {
		return newBar(ctx, a.Stderr)
	}
	return &lines{a: a}
}

// phase names what a job is doing now.
func phase(job backstay.Job) string {
	if job.State == backstay.JobQueued {
		if job.Waiting != "" {
			return "queued: " + job.Waiting
		}
		return "queued"
	}
	for _, t := range job.Tasks {
		if t.State == backstay.TaskRunning {
			return t.Name
		}
	}
	return string(job.State)
}

// amount writes bytes, rate and time left, as far as they are known.
func amount(job backstay.Job) string {
	if job.BytesTotal == 0 {
		return ""
	}
	parts := []string{size(job.BytesDone) + " of " + size(job.BytesTotal)}
	if job.State == backstay.JobRunning && job.BytesPerSecond > 0 {
		parts = append(parts, size(job.BytesPerSecond)+"/s")
	}
	if job.EtaSeconds != nil && !job.State.Ended() {
		parts = append(parts, span(time.Duration(*job.EtaSeconds)*time.Second)+" left")
	}
	return strings.Join(parts, ", ")
}

// lines shows progress where there is no terminal: one line for each phase, and
// one for each further tenth within it.
type lines struct {
	a     *app
	phase string
	tenth int
}

func (l *lines) show(job backstay.Job) {
	now, tenth := phase(job), int(job.Percent/10)
	// Between two steps none is running: that is no phase of its own.
	if now == string(backstay.JobRunning) || now == l.phase && tenth <= l.tenth {
		return
	}
	l.phase, l.tenth = now, tenth
	text := fmt.Sprintf("%s %s: %s %.0f %%", job.Kind, job.Target, now, job.Percent)
	if more := amount(job); more != "" {
		text += " (" + more + ")"
	}
	l.a.note("%s", text)
}

func (l *lines) end() {}

// bar shows progress on a terminal.
type bar struct {
	container *mpb.Progress
	bar       *mpb.Bar
	job       atomic.Pointer[backstay.Job]
}

// steps is the resolution of the bar: tenths of a percent.
const steps = 1000

func newBar(ctx context.Context, w io.Writer) *bar {
	b := &bar{container: mpb.NewWithContext(ctx, mpb.WithOutput(w), mpb.WithWidth(40), mpb.WithAutoRefresh())}
	b.job.Store(&backstay.Job{State: backstay.JobQueued})
	b.bar = b.container.AddBar(steps,
		mpb.PrependDecorators(decor.Any(func(decor.Statistics) string { return phase(*b.job.Load()) + " " })),
		mpb.AppendDecorators(decor.Any(func(decor.Statistics) string {
			job := b.job.Load()
			return strings.TrimRight(fmt.Sprintf(" %3.0f %%  %s", job.Percent, amount(*job)), " ")
		})),
	)
	return b
}

func (b *bar) show(job backstay.Job) {
	b.job.Store(&job)
	// A full bar would end by itself; the job decides when it has ended.
	b.bar.SetCurrent(min(int64(job.Percent*steps/100), steps-1))
	if job.State == backstay.JobSucceeded || job.State == backstay.JobWarning {
		b.bar.SetCurrent(steps)
	}
}

func (b *bar) end() {
	b.bar.Abort(false) // no effect on one that is full
	b.container.Wait()
}
