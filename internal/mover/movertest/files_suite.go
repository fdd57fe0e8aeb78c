package movertest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/mover"
)

// Sessions that the suite uses.
const (
	session      backstay.FileSessionID = "01JS0000000000000000000001"
	otherSession backstay.FileSessionID = "01JS0000000000000000000002"
)

// testRawSession: a session without a small machine reads the disks as they are, and
// holds the point until it is closed. It needs nothing of what the disks hold.
func testRawSession(t *testing.T, s Subject) {
	ctx, m := t.Context(), s.Mover
	open := mover.OpenFilesRequest{Session: session, Point: nowhere, Tier: backstay.SnapshotTier, Raw: true, Expires: time.Now().Add(time.Hour)}
	if _, err := m.OpenFiles(ctx, open, nil); !backstay.IsCode(err, backstay.CodeUnknownPoint) {
		t.Errorf("a session of a point that is not there: %v", err)
	}
	taken := take(t, s)
	open.Point = taken.Point
	opened, err := m.OpenFiles(ctx, open, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(opened.Disks) == 0 || len(opened.Volumes) != 0 || opened.Holds == "" {
		t.Errorf("opened %+v", opened)
	}
	again, err := m.OpenFiles(ctx, open, nil)
	if err != nil || len(again.Disks) != len(opened.Disks) {
		t.Errorf("the same session again: %+v, %v", again, err)
	}
	if ids, err := m.OpenSessions(ctx); err != nil || len(ids) != 1 || ids[0] != session {
		t.Errorf("open sessions: %v, %v", ids, err)
	}
	disk := opened.Disks[0]
	whole, part := sha256.New(), bytes.Buffer{}
	read := mover.FileReadRequest{Session: session, Disk: disk.Target, Length: -1}
	size := counted{w: whole}
	if err := m.ReadFile(ctx, read, &size); err != nil || size.n != disk.Size {
		t.Errorf("read %d bytes of %d: %v", size.n, disk.Size, err)
	}
	read.Offset, read.Length = disk.Size-100, 4096
	if err := m.ReadFile(ctx, read, &part); err != nil || part.Len() != 100 {
		t.Errorf("read %d bytes of the last 100: %v", part.Len(), err)
	}
	read.Disk = "xyz"
	if err := m.ReadFile(ctx, read, &part); !backstay.IsCode(err, backstay.CodeDiskUnknown) {
		t.Errorf("read a disk that is not there: %v", err)
	}
	for range 2 {
		if err := m.CloseFiles(ctx, session); err != nil {
			t.Error(err)
		}
	}
	read.Disk = disk.Target
	if err := m.ReadFile(ctx, read, &part); !backstay.IsCode(err, backstay.CodeSessionEnded) {
		t.Errorf("read in a session that was closed: %v", err)
	}
	if _, err := m.Folder(ctx, mover.FolderRequest{Session: otherSession, Volume: "vda1", Path: "/"}); !backstay.IsCode(err, backstay.CodeSessionEnded) {
		t.Errorf("a session that never was: %v", err)
	}
	if ids, err := m.OpenSessions(ctx); err != nil || len(ids) != 0 {
		t.Errorf("open sessions: %v, %v", ids, err)
	}
}

// counted counts what is written.
type counted struct {
	w interface{ Write([]byte) (int, error) }
	n int64
}

func (c *counted) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	return c.w.Write(p)
}

// testCancelledRead: a read ends with its context, and the session goes on.
func testCancelledRead(t *testing.T, s Subject) {
	taken := take(t, s)
	open := mover.OpenFilesRequest{Session: session, Point: taken.Point, Tier: backstay.SnapshotTier, Raw: true, Expires: time.Now().Add(time.Hour)}
	opened, err := s.Mover.OpenFiles(t.Context(), open, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	read := mover.FileReadRequest{Session: session, Disk: opened.Disks[0].Target, Length: -1}
	err = s.Mover.ReadFile(ctx, read, writerFunc(func(p []byte) (int, error) {
		cancel()
		return len(p), nil
	}))
	if err != nil && !cancelled(ctx, err) { // all may have been on its way
		t.Errorf("a read that was cancelled: %v", err)
	}
	read.Length = 512
	var part bytes.Buffer
	if err := s.Mover.ReadFile(t.Context(), read, &part); err != nil || part.Len() != 512 {
		t.Errorf("the next read: %d bytes, %v", part.Len(), err)
	}
	if err := s.Mover.CloseFiles(t.Context(), session); err != nil {
		t.Error(err)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }
