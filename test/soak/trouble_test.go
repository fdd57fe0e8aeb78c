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

// TestAGuestAgentInTroubleFreezesNobody: it hangs, is gone, or is killed, before
// the backup and at any moment around the freeze. There is a point all the same,
// the guest is not frozen when it is over, and the next backup is right.
func TestAGuestAgentInTroubleFreezesNobody(t *testing.T) {
	l := newLab(t)
	l.keep(0)
	// What happens to the agent, and how it is well again.
	troubles := map[string]string{
		"hung":   "kill -STOP $(pidof qemu-ga); sleep 8; kill -CONT $(pidof qemu-ga)",
		"killed": "kill -9 $(pidof qemu-ga); sleep 4; " + startAgent,
		"ended":  "kill $(pidof qemu-ga); sleep 4; " + startAgent,
	}
	type agentCase struct {
		trouble string
		before  bool
	}
	var cases []agentCase
	for _, trouble := range []string{"hung", "killed", "ended"} {
		cases = append(cases, agentCase{trouble, true})
		for range times(4, 1) {
			cases = append(cases, agentCase{trouble, false})
		}
	}
	for i, c := range sample(l, 2, cases) {
		t.Run(fmt.Sprintf("%d-%s-before-%v", i, c.trouble, c.before), func(t *testing.T) {
			l.only(t)
			l.write()
			l.agentCase(troubles[c.trouble], c.before)
		})
	}
}

// startAgent is how the guest starts its agent.
const startAgent = "qemu-ga -d -m virtio-serial -p /dev/virtio-ports/org.qemu.guest_agent.0 -f /run/qemu-ga.pid -t /run"

// agentCase lets the trouble begin half a second before the backup, or about when
// the guest is frozen. All that it needs is in memory: the disks may be frozen.
func (l *lab) agentCase(trouble string, before bool) {
	l.guest("cp /bin/busybox /tmp/sh; cp /usr/sbin/qemu-ga /tmp/; cat /tmp/sh /tmp/qemu-ga /lib/*/* /lib64/* >/dev/null 2>&1; true")
	nap := func(after time.Duration) {
		l.guest("echo 'sleep %.2f; %s' >/tmp/nap; (setsid sh /tmp/nap >/dev/null 2>&1 &)", after.Seconds(), trouble)
	}
	var job backstay.Job
	if before {
		nap(500 * time.Millisecond)
		time.Sleep(time.Second)
		job = l.start(backstay.VaultTier)
	} else {
		must(l.t, l.world.PlanFault("hold-snapshot"))
		job = l.start(backstay.VaultTier)
		must(l.t, l.world.AwaitFault(l.ctx, "hold-snapshot"))
		delay := time.Duration(l.rng.Int64N(int64(400 * time.Millisecond)))
		nap(300 * time.Millisecond)
		time.Sleep(delay)
		must(l.t, l.world.LiftFault("hold-snapshot"))
		l.t.Logf("the trouble begins %d ms after the snapshot", 300-delay.Milliseconds())
	}
	job = l.succeed(job)
	for _, p := range l.points() {
		if p.ID == job.Point {
			l.t.Logf("the point is of consistency %s: %s", p.Consistency, p.ConsistencyReason)
		}
	}
	l.holds("the point", l.verify(job.Point, backstay.VaultTier), l.sums())
	l.inOrder("after the trouble")
	l.write()
	l.nextBackupIsRight(false)
	l.keep(1)
}

// small is a disk of the guest on a file system of its own that is soon full.
const (
	small     = "vde"
	smallDir  = sandbox.Images + "/small"
	smallSize = 192 << 20
	filler    = smallDir + "/filler"
)

// TestAFullDiskBesideTheLayersLosesNothing: a backup that finds no room fails and
// leaves nothing; a guest that writes into an overlay until the file system is full
// gets no error that it keeps: when there is room again it goes on, and the next
// backup is right.
func TestAFullDiskBesideTheLayersLosesNothing(t *testing.T) {
	l := newLab(t)
	l.keep(0)
	l.attachSmall()
	t.Run("no-room-for-a-layer", func(t *testing.T) {
		l.only(t)
		l.fillUp(4 << 20)
		job := l.wait(l.start(backstay.VaultTier))
		if job.Error == nil || job.Error.Code != backstay.CodeNoSpace {
			t.Errorf("without room a backup ended as %s: %v", job.State, job.Error)
		}
		l.inOrder("after a backup without room")
		if points := l.points(); len(points) != 0 {
			t.Errorf("without room there are %d points", len(points))
		}
		l.on("rm", filler)
	})
	for i := range times(5, 1) {
		t.Run(fmt.Sprintf("guest-fills-it-%d", i), func(t *testing.T) {
			l.only(t)
			l.fullUnderTheGuest(int64(1000 + i))
		})
	}
	l.keep(0)
	l.inOrder("before the disk goes")
	l.on("virsh", "-q", "detach-disk", vm, small, "--live", "--persistent")
	l.eventually("the disk is unplugged", func() error {
		disks, err := l.host.Disks(l.ctx, vm)
		if err == nil && len(disks) != 4 {
			err = errors.New("it is there")
		}
		return err
	})
	l.on("umount", smallDir)
}

// attachSmall gives the VM the disk, in a file system that only the host sees.
func (l *lab) attachSmall() {
	l.t.Helper()
	l.on("mkdir", "-p", smallDir)
	l.on("mount", "-t", "tmpfs", "-o", fmt.Sprintf("size=%d", smallSize), "tmpfs", smallDir)
	l.on("qemu-img", "create", "-q", "-f", "qcow2", smallDir+"/disk.qcow2", "128M")
	l.on("virsh", "-q", "attach-disk", vm, smallDir+"/disk.qcow2", small, "--driver", "qemu", "--subdriver", "qcow2",
		"--targetbus", "virtio", "--live", "--persistent")
	l.eventually("the guest has the disk", func() error {
		_, err := l.world.Guest(l.ctx, "", vm, "test -b /dev/"+small)
		return err
	})
	l.eventually("the region knows the disk", func() error {
		detail, err := l.client.VM(l.ctx, vm)
		if err == nil && len(detail.Disks) != 5 {
			err = fmt.Errorf("it knows %d", len(detail.Disks))
		}
		return err
	})
}

// fillUp leaves so many bytes beside the disk.
func (l *lab) fillUp(leave int64) {
	l.t.Helper()
	l.on("sh", "-c", fmt.Sprintf("a=$(df --output=avail -B1 %s | tail -1); head -c $((a - %d)) /dev/zero >%s", smallDir, leave, filler))
}

func (l *lab) fullUnderTheGuest(content int64) {
	const written = 64 << 20
	// The first half is in the layer below, and is written over in the overlay.
	l.guest("ticker fill /dev/%s 0 %d %d", small, written/2, content)
	l.take(backstay.VaultTier)
	l.fillUp(16 << 20)
	l.guest("rm -f /tmp/filled; (setsid sh -c 'ticker fill /dev/%s 0 %d %d >/tmp/filled.err 2>&1; echo $? >/tmp/filled' >/dev/null 2>&1 &)", small, written, 500+content)
	paused := false
	l.eventually("the guest's write ends or the VM stops", func() error {
		state, err := l.host.State(l.ctx, vm)
		if paused = state == sandbox.Paused; err != nil || paused {
			return err
		}
		_, err = l.world.Guest(l.ctx, "", vm, "test -e /tmp/filled")
		return err
	})
	l.t.Logf("the VM stopped for want of room: %v", paused)
	l.on("rm", filler)
	if paused {
		// Whoever made room lets it go on, if backstay has not done so already.
		l.eventually("the VM goes on", func() error {
			if state, err := l.host.State(l.ctx, vm); err != nil || state == sandbox.Running {
				return err
			}
			_ = l.host.Command(l.ctx, "virsh", "-q", "resume", vm).Run() // it may run by now
			return errors.New("it is paused")
		})
	}
	l.eventually("the guest's write ends", func() error {
		_, err := l.world.Guest(l.ctx, "", vm, "test -e /tmp/filled")
		return err
	})
	if said := l.guest("cat /tmp/filled /tmp/filled.err"); said != "0" {
		l.t.Errorf("the guest's write ended with %q", said)
	}
	want := noiseSum(500+content, written)
	if got := l.guest("head -c %d /dev/%s | ticker sum /proc/self/fd/0", written, small); got != want {
		l.t.Errorf("the guest reads SHA-256 %s and not %s of what it wrote", got, want)
	}
	l.quiet()
	whole := l.guest("ticker sum /dev/%s", small)
	l.write()
	id := l.take(backstay.VaultTier)
	got := l.verify(id, backstay.VaultTier)
	l.holds("the next point", got, l.sums())
	if got[small] != whole {
		l.t.Errorf("the next point: disk %s has SHA-256 %s, and in the guest %s", small, got[small], whole)
	}
	l.inOrder("after a full disk")
	l.keep(0)
}
