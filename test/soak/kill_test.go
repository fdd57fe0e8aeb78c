//go:build integration

package soak

import (
	"errors"
	"fmt"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/sandbox"
)

// victims are what is killed with SIGKILL: one part, or several at once. "host" is
// all of a machine.
var victims = map[string][]string{
	"qemu": {"qemu"}, "libvirtd": {sandbox.Libvirtd}, "mover": {sandbox.Mover}, "server": {sandbox.Server},
	"all-but-qemu": {sandbox.Libvirtd, sandbox.Mover, sandbox.Server},
	"host":         {"qemu", sandbox.Libvirtd, sandbox.Mover, sandbox.Server},
}

var victimNames = []string{"qemu", "libvirtd", "mover", "server", "all-but-qemu", "host"}

// kill ends the victim.
func (l *lab) kill(victim string) {
	l.t.Helper()
	for _, part := range victims[victim] {
		var err error
		if part == "qemu" {
			err = l.host.KillQEMU(l.ctx, vm)
		} else {
			err = l.world.Kill(l.ctx, part, "")
		}
		must(l.t, err)
	}
}

// moment is when the victim is killed: while the job waits before a step, or some
// time after it was let go on from there. "frozen" is between the freeze and the
// switch, and "put" in the midst of the transfer.
type moment struct {
	step  string
	after bool
}

func (m moment) String() string {
	if m.after {
		return "after-" + m.step
	}
	return "before-" + m.step
}

// strike holds a job before a step, kills the victim at the moment, and lets go.
func (l *lab) strike(m moment, victim string, job func() backstay.Job) backstay.Job {
	l.t.Helper()
	hold := "hold-" + m.step
	must(l.t, l.world.PlanFault(hold))
	started := job()
	must(l.t, l.world.AwaitFault(l.ctx, hold))
	if m.after {
		delay := time.Duration(l.rng.Int64N(int64(600 * time.Millisecond)))
		l.t.Logf("%s is killed %d ms %s", victim, delay.Milliseconds(), m)
		must(l.t, l.world.LiftFault(hold))
		time.Sleep(delay)
	}
	l.kill(victim)
	must(l.t, l.world.LiftFault(hold))
	return started
}

// TestAfterAnyKillTheNextBackupIsRight kills QEMU, libvirtd, the mover, the server
// and all of the host at each step of a backup. The guest goes on (or boots again)
// with what it wrote, is not frozen, nothing is left behind, and the next backup's
// disks are what the guest wrote, in both tiers and as a restored VM.
func TestAfterAnyKillTheNextBackupIsRight(t *testing.T) {
	l := newLab(t)
	type killCase struct {
		victim string
		moment moment
	}
	var cases []killCase
	for _, victim := range victimNames {
		for _, step := range []string{"prepare", "snapshot", "frozen", "transfer", "put", "validate"} {
			cases = append(cases, killCase{victim, moment{step, false}})
		}
		for _, step := range []string{"prepare", "snapshot", "transfer"} {
			cases = append(cases, killCase{victim, moment{step, true}})
		}
	}
	for i, c := range sample(l, 3, cases) {
		t.Run(fmt.Sprintf("%s-%s", c.victim, c.moment), func(t *testing.T) {
			l.only(t)
			l.write()
			job := l.strike(c.moment, c.victim, func() backstay.Job { return l.start(backstay.VaultTier) })
			l.mend()
			job = l.wait(job)
			t.Logf("the job ended as %s: %v %v", job.State, job.Error, job.Warnings)
			l.inOrder("after the kill")
			l.guestHolds("after the kill")
			l.write()
			l.nextBackupIsRight(i%3 == 0)
			l.keep(2)
			l.inOrder("in the end")
		})
	}
}

// nextBackupIsRight takes a point and reads it in both tiers, and out of a VM that
// is restored from the vault.
func (l *lab) nextBackupIsRight(restore bool) {
	l.t.Helper()
	id := l.take(backstay.VaultTier)
	vault, snapshot := l.verify(id, backstay.VaultTier), l.verify(id, backstay.SnapshotTier)
	l.holds("the next point in the vault", vault, l.sums())
	l.holds("the next point beside the disk", snapshot, l.sums())
	l.holds("the next point in the vault, beside that of the snapshot tier", vault, snapshot)
	if restore {
		l.restored(id, backstay.VaultTier, func(name string) {
			for disk, want := range vault {
				got, err := l.host.VMSHA256(l.ctx, name, string(disk))
				must(l.t, err)
				if got != want {
					l.t.Errorf("disk %s of the restored VM has SHA-256 %s, not %s", disk, got, want)
				}
			}
		})
	}
}

// restored restores a point as a new VM that is not started, looks at it, and takes
// it away again.
func (l *lab) restored(id backstay.PointID, tier backstay.Tier, look func(name string)) {
	l.t.Helper()
	const name = "restored"
	l.fork(id, tier, name)
	look(name)
	l.unfork(name)
}

func (l *lab) fork(id backstay.PointID, tier backstay.Tier, name string) {
	l.t.Helper()
	answer, err := l.client.StartRestore(l.ctx, backstay.RestoreRequest{Kind: backstay.CreateVM, Point: id, Tier: tier, Name: name, NoStart: true})
	must(l.t, err)
	l.succeed(*answer.Job)
}

// unfork undefines a restored VM and removes its files, as its user would.
func (l *lab) unfork(name string) {
	l.t.Helper()
	disks, err := l.host.Disks(l.ctx, name)
	must(l.t, errors.Join(err, l.host.Undefine(l.ctx, name)))
	for _, d := range disks {
		l.on("rm", d.Path)
	}
}

// TestAfterAnyKillInAMergeNothingIsLost kills at each step of dropping a point: of
// the newest, which moves the guest; of the oldest, below it; and of a VM that is
// shut off.
func TestAfterAnyKillInAMergeNothingIsLost(t *testing.T) {
	l := newLab(t)
	type mergeCase struct {
		victim, kind string
		moment       moment
	}
	var cases []mergeCase
	for _, kind := range []string{"newest", "oldest", "off-newest", "off-oldest"} {
		for _, victim := range victimNames {
			if kind[:3] == "off" && (victim == "qemu" || victim == "host") {
				continue
			}
			for _, after := range []bool{false, true, true} {
				cases = append(cases, mergeCase{victim, kind, moment{"drop", after}})
			}
		}
	}
	for _, c := range sample(l, 2, cases) {
		t.Run(fmt.Sprintf("%s-%s-%s", c.kind, c.victim, c.moment), func(t *testing.T) {
			l.only(t)
			l.mergeCase(c.kind, c.victim, c.moment)
		})
	}
}

func (l *lab) mergeCase(kind, victim string, m moment) {
	l.keep(0)
	l.quiet()
	l.write()
	oldest, oldestSums := l.take(backstay.SnapshotTier), l.sums()
	l.write()
	newest, newestSums := l.take(backstay.SnapshotTier), l.sums()
	l.write()
	l.guest("ticker fill /data/churn 0 %d %d; sync", 48<<20, l.content)
	goes, stays, staysSums := oldest, newest, newestSums
	if kind == "newest" || kind == "off-newest" {
		goes, stays, staysSums = newest, oldest, oldestSums
	}
	off := kind[:3] == "off"
	if off {
		must(l.t, l.host.Destroy(l.ctx, vm))
	}
	job := l.strike(m, victim, func() backstay.Job {
		job, err := l.client.DeletePoint(l.ctx, string(goes))
		must(l.t, err)
		return job
	})
	l.mend()
	job = l.wait(job)
	l.t.Logf("the job ended as %s: %v", job.State, job.Error)
	l.inOrder("after the kill")
	l.guestHolds("after the kill")
	l.eventually("the point can be dropped", func() error { return l.dropped(goes) })
	l.guestHolds("after the drop")
	l.holds("the point that stays", l.verify(stays, backstay.SnapshotTier), staysSums)
	l.inOrder("after the drop")
	if n := len(l.chain(raw)); n != 2 {
		l.t.Errorf("with one point the chain has %d images", n)
	}
	l.write()
	l.nextBackupIsRight(false)
}

// dropped tries to drop a point, unless it is gone.
func (l *lab) dropped(id backstay.PointID) error {
	job, err := l.client.DeletePoint(l.ctx, string(id))
	if backstay.IsCode(err, backstay.CodeUnknownPoint) {
		return nil
	}
	if err != nil {
		return err
	}
	if job = l.wait(job); job.State != backstay.JobSucceeded {
		return fmt.Errorf("it ended as %s: %v", job.State, job.Error)
	}
	return nil
}
