//go:build integration

package soak

import (
	"fmt"
	"strings"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/sandbox"
)

// killCase is one kill in a restore: who, and when.
type killCase struct {
	victim string
	moment moment
	tier   backstay.Tier
}

func (c killCase) String() string { return fmt.Sprintf("%s-%s-%s", c.tier, c.victim, c.moment) }

// killCases are all victims, before each step and some time after it began.
func killCases(tiers []backstay.Tier, victims, steps []string) []killCase {
	var cases []killCase
	for _, tier := range tiers {
		for _, victim := range victims {
			for _, step := range steps {
				cases = append(cases, killCase{victim, moment{step, false}, tier}, killCase{victim, moment{step, true}, tier})
			}
		}
	}
	return cases
}

var bothTiers = []backstay.Tier{backstay.SnapshotTier, backstay.VaultTier}

// copyName is the VM that restores make here.
const copyName = "restored"

// TestAfterAnyKillACopyIsWholeOrNotThere kills every part, and all of the host, at
// each step of making a VM out of a point, from both tiers. The VM is there with
// the point's content, or neither it nor a file of it is; then the same restore
// works. The source goes on with what its guest wrote.
func TestAfterAnyKillACopyIsWholeOrNotThere(t *testing.T) {
	l := newLab(t)
	l.keep(0)
	l.write()
	point, pointSums := l.take(backstay.VaultTier), l.sums()
	l.write()
	cases := killCases(bothTiers, []string{"libvirtd", "mover", "server", "all-but-qemu", "host"}, []string{"plan", "stage", "verify", "switch", "start"})
	for _, c := range sample(l, 2, cases) {
		t.Run(c.String(), func(t *testing.T) {
			l.only(t)
			request := backstay.RestoreRequest{
				Kind: backstay.CreateVM, Point: point, Tier: c.tier, Name: copyName, Probe: backstay.Probe{Kind: backstay.ProbeNone},
			}
			job := l.wait(l.struck(c, request))
			t.Logf("the job ended as %s: %v %v", job.State, job.Error, job.Warnings)
			l.guestHolds("after the kill")
			if !l.wholeOrNotThere(job, pointSums) {
				l.inOrder("after a restore that failed")
				if !l.wholeOrNotThere(l.succeed(l.restore(request)), pointSums) {
					t.Error("there is no VM after a restore that succeeded")
				}
			}
			l.unfork(copyName)
			l.inOrder("in the end")
		})
	}
}

// struck starts a restore, kills the victim at its moment, and starts again what
// was killed.
func (l *lab) struck(c killCase, r backstay.RestoreRequest) backstay.Job {
	l.t.Helper()
	job := l.strike(c.moment, c.victim, func() backstay.Job { return l.restore(r) })
	l.mend()
	return job
}

// restore starts a restore.
func (l *lab) restore(r backstay.RestoreRequest) backstay.Job {
	l.t.Helper()
	answer, err := l.client.StartRestore(l.ctx, r)
	must(l.t, err)
	return *answer.Job
}

// wholeOrNotThere sees that the copy holds what the point holds, and is off
// afterwards; or that nothing of it is there, and tells so. Where the job says that
// it left complete disks, or a VM that did not start, they are whole too, and go.
func (l *lab) wholeOrNotThere(job backstay.Job, want map[backstay.DiskTarget]string) bool {
	l.t.Helper()
	if there := l.isThere(copyName); there {
		l.off(copyName)
		l.holds("the copy", l.contents(copyName), want)
		if job.State == backstay.JobFailed && job.Error.Code != backstay.CodeStartFailed && job.Error.Code != backstay.CodeNotUp {
			l.t.Errorf("the restore failed with %v, and there is a VM", job.Error)
		}
		return true
	}
	if job.State != backstay.JobFailed {
		l.t.Errorf("the restore ended as %s, and there is no VM", job.State)
	}
	if job.Error != nil && job.Error.Code == backstay.CodeCreateVMFailed {
		for _, path := range job.Result.Disks { // complete, and for the user to make a VM of (row B1g)
			if strings.HasSuffix(path, ".qcow2") {
				l.on("qemu-img", "check", "-q", path)
			}
			l.on("rm", path)
		}
	}
	return false
}

func (l *lab) isThere(name string) bool {
	l.t.Helper()
	names, err := l.host.VMs(l.ctx)
	must(l.t, err)
	for _, n := range names {
		if n == name {
			return true
		}
	}
	return false
}

// off ends a VM, unless it is off, as a power cut does.
func (l *lab) off(name string) {
	l.t.Helper()
	l.eventually("VM "+name+" is off", func() error {
		state, err := l.host.State(l.ctx, name)
		if err == nil && state != sandbox.Off {
			err = l.host.Destroy(l.ctx, name)
		}
		return err
	})
}

// contents reads the known disks of a VM that is off.
func (l *lab) contents(name string) map[backstay.DiskTarget]string {
	l.t.Helper()
	sums := map[backstay.DiskTarget]string{}
	for _, disk := range []backstay.DiskTarget{plain, raw} {
		sum, err := l.host.VMSHA256(l.ctx, name, string(disk))
		must(l.t, err)
		sums[disk] = sum
	}
	return sums
}
