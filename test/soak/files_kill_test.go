//go:build integration

package soak

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/api"
	"github.com/backstay/backstay/internal/sandbox"
)

// What is looked for in the points: a file on the guest's second disk, which has a
// file system and no partition.
const (
	filesVolume = "vdb"
	filesKnown  = filesVolume + ":/known"
	filesMany   = filesVolume + ":/many"
)

// filesCase is who is killed while a session does something.
type filesCase struct {
	victim string // server, mover, machine, both (of server and mover), client, or mount: its process
	doing  string // open, list, read, take, mount
	tier   backstay.Tier
	backup bool // a backup runs meanwhile
}

func (c filesCase) String() string {
	name := fmt.Sprintf("%s-%s-%s", c.victim, c.doing, c.tier)
	if c.backup {
		name += "-backup"
	}
	return name
}

func filesCases() []filesCase {
	var all []filesCase
	for _, victim := range []string{"server", "mover", "machine", "both", "client", "mount"} {
		for _, doing := range []string{"open", "list", "read", "take", "mount"} {
			if (victim == "mount") != (doing == "mount") && victim == "mount" {
				continue
			}
			for _, tier := range bothTiers {
				for _, backup := range []bool{false, true} {
					all = append(all, filesCase{victim, doing, tier, backup})
				}
			}
		}
	}
	return all
}

// TestAfterAnyKillNoSessionIsLeft kills every part while a point is opened, listed,
// read, taken from and mounted, with and without a backup beside it. No machine,
// mount, socket or session is left, the next session reads what is right, nothing
// holds the point's layers, and the guest and its backups do not notice.
func TestAfterAnyKillNoSessionIsLeft(t *testing.T) {
	l := newLab(t)
	l.keep(0)
	l.write()
	l.guest(`mkdir -p /data/many; for i in $(seq 400); do echo $i >/data/many/$i; done; seq 300000 >/data/known; sync`)
	want := []byte(l.guest("cat /data/known"))
	point := l.take(backstay.VaultTier)
	for _, c := range sample(l, 2, filesCases()) {
		t.Run(c.String(), func(t *testing.T) {
			l.only(t)
			var job *backstay.Job
			if c.backup {
				started := l.start(backstay.VaultTier)
				job = &started
			}
			l.strikeSession(c, point)
			l.mendParts()
			if job != nil {
				ended := l.wait(*job)
				if untouched := c.victim == "machine" || c.victim == "client" || c.victim == "mount"; untouched && ended.State != backstay.JobSucceeded {
					t.Errorf("the backup beside it ended as %s: %v %v", ended.State, ended.Error, ended.Warnings)
				}
			}
			l.noSessions("after the kill")
			l.filesHold(point, c.tier, want)
			l.noSessions("after the next session")
			l.guestHolds("after the kill")
			l.inOrder("after the kill")
			for points := l.points(); len(points) > 1; points = points[:len(points)-1] {
				l.drop(points[len(points)-1].ID)
			}
		})
	}
	l.drop(point) // nothing holds its layers any more
	l.inOrder("in the end")
}

// strikeSession lets a session do something, and kills the victim meanwhile.
func (l *lab) strikeSession(c filesCase, point backstay.PointID) {
	l.t.Helper()
	ctx, cut := context.WithCancel(l.ctx)
	defer cut()
	done, busy := make(chan error, 1), make(chan struct{})
	mount := filepath.Join(l.t.TempDir(), "mount")
	go func() { done <- l.doInSession(ctx, c, point, mount, busy) }()
	if c.doing != "open" {
		select {
		case <-busy:
		case err := <-done:
			l.t.Fatalf("before the kill: %v", err)
		}
	}
	delay := time.Duration(l.rng.Int64N(int64(700 * time.Millisecond)))
	time.Sleep(delay)
	l.t.Logf("%s is killed after %d ms", c.victim, delay.Milliseconds())
	switch c.victim {
	case "machine":
		must(l.t, l.world.KillSmallMachines(l.ctx))
	case "client":
		cut()
	case "mount":
		l.killMounts()
	case "both":
		must(l.t, errors.Join(l.world.Kill(l.ctx, sandbox.Server, ""), l.world.Kill(l.ctx, sandbox.Mover, "")))
	default:
		must(l.t, l.world.Kill(l.ctx, c.victim, ""))
	}
	if c.victim != "client" {
		time.AfterFunc(30*time.Second, cut) // who survives stops by itself
	}
	select {
	case err := <-done:
		l.t.Logf("the session: %v", err)
	case <-time.After(patience):
		l.t.Error("what was done in the session does not end")
	}
	if c.victim == "client" || c.doing == "open" {
		l.endSessions() // its user would, or it expires
	}
	l.eventually("no mount is left", func() error {
		if exec.Command("mountpoint", "-q", mount).Run() == nil {
			return errors.New(mount + " is mounted")
		}
		return nil
	})
}

// endSessions ends all sessions that the server knows, if it runs.
func (l *lab) endSessions() {
	l.t.Helper()
	sessions, err := l.client.FileSessions(l.ctx)
	if err != nil {
		return
	}
	for _, s := range sessions {
		if err := l.client.EndFileSession(l.ctx, s.ID); err != nil && !backstay.IsCode(err, backstay.CodeUnknownSession) && !backstay.IsCode(err, backstay.CodeSessionEnded) {
			l.t.Errorf("end session %s: %v", s.ID, err)
		}
	}
}

// doInSession opens the point and does what the case says until it fails or ctx
// ends. It tells when it is about it.
func (l *lab) doInSession(ctx context.Context, c filesCase, point backstay.PointID, mount string, busy chan<- struct{}) error {
	if c.doing == "mount" {
		return l.useMount(ctx, c, point, mount, busy)
	}
	for first := true; ; first = false {
		opened, err := l.client.OpenFiles(ctx, api.OpenFilesRequest{Point: string(point), Tier: c.tier})
		if err != nil {
			return err
		}
		if first && c.doing != "open" {
			close(busy)
		}
		for err == nil && c.doing != "open" {
			err = l.useSession(ctx, c.doing, opened.Session.ID)
		}
		if err != nil {
			return err
		}
		if err := l.client.EndFileSession(ctx, opened.Session.ID); err != nil {
			return err
		}
	}
}

func (l *lab) useSession(ctx context.Context, doing string, id backstay.FileSessionID) error {
	var r io.ReadCloser
	var err error
	switch doing {
	case "list":
		_, err = l.client.Folder(ctx, id, filesMany, "", 0)
		return err
	case "read":
		r, err = l.client.ReadFile(ctx, id, filesKnown, 0, -1)
	case "take":
		r, err = l.client.TakeFiles(ctx, id, api.TakeRequest{Paths: []string{filesMany, filesKnown}, Format: api.TakeTar})
	}
	if err != nil {
		return err
	}
	defer r.Close()
	_, err = io.Copy(io.Discard, r)
	return err
}

// useMount mounts the point as a user would, and reads in the folder until that
// fails.
func (l *lab) useMount(ctx context.Context, c filesCase, point backstay.PointID, dir string, busy chan<- struct{}) error {
	if out, err := exec.CommandContext(ctx, "mkdir", "-p", dir).CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	if out, err := l.cli(ctx, "files", "mount", string(point), dir, "--tier", string(c.tier)).CombinedOutput(); err != nil {
		return fmt.Errorf("mount: %w: %s", err, out)
	}
	close(busy)
	for ctx.Err() == nil {
		if out, err := exec.CommandContext(ctx, "cat", filepath.Join(dir, filesVolume, "known")).Output(); err != nil || len(out) == 0 {
			if ctx.Err() == nil {
				return fmt.Errorf("read in the mount: %d bytes, %w", len(out), err)
			}
		}
	}
	out, err := l.cli(l.ctx, "files", "unmount", dir).CombinedOutput()
	if err != nil {
		return fmt.Errorf("unmount: %w: %s", err, out)
	}
	return ctx.Err()
}

// killMounts kills the processes that serve mounts.
func (l *lab) killMounts() {
	l.t.Helper()
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	must(l.t, err)
	killed := 0
	for _, path := range lines {
		line, err := os.ReadFile(path)
		if err != nil || !bytes.HasPrefix(line, []byte(binaries+"/")) || !bytes.Contains(line, []byte("\x00files\x00serve\x00")) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		must(l.t, err)
		must(l.t, syscall.Kill(pid, syscall.SIGKILL))
		killed++
	}
	if killed == 0 {
		l.t.Error("no process serves a mount")
	}
}

// cli is backstay's command line, as a user runs it.
func (l *lab) cli(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(binaries, "backstay"), args...)
	cmd.Env = append(cmd.Environ(), "BACKSTAY_CONFIG="+l.world.Region.Client, "BACKSTAY_SERVER=", "BACKSTAY_TOKEN=")
	return cmd
}

// noSessions sees that nothing of a session is there: in the server, on the host and
// among processes. One machine may wait for the next session.
func (l *lab) noSessions(what string) {
	l.t.Helper()
	l.eventually(what+": no session is left", func() error {
		sessions, err := l.client.FileSessions(l.ctx)
		folders, foldersErr := l.world.SessionFolders()
		machines, machinesErr := l.world.SmallMachines()
		if err := errors.Join(err, foldersErr, machinesErr); err != nil {
			return err
		}
		if len(sessions) > 0 || len(folders) > 0 || len(machines) > 1 {
			return fmt.Errorf("sessions %v, folders %v, machines %v", sessions, folders, machines)
		}
		return nil
	})
}

// filesHold opens a point anew and reads the known file.
func (l *lab) filesHold(point backstay.PointID, tier backstay.Tier, want []byte) {
	l.t.Helper()
	var opened api.OpenFilesResponse
	// The server may not have heard of its hosts since it started.
	l.eventually("the point can be opened", func() (err error) {
		opened, err = l.client.OpenFiles(l.ctx, api.OpenFilesRequest{Point: string(point), Tier: tier})
		return err
	})
	r, err := l.client.ReadFile(l.ctx, opened.Session.ID, filesKnown, 0, -1)
	must(l.t, err)
	got, err := io.ReadAll(r)
	must(l.t, errors.Join(err, r.Close()))
	if !bytes.Equal(bytes.TrimSpace(got), want) {
		l.t.Errorf("the known file has %d bytes, not the %d that the guest wrote", len(got), len(want))
	}
	must(l.t, l.client.EndFileSession(l.ctx, opened.Session.ID))
}
