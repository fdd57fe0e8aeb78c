package files

import (
	"context"
	"io"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/mover"
)

// use runs fn in a session that is open. The context ends with the session too, and
// what fails because of that says why the session ended.
func (s *Sessions) use(ctx context.Context, id backstay.FileSessionID, fn func(ctx context.Context, e *entry) error) error {
	s.mu.Lock()
	e, err := s.find(id)
	if err != nil {
		s.mu.Unlock()
		return err
	}
	e.busy++
	e.session.Used = s.options.Now().UTC()
	s.mu.Unlock()
	ctx, cancel := withLife(ctx, e)
	defer cancel()
	err = fn(ctx, e)
	s.mu.Lock()
	e.busy--
	e.session.Used = s.options.Now().UTC()
	s.mu.Unlock()
	switch {
	case err == nil:
		return nil
	case e.life.Err() != nil:
		return context.Cause(e.life)
	case backstay.IsCode(err, backstay.CodeSessionEnded), backstay.IsCode(err, backstay.CodeUnknownSession):
		why := backstay.AsError(err).Cause
		if why == "" {
			why = "its host does not have it any more"
		}
		s.drop(e, why)
		return endedError(id, why)
	case backstay.IsCode(err, backstay.CodeMachineFailed):
		// There is nothing left that could be used again.
		if err := s.finish(ctx, e, endedError(id, backstay.AsError(err).Error())); err != nil {
			s.options.Log.Warn("the host has not closed a session; it ends there when it expires", "session", id, "error", err)
		}
	}
	return err
}

// Unlock opens a locked volume and returns the session with the volumes that it has
// then. Errors: CodeVolumeKey, CodeUnknownVolume.
func (s *Sessions) Unlock(ctx context.Context, r mover.UnlockRequest) (backstay.FileSession, error) {
	var session backstay.FileSession
	err := s.use(ctx, r.Session, func(ctx context.Context, e *entry) error {
		volumes, err := e.host.UnlockVolume(ctx, r)
		if err != nil {
			return err
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		e.session.Volumes = volumes
		session = e.copy()
		return nil
	})
	return session, err
}

// Folder lists a part of a folder, or finds one entry. Errors: CodeUnknownFile,
// CodeVolumeUnread, CodeVolumeLocked.
func (s *Sessions) Folder(ctx context.Context, r mover.FolderRequest) (mover.FolderPage, error) {
	var page mover.FolderPage
	err := s.use(ctx, r.Session, func(ctx context.Context, e *entry) (err error) {
		page, err = e.host.Folder(ctx, r)
		return err
	})
	return page, err
}

// ReadFile writes bytes of a file, or of a disk in a session of kind nbd, to w.
func (s *Sessions) ReadFile(ctx context.Context, r mover.FileReadRequest, w io.Writer) error {
	return s.use(ctx, r.Session, func(ctx context.Context, e *entry) error { return e.host.ReadFile(ctx, r, w) })
}

// TakeFiles writes a stream of items to w.
func (s *Sessions) TakeFiles(ctx context.Context, r mover.FileTakeRequest, w io.Writer) error {
	return s.use(ctx, r.Session, func(ctx context.Context, e *entry) error { return e.host.TakeFiles(ctx, r, w) })
}

// Disk returns a disk of a session. Errors: CodeDiskUnknown; CodeConflict in a session
// that is not for whole disks.
func (s *Sessions) Disk(id backstay.FileSessionID, target backstay.DiskTarget) (backstay.PointDisk, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, err := s.find(id)
	if err != nil {
		return backstay.PointDisk{}, err
	}
	if e.session.Kind != backstay.SessionNBD {
		return backstay.PointDisk{}, backstay.Errorf(backstay.CodeConflict, "the session %s is not for whole disks", id).
			Becausef("it is of kind %s", e.session.Kind).Do("open one of kind %s", backstay.SessionNBD)
	}
	for _, d := range e.disks {
		if d.Target == target && d.Included {
			return d, nil
		}
	}
	return backstay.PointDisk{}, backstay.Errorf(backstay.CodeDiskUnknown, "the session has no disk %s", target).
		Becausef("the point %s does not have it, or the session was opened without it", e.session.Point)
}
