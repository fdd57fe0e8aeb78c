package files

import (
	"context"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/mover"
)

// Resolve finds what a path means in a session and what is there, as
// backstay.ResolveFile does.
func (s *Sessions) Resolve(ctx context.Context, id backstay.FileSessionID, name backstay.FilePath, last bool) (backstay.FileLocation, backstay.FileEntry, error) {
	session, err := s.Get(id)
	if err != nil {
		return backstay.FileLocation{}, backstay.FileEntry{}, err
	}
	return backstay.ResolveFile(session.Volumes, func(at backstay.FileLocation) (backstay.FileEntry, error) {
		page, err := s.Folder(ctx, mover.FolderRequest{Session: id, Volume: at.Volume, Path: at.Path, Itself: true})
		if err != nil {
			return backstay.FileEntry{}, err
		}
		if len(page.Entries) == 0 {
			return backstay.FileEntry{}, backstay.UnknownFile(at)
		}
		return page.Entries[0], nil
	}, name, last)
}
