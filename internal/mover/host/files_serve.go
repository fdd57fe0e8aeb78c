package host

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/backstay/backstay/internal/nbd"
	"github.com/backstay/backstay/internal/tier"
)

const (
	// sessionFolder begins the names of the folders of sessions' sockets.
	sessionFolder = "files-"
	// sessionLock is the file in one that is locked while its session's process lives.
	sessionLock   = "lock"
	sessionExport = "disk"
)

// diskFault is why a disk could not be read.
type diskFault struct{ err error }

// serve offers an image, read-only, on a socket that this user alone can open, until
// the session ends. The machine gets the connection from us, and no name.
func (s *fileSession) serve(image tier.Image) (socket string, err error) {
	folder, err := s.ownFolder()
	if err != nil {
		return "", err
	}
	s.mu.Lock()
	s.served++
	socket = filepath.Join(folder, strconv.Itoa(s.served))
	s.mu.Unlock()
	l, err := nbd.ListenUnix(socket)
	if err != nil {
		return "", err
	}
	export := nbd.Export{
		Name: sessionExport, Size: image.Size(), Content: image, Extents: runsOf(image),
		Failed: func(err error) {
			if s.ctx.Err() == nil && s.faults.Swap(&diskFault{err}) == nil { // once: a machine may ask often
				s.log.Warn("a disk of a session could not be read", "session", s.request.Session, "error", err)
			}
		},
	}
	ctx, stop := context.WithCancel(s.ctx)
	ended := make(chan error, 1)
	go func() { ended <- nbd.Serve(ctx, l, export) }()
	s.atEnd(func() error {
		stop()
		return <-ended
	})
	return socket, nil
}

// runsOf tells zeros from data in the block protocol's words.
func runsOf(image tier.Image) func(offset, length int64) ([]nbd.Extent, error) {
	return func(offset, length int64) ([]nbd.Extent, error) {
		extents, err := image.Extents(offset, length)
		if err != nil {
			return nil, err
		}
		runs := make([]nbd.Extent, len(extents))
		for i, e := range extents {
			runs[i] = nbd.Extent{Offset: e.Offset, Length: e.Length}
			if e.Zero {
				runs[i].Flags = nbd.Hole | nbd.Zero
			}
		}
		return runs, nil
	}
}

// ownFolder is the folder of the session's sockets, made at its first use. It is
// locked as long as this process lives.
func (s *fileSession) ownFolder() (string, error) {
	folder := filepath.Join(s.sockets, sessionFolder+strings.ToLower(string(s.request.Session)))
	s.mu.Lock()
	there := s.folder != ""
	s.folder = folder
	s.mu.Unlock()
	if there {
		return folder, nil
	}
	if err := os.MkdirAll(s.sockets, 0o755); err != nil {
		return "", fmt.Errorf("make the folder of a session: %w", err)
	}
	if err := os.Mkdir(folder, 0o700); err != nil {
		return "", fmt.Errorf("make the folder of a session: %w", err)
	}
	s.atEnd(func() error { return os.RemoveAll(folder) })
	held, err := lockFolder(folder)
	if err != nil {
		return "", err
	}
	s.atEnd(held.Close)
	return folder, nil
}

var errFolderInUse = errors.New("the folder's session is open")

func lockFolder(folder string) (*os.File, error) {
	file, err := os.OpenFile(filepath.Join(folder, sessionLock), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the folder of a session: %w", err)
	}
	err = unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = errFolderInUse
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock the folder of a session: %w", err), file.Close())
	}
	return file, nil
}

// SweepSessions removes what sessions of a mover that was killed left: their folders,
// and their entries beside the disks. Their machines and exports ended with it. It is
// called before the mover answers.
func (h *Host) SweepSessions() error {
	folders, err := filepath.Glob(filepath.Join(h.sockets, sessionFolder+"*"))
	failed := []error{err, h.tier.ForgetSessions()}
	for _, folder := range folders {
		held, err := lockFolder(folder)
		if errors.Is(err, errFolderInUse) || errors.Is(err, fs.ErrNotExist) {
			continue // of another mover that lives
		}
		if err != nil {
			failed = append(failed, err)
			continue
		}
		failed = append(failed, os.RemoveAll(folder), held.Close())
		h.log.Info("removed what a session of a killed mover left", "folder", folder)
	}
	return errors.Join(failed...)
}
