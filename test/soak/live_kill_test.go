//go:build integration

package soak

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/sandbox"
)

// liveVictims are what is killed in a live restore: "export" is the process that
// serves the point, "qemu" that of the new VM, and "host" all there is.
var liveVictims = map[string][]string{
	"libvirtd": {sandbox.Libvirtd}, "mover": {sandbox.Mover}, "server": {sandbox.Server}, "export": {"export"},
	"qemu": {"qemu"}, "qemu-and-export": {"qemu", "export"}, "host": {"qemu", "export", sandbox.Libvirtd, sandbox.Mover, sandbox.Server},
}

// TestAfterAnyKillALiveRestoreLosesNoWrite kills every part at each step of a live
// restore, and all of the host. The VM comes up, again if it was ended, and its
// disks are copied in behind it: they hold what the point holds, and what the guest
// wrote since. Where it failed before the VM ran nothing is there, and the same
// restore works.
func TestAfterAnyKillALiveRestoreLosesNoWrite(t *testing.T) {
	l := newLab(t)
	l.keep(0)
	l.write()
	point, pointSums := l.take(backstay.VaultTier), l.sums()
	l.off(vm)
	t.Cleanup(func() {
		must(l.t, l.host.Start(l.ctx, vm))
		must(l.t, l.world.WaitAgent(l.ctx, "", vm))
		l.keep(0)
	})
	cases := killCases([]backstay.Tier{backstay.VaultTier}, slices.Sorted(maps.Keys(liveVictims)), []string{"stage", "switch", "start", "copy"})
	for _, c := range sample(l, 2, cases) {
		t.Run(c.String(), func(t *testing.T) {
			l.only(t)
			request := backstay.RestoreRequest{Kind: backstay.CreateVM, Point: point, Tier: backstay.VaultTier, Name: copyName, Live: true}
			want := maps.Clone(pointSums)
			job := l.liveStruck(c, request, want)
			t.Logf("the job ended as %s: %v %v", job.State, job.Error, job.Warnings)
			if !l.wholeOrNotThere(job, want) {
				l.tidyOff("after a live restore that failed")
				l.noExports("after a live restore that failed")
				if !l.wholeOrNotThere(l.liveEnded(l.restore(request)), pointSums) {
					t.Error("there is no VM after a live restore that succeeded")
				}
			}
			l.unfork(copyName)
			l.noExports("in the end")
			l.tidyOff("in the end")
		})
	}
}

// liveStruck starts a live restore, lets its guest write if it runs by then, which
// is noted in want, kills the victim, and starts again what was killed.
func (l *lab) liveStruck(c killCase, r backstay.RestoreRequest, want map[backstay.DiskTarget]string) backstay.Job {
	l.t.Helper()
	hold := "hold-" + c.moment.step
	must(l.t, l.world.PlanFault(hold))
	job := l.restore(r)
	must(l.t, l.world.AwaitFault(l.ctx, hold))
	if c.moment.step == "copy" {
		l.content++
		must(l.t, l.world.WaitAgent(l.ctx, "", copyName))
		_, err := l.world.Guest(l.ctx, "", copyName, fmt.Sprintf("ticker fill /dev/%s 0 %d %d", plain, known, 2*l.content))
		must(l.t, err)
		want[plain] = noiseSum(2*l.content, known)
	}
	if c.moment.after {
		delay := time.Duration(l.rng.Int64N(int64(600 * time.Millisecond)))
		l.t.Logf("%s is killed %d ms %s", c.victim, delay.Milliseconds(), c.moment)
		must(l.t, l.world.LiftFault(hold))
		time.Sleep(delay)
	}
	for _, part := range liveVictims[c.victim] {
		switch part {
		case "qemu":
			if _, err := l.host.QEMUPID(copyName); err == nil {
				_ = l.host.KillQEMU(l.ctx, copyName) // it may not run yet
			}
		case "export":
			must(l.t, l.world.KillExports(l.ctx))
		default:
			must(l.t, l.world.Kill(l.ctx, part, ""))
		}
	}
	must(l.t, l.world.LiftFault(hold))
	l.mendParts()
	return l.liveEnded(job)
}

// liveEnded waits until a live restore has ended. A VM that was ended while it was
// copied is started by its user.
func (l *lab) liveEnded(job backstay.Job) backstay.Job {
	l.t.Helper()
	l.eventually("the live restore ends", func() error {
		var err error
		if job, err = l.client.Job(l.ctx, job.ID); err != nil || job.State.Ended() {
			return err
		}
		started := slices.ContainsFunc(job.Tasks, func(t backstay.Task) bool { return t.Name == "start" && t.State == backstay.TaskSucceeded })
		if state, err := l.host.State(l.ctx, copyName); err == nil && state == sandbox.Off && started {
			_ = l.host.Start(l.ctx, copyName) // it may be started by now
		}
		var where []string
		for _, t := range job.Tasks {
			where = append(where, fmt.Sprintf("%s %s", t.Name, t.State))
		}
		return errors.New(strings.Join(where, ", "))
	})
	return job
}

func (l *lab) noExports(what string) {
	l.t.Helper()
	l.eventually(what+": no export is left", func() error {
		pids, err := l.world.Exports()
		if err == nil && len(pids) > 0 {
			err = fmt.Errorf("processes %v", pids)
		}
		return err
	})
}

// outFolder is where disks are restored to.
const outFolder = sandbox.Images + "/out"

// TestAfterAnyKillRestoredDisksAreWholeOrNotThere kills every part at each step of
// writing disks and a template. The folder has all of it with the point's content,
// or is not there; then the same restore works, and its undo removes all of it.
func TestAfterAnyKillRestoredDisksAreWholeOrNotThere(t *testing.T) {
	l := newLab(t)
	l.keep(0)
	l.write()
	point := l.take(backstay.VaultTier)
	want := l.verify(point, backstay.VaultTier)
	cases := killCases(bothTiers, []string{"libvirtd", "mover", "server", "all-but-qemu"}, []string{"plan", "stage", "verify", "template"})
	for _, c := range sample(l, 1, cases) {
		t.Run(c.String(), func(t *testing.T) {
			l.only(t)
			request := backstay.RestoreRequest{Kind: backstay.RestoreDisks, Point: point, Tier: c.tier, To: outFolder, Format: "qcow2"}
			job := l.wait(l.struck(c, request))
			t.Logf("the job ended as %s: %v %v", job.State, job.Error, job.Warnings)
			if job.State == backstay.JobFailed {
				l.eventually("a failed restore leaves no folder", func() error {
					if l.host.Command(l.ctx, "test", "-e", outFolder).Run() == nil {
						return errors.New("it is there: " + l.on("ls", "-l", outFolder))
					}
					return nil
				})
				job = l.succeed(l.restore(request))
			}
			if len(job.Result.Disks) != len(want) {
				t.Errorf("disks %q, want %d", job.Result.Disks, len(want))
			}
			for _, path := range job.Result.Disks {
				sum, err := l.host.DiskSHA256(l.ctx, path, "qcow2")
				must(t, err)
				if !slices.Contains(slices.Collect(maps.Values(want)), sum) {
					t.Errorf("%s holds what no disk of the point holds", path)
				}
			}
			l.on("test", "-s", outFolder+"/README.txt")
			l.succeed(l.undo(job.ID))
			if l.host.Command(l.ctx, "test", "-e", outFolder).Run() == nil {
				t.Errorf("an undo leaves %s", l.on("ls", "-l", outFolder))
			}
			l.guestHolds("in the end")
			l.inOrder("in the end")
		})
	}
}
