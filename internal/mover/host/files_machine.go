package host

import (
	"context"
	"io"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/mover"
)

// openMachine starts the session's small machine and plugs the disks in.
func (s *fileSession) openMachine(context.Context, mover.Progress) error {
	return backstay.Errorf(backstay.CodeUnfit, "files of a point cannot be read on host %s", s.name).
		Becausef("its mover was started without small machines").Do("see `backstay doctor`; whole disks can be had with `backstay restore disks`")
}

// noMachine refuses what only a small machine can do.
func (s *fileSession) noMachine() error {
	return backstay.Errorf(backstay.CodeUsage, "session %s reads disks alone", s.request.Session).Becausef("it was opened without a small machine")
}

// UnlockVolume opens a locked volume.
func (h *Host) UnlockVolume(_ context.Context, r mover.UnlockRequest) ([]backstay.Volume, error) {
	s, err := h.files.find(r.Session)
	if err != nil {
		return nil, err
	}
	return nil, s.noMachine()
}

// Folder lists a folder.
func (h *Host) Folder(_ context.Context, r mover.FolderRequest) (mover.FolderPage, error) {
	s, err := h.files.find(r.Session)
	if err != nil {
		return mover.FolderPage{}, err
	}
	return mover.FolderPage{}, s.noMachine()
}

// TakeFiles writes files and folders to w.
func (h *Host) TakeFiles(_ context.Context, r mover.FileTakeRequest, _ io.Writer) error {
	s, err := h.files.find(r.Session)
	if err != nil {
		return err
	}
	return s.noMachine()
}

func (s *fileSession) readFile(context.Context, mover.FileReadRequest, io.Writer) error {
	return s.noMachine()
}
