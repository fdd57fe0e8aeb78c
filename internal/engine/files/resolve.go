package files

import (
	"context"
	"path"
	"strings"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/mover"
)

// mostLinks is how many symbolic links one path may lead through, as in Linux.
const mostLinks = 40

// Resolve finds what a path means in a session: on which volume it lies and what is
// there. Symbolic links on the way are followed as the guest would follow them, from
// volume to volume by its mount points; the last name is followed if last says so. The
// root of a volume is the end of every way up. Errors: as backstay.LocateFile's,
// CodeUnknownFile, and CodeFileUnfit for links that lead in a circle.
func (s *Sessions) Resolve(ctx context.Context, id backstay.FileSessionID, name backstay.FilePath, last bool) (backstay.FileLocation, backstay.FileEntry, error) {
	session, err := s.Get(id)
	if err != nil {
		return backstay.FileLocation{}, backstay.FileEntry{}, err
	}
	w := way{volumes: session.Volumes, stat: func(at backstay.FileLocation) (backstay.FileEntry, error) {
		page, err := s.Folder(ctx, mover.FolderRequest{Session: id, Volume: at.Volume, Path: at.Path, Itself: true})
		if err == nil && len(page.Entries) == 0 {
			err = unknownFile(at)
		}
		if err != nil {
			return backstay.FileEntry{}, err
		}
		return page.Entries[0], nil
	}}
	return w.find(name, last)
}

// way follows one path.
type way struct {
	volumes []backstay.Volume
	stat    func(backstay.FileLocation) (backstay.FileEntry, error)
	links   int
}

func (w *way) find(name backstay.FilePath, last bool) (backstay.FileLocation, backstay.FileEntry, error) {
	for {
		at, err := w.locate(name)
		if err != nil {
			return at, backstay.FileEntry{}, err
		}
		// Most paths lead through no link, so the end is looked at first.
		entry, err := w.stat(at)
		if err == nil && (entry.Type != backstay.TypeLink || !last) {
			return at, entry, nil
		}
		passable := err == nil || backstay.IsCode(err, backstay.CodeUnknownFile) || backstay.IsCode(err, backstay.CodeFileUnfit)
		if !passable {
			return at, entry, err
		}
		next, found, lookErr := w.firstLink(at, last)
		if lookErr != nil {
			return at, entry, lookErr
		}
		if !found {
			if err == nil {
				err = unknownFile(at)
			}
			return at, entry, err
		}
		name = next
	}
}

// locate finds the volume of a path. A guest that says of none of its volumes where it
// belongs is taken at its files: a path that is on one volume alone means that one.
func (w *way) locate(name backstay.FilePath) (backstay.FileLocation, error) {
	at, err := backstay.LocateFile(w.volumes, name)
	if !backstay.IsCode(err, backstay.CodeUnknownVolume) || !strings.HasPrefix(string(name), "/") {
		return at, err
	}
	var on []backstay.FileLocation
	for _, v := range w.volumes {
		if v.Kind != backstay.VolumeFiles {
			continue
		}
		if v.MountPoint != "" {
			return at, err
		}
		here := backstay.FileLocation{Volume: v.ID, Path: backstay.FilePath(path.Clean(string(name)))}
		switch _, statErr := w.stat(here); {
		case statErr == nil:
			on = append(on, here)
		case !backstay.IsCode(statErr, backstay.CodeUnknownFile):
			return at, err
		}
	}
	if len(on) == 1 {
		return on[0], nil
	}
	return at, err
}

// firstLink replaces the first link on the way to a location by what it leads to.
func (w *way) firstLink(at backstay.FileLocation, last bool) (backstay.FilePath, bool, error) {
	names := strings.Split(strings.Trim(string(at.Path), "/"), "/")
	for i := range names {
		if i == len(names)-1 && !last {
			break
		}
		here := backstay.FileLocation{Volume: at.Volume, Path: backstay.FilePath("/" + strings.Join(names[:i+1], "/"))}
		entry, err := w.stat(here)
		if err != nil {
			return "", false, err
		}
		if entry.Type != backstay.TypeLink {
			continue
		}
		if w.links++; w.links > mostLinks {
			return "", false, backstay.Errorf(backstay.CodeFileUnfit, "%s cannot be reached", at).
				Becausef("it leads through more than %d symbolic links, or in a circle", mostLinks)
		}
		return w.leads(here, string(entry.Target), strings.Join(names[i+1:], "/")), true, nil
	}
	return "", false, nil
}

// leads is where a link leads, with the rest of the path behind it: a path of the
// guest where the link's volume has a place in it, else one on the same volume, which
// is all that is known of its guest then.
func (w *way) leads(link backstay.FileLocation, target, rest string) backstay.FilePath {
	from := func(root string) string {
		if strings.HasPrefix(target, "/") {
			return path.Join("/", target, rest)
		}
		return path.Join("/", root, string(link.Path), "..", target, rest)
	}
	if mount := w.mountPoint(link.Volume); mount != "" {
		guests := backstay.FilePath(from(mount))
		// Two volumes may claim one mount point; then each is a world of its own.
		if _, err := backstay.LocateFile(w.volumes, guests); !backstay.IsCode(err, backstay.CodeUnknownVolume) {
			return guests
		}
	}
	return backstay.FilePath(string(link.Volume) + ":" + from(""))
}

func (w *way) mountPoint(id backstay.VolumeID) string {
	for _, v := range w.volumes {
		if v.ID == id && strings.HasPrefix(v.MountPoint, "/") {
			return v.MountPoint
		}
	}
	return ""
}

func unknownFile(at backstay.FileLocation) error {
	return backstay.Errorf(backstay.CodeUnknownFile, "there is no %s", at).Becausef("the point has no file or folder of this path")
}
