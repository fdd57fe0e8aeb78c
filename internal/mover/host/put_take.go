package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/guestagent"
	"github.com/backstay/backstay/internal/hypervisor"
	"github.com/backstay/backstay/internal/mover"
)

// take puts all entries in their places. What was there is kept beside until all
// are.
func (p *put) take(ctx context.Context) error {
	p.entries = slices.DeleteFunc(p.entries, func(i *putItem) bool { return i.left })
	var line putLine
	var s script
	for _, i := range p.entries {
		had := i.was != "none"
		line.Taking = append(line.Taking, putTaking{N: i.n, Inode: i.inode, Had: had})
		if had {
			s.call("keep", i.n, p.kept(i), i.dest)
		}
	}
	if err := p.log.add(line); err != nil {
		return err
	}
	if err := p.obey(ctx, &s, scriptPatience, p.entries); err != nil {
		return err
	}
	s = script{}
	for _, i := range p.entries {
		word := "place" // unless something came to be there since we looked
		if i.was != "none" {
			word = "take"
		}
		s.call(word, i.n, p.beside(i), i.dest)
	}
	// A folder's times are those of the last change in it: they come last, and those
	// of the folders within before those above.
	for _, i := range slices.Backward(p.folders) {
		s.meta(i.n, i.dest, &i.Item)
	}
	if err := p.obey(ctx, &s, scriptPatience, append(slices.Clone(p.entries), p.folders...)); err != nil {
		return err
	}
	for _, i := range p.entries {
		if i.Type == backstay.TypeLink {
			p.report.Links++
		} else {
			p.report.Files++
		}
	}
	return p.log.add(putLine{Done: &p.report})
}

// EndPut is mover.Puts'.
func (h *Host) EndPut(ctx context.Context, job backstay.JobID) (mover.PutReport, bool, error) {
	unlock, err := h.puts.lock(ctx, string(job))
	if err != nil {
		return mover.PutReport{}, false, err
	}
	defer unlock()
	j, err := h.loadPut(job)
	if err != nil || j == nil {
		return mover.PutReport{}, false, err
	}
	if err := h.endPut(ctx, job); err != nil {
		return mover.PutReport{}, false, err
	}
	if j.done != nil {
		return *j.done, true, nil
	}
	return mover.PutReport{}, false, nil
}

// endPut leaves nothing of a put but what was put whole, and forgets it.
func (h *Host) endPut(ctx context.Context, job backstay.JobID) error {
	j, err := h.loadPut(job)
	if err != nil || j == nil {
		return err
	}
	if !j.cleaned {
		if err := h.clean(ctx, j); err != nil {
			return err
		}
	}
	if err := os.Remove(j.path); err != nil {
		return fmt.Errorf("remove journal of a put: %w", err)
	}
	return nil
}

// cleanPut takes away what a put kept until all was in its place. Its report stays
// until it is asked for.
func (h *Host) cleanPut(ctx context.Context, job backstay.JobID, log *putLog) error {
	j, err := h.loadPut(job)
	if err != nil {
		return err
	}
	if err := h.clean(ctx, j); err != nil {
		return err
	}
	return log.add(putLine{Cleaned: true})
}

func (h *Host) clean(ctx context.Context, j *putJournal) error {
	ctx, cancel := context.WithTimeout(ctx, takeBackPatience)
	defer cancel()
	err := j.end(ctx, guestagent.Agent{Guests: guestagent.WhileFrozen(h.hv, frozenPatience), VM: j.VM})
	if errors.Is(err, hypervisor.ErrNoVM) {
		return nil // and nothing to be taken back
	}
	return err
}

// end takes back what the journal says was begun; if all was done it takes away
// what was kept for that.
func (j *putJournal) end(ctx context.Context, a guestagent.Agent) error {
	var s script
	if j.done != nil {
		for _, e := range j.entries {
			if j.taking[e.N].Had {
				s.call("gone", e.N, besideName(j.Job, e.N, string(e.Path), "old"))
			}
		}
		return j.obey(ctx, a, &s)
	}
	for _, e := range slices.Backward(j.entries) {
		t, had := j.taking[e.N], ""
		if t.Had {
			had = "had"
		}
		dest := string(e.Path)
		s.call("back", e.N, besideName(j.Job, e.N, dest, "new"), besideName(j.Job, e.N, dest, "old"), dest, t.Inode, had)
	}
	for _, f := range slices.Backward(j.folders) {
		s.call("leave", 0, string(f))
	}
	return j.obey(ctx, a, &s)
}

func (j *putJournal) obey(ctx context.Context, a guestagent.Agent, s *script) error {
	lines, err := s.run(ctx, a, scriptPatience)
	if err != nil {
		return fmt.Errorf("take back what was put into the guest: %w", err)
	}
	for _, l := range lines {
		if l.word == "no" {
			return fmt.Errorf("take back what was put into the guest: it says: %s", guestagent.Shown(l.rest, guestagent.MostOfError))
		}
	}
	return nil
}

// sweepPuts takes back what puts left that no job goes on with. A guest that does
// not answer keeps it until the next time.
func (h *Host) sweepPuts(ctx context.Context, live []backstay.JobID) error {
	jobs, err := h.putJobs()
	if err != nil {
		return err
	}
	for _, job := range jobs {
		if slices.Contains(live, job) || h.puts.held(string(job)) {
			continue
		}
		if _, _, err := h.EndPut(ctx, job); err != nil {
			h.log.Warn("what a put left in a guest is still there", "job", job, "error", err)
			continue
		}
	}
	return errors.Join(ctx.Err())
}
