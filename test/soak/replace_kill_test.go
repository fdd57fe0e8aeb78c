//go:build integration

package soak

import (
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	backstay "github.com/backstay/backstay"
)

// TestAfterAnyKillReplacedDisksAreWhollyOldOrNew kills every part at each step of
// putting a point's disks into the VM that it is of, from both tiers. All disks of
// the VM hold what they held, or all what the point holds, and its definition goes
// with them; the same restore works then, an undo brings everything back, and
// nothing is left.
func TestAfterAnyKillReplacedDisksAreWhollyOldOrNew(t *testing.T) {
	l := newLab(t)
	r := l.replacing()
	cases := killCases(bothTiers, []string{"libvirtd", "mover", "server", "all-but-qemu"}, []string{"plan", "stop", "safety", "stage", "verify", "switch"})
	for _, c := range sample(l, 3, cases) {
		t.Run(c.String(), func(t *testing.T) {
			l.only(t)
			request := backstay.RestoreRequest{Kind: backstay.ReplaceDisks, Point: r.point, Tier: c.tier}
			job := l.wait(l.struckOff(c, func() backstay.Job { return l.restore(request) }))
			t.Logf("the job ended as %s: %v %v", job.State, job.Error, job.Warnings)
			if r.isNew(l, job) {
				// A mover that was killed when it had switched cannot say so any more; the
				// undo of that job works like any other.
				if job.State == backstay.JobFailed && job.Error.Code != backstay.CodeHostAway {
					t.Errorf("a restore that failed replaced the disks: %v", job.Error)
				}
			} else {
				if job.State != backstay.JobFailed {
					t.Errorf("a restore that ended as %s replaced nothing", job.State)
				}
				l.tidyOff("after a restore that failed")
				job = l.succeed(l.restore(request))
				if !r.isNew(l, job) {
					t.Error("a restore that succeeded replaced nothing")
				}
			}
			l.succeed(l.undo(job.ID))
			if r.isNew(l, job) {
				t.Error("an undo that succeeded brought nothing back")
			}
			r.forget(l)
			l.tidyOff("in the end")
		})
	}
}

// TestAfterAnyKillInAnUndoItsRerunBringsEverythingBack kills every part at each step
// of taking a replace-disks back.
func TestAfterAnyKillInAnUndoItsRerunBringsEverythingBack(t *testing.T) {
	l := newLab(t)
	r := l.replacing()
	cases := killCases(bothTiers, []string{"libvirtd", "mover", "server", "all-but-qemu"}, undoSteps)
	for _, c := range sample(l, 1, cases) {
		t.Run(c.String(), func(t *testing.T) {
			l.only(t)
			job := l.succeed(l.restore(backstay.RestoreRequest{Kind: backstay.ReplaceDisks, Point: r.point, Tier: c.tier}))
			undone := l.wait(l.struckOff(c, func() backstay.Job { return l.undo(job.ID) }))
			t.Logf("the undo ended as %s: %v", undone.State, undone.Error)
			if r.isNew(l, job) {
				if undone.State != backstay.JobFailed {
					t.Errorf("an undo that ended as %s brought nothing back", undone.State)
				}
				l.succeed(l.undo(job.ID))
				if r.isNew(l, job) {
					t.Error("an undo that succeeded brought nothing back")
				}
			}
			r.forget(l)
			l.tidyOff("in the end")
		})
	}
}

// replacing is a VM that is off, and a point of it with other content.
type replacing struct {
	point      backstay.PointID
	old, new   map[backstay.DiskTarget]string // of all disks
	definition string                         // with the old disks
}

// replacing makes the VM ready. What the test leaves, another may start.
func (l *lab) replacing() *replacing {
	l.t.Helper()
	l.keep(0)
	l.write()
	r := &replacing{point: l.take(backstay.VaultTier)}
	r.new = l.verify(r.point, backstay.VaultTier)
	l.holds("the point", r.new, l.sums())
	l.write()
	l.guest("echo newer >/data/works; echo newer >/var/log/works; sync")
	l.off(vm)
	l.t.Cleanup(func() { must(l.t, l.host.Start(l.ctx, vm)); must(l.t, l.world.WaitAgent(l.ctx, "", vm)) })
	r.old = l.allContents(vm)
	for disk, sum := range r.old {
		if sum == r.new[disk] {
			l.t.Fatalf("disk %s did not change, and proves nothing", disk)
		}
	}
	r.definition = l.definition(vm)
	return r
}

// isNew tells whether the VM is wholly on the point's disks, or wholly as it was;
// in between is an error.
func (r *replacing) isNew(l *lab, job backstay.Job) bool {
	l.t.Helper()
	l.off(vm)
	now := l.allContents(vm)
	isNew := maps.Equal(now, r.new)
	if !isNew && !maps.Equal(now, r.old) {
		l.t.Fatalf("the VM is neither old nor new:\nnow %v\nold %v\nnew %v", now, r.old, r.new)
	}
	if is := l.definition(vm); is != r.definition {
		l.t.Errorf("the definition differs in more than its disks' files:\n%s\nand it was\n%s", is, r.definition)
	}
	return isNew
}

// forget drops all points but the one that is restored, the newest first: the older
// ones have others on them.
func (r *replacing) forget(l *lab) {
	l.t.Helper()
	for _, p := range slices.Backward(l.points()) {
		if p.ID != r.point {
			l.drop(p.ID)
		}
	}
}

// struckOff is strike for a VM that is off.
func (l *lab) struckOff(c killCase, start func() backstay.Job) backstay.Job {
	l.t.Helper()
	job := l.strike(c.moment, c.victim, start)
	l.mendParts()
	return job
}

// tidyOff sees that nothing was left behind, and the VM is off.
func (l *lab) tidyOff(what string) {
	l.t.Helper()
	l.eventually(what+": nothing is left behind", func() error { return l.world.Tidy(l.ctx) })
	if sum := l.sumGolden(); sum != l.goldenSum {
		l.t.Errorf("%s: the file below the one that the VM used when its protection began was written to", what)
	}
}

// allContents reads all disks of a VM that is off.
func (l *lab) allContents(name string) map[backstay.DiskTarget]string {
	l.t.Helper()
	disks, err := l.host.Disks(l.ctx, name)
	must(l.t, err)
	sums := map[backstay.DiskTarget]string{}
	for _, d := range disks {
		sum, err := l.host.DiskSHA256(l.ctx, d.Path, d.Format)
		must(l.t, err)
		sums[backstay.DiskTarget(d.Target)] = sum
	}
	return sums
}

var (
	diskFiles = regexp.MustCompile(`(?s)<backingStore.*</backingStore>|<backingStore[^>]*/>|<source file='[^']*'( index='\d+')?/?>|</source>|<driver name='qemu' type='[^']*'`)
	blankRuns = regexp.MustCompile(`\s+`)
)

// definition is that of a VM without the files of its disks.
func (l *lab) definition(name string) string {
	l.t.Helper()
	out, err := l.host.Command(l.ctx, "virsh", "-q", "dumpxml", "--inactive", name).Output()
	must(l.t, err)
	var lines []string
	for line := range strings.Lines(diskFiles.ReplaceAllString(string(out), "")) {
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, line)
		}
	}
	return blankRuns.ReplaceAllString(strings.Join(slices.Compact(lines), "\n"), " ")
}

// undoSteps are those of taking a replace-disks back.
var undoSteps = []string{"plan", "stop", "safety", "switch"}

// undo starts to take a restore back.
func (l *lab) undo(id backstay.JobID) backstay.Job {
	l.t.Helper()
	answer, err := l.client.UndoRestore(l.ctx, id, backstay.UndoRequest{})
	must(l.t, err)
	return *answer.Job
}
