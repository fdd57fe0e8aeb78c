package backstay

import (
	"path"
	"strings"
)

// mostLinks is how many symbolic links one path may lead through, as in Linux.
const mostLinks = 40

// ResolveFile finds what a path means among a point's volumes and what is there, which
// stat tells of one location (CodeUnknownFile where nothing is). Symbolic links on the
// way are followed as the guest would follow them, from volume to volume by its mount
// points; the last name is followed if last says so. The root of a volume is the end of
// every way up. Errors: as LocateFile's, CodeUnknownFile, and CodeFileUnfit for links
// that lead in a circle.
func ResolveFile(volumes []Volume, stat func(FileLocation) (FileEntry, error), name FilePath, last bool) (FileLocation, FileEntry, error) {
	w := way{volumes: volumes, stat: stat}
	return w.find(name, last)
}

// way follows one path.
type way struct {
	volumes []Volume
	stat    func(FileLocation) (FileEntry, error)
	links   int
}

func (w *way) find(name FilePath, last bool) (FileLocation, FileEntry, error) {
	for {
		at, err := w.locate(name)
		if err != nil {
			return at, FileEntry{}, err
		}
		// Most paths lead through no link, so the end is looked at first.
		entry, err := w.stat(at)
		if err == nil && (entry.Type != TypeLink || !last) {
			return at, entry, nil
		}
		passable := err == nil || IsCode(err, CodeUnknownFile) || IsCode(err, CodeFileUnfit)
		if !passable {
			return at, entry, err
		}
		next, found, lookErr := w.firstLink(at, last)
		if lookErr != nil {
			return at, entry, lookErr
		}
		if !found {
			if err == nil {
				err = UnknownFile(at)
			}
			return at, entry, err
		}
		name = next
	}
}

// locate finds the volume of a path. A guest that says of none of its volumes where it
// belongs is taken at its files: a path that is on one volume alone means that one.
func (w *way) locate(name FilePath) (FileLocation, error) {
	at, err := LocateFile(w.volumes, name)
	if !IsCode(err, CodeUnknownVolume) || !strings.HasPrefix(string(name), "/") {
		return at, err
	}
	var on []FileLocation
	for _, v := range w.volumes {
		if v.Kind != VolumeFiles {
			continue
		}
		if v.MountPoint != "" {
			return at, err
		}
		here := FileLocation{Volume: v.ID, Path: FilePath(path.Clean(string(name)))}
		switch _, statErr := w.stat(here); {
		case statErr == nil:
			on = append(on, here)
		case !IsCode(statErr, CodeUnknownFile):
			return at, err
		}
	}
	if len(on) == 1 {
		return on[0], nil
	}
	return at, err
}

// firstLink replaces the first link on the way to a location by what it leads to.
func (w *way) firstLink(at FileLocation, last bool) (FilePath, bool, error) {
	names := strings.Split(strings.Trim(string(at.Path), "/"), "/")
	for i := range names {
		if i == len(names)-1 && !last {
			break
		}
		here := FileLocation{Volume: at.Volume, Path: FilePath("/" + strings.Join(names[:i+1], "/"))}
		entry, err := w.stat(here)
		if err != nil {
			return "", false, err
		}
		if entry.Type != TypeLink {
			continue
		}
		if w.links++; w.links > mostLinks {
			return "", false, Errorf(CodeFileUnfit, "%s cannot be reached", at).
				Becausef("it leads through more than %d symbolic links, or in a circle", mostLinks)
		}
		return w.leads(here, string(entry.Target), strings.Join(names[i+1:], "/")), true, nil
	}
	return "", false, nil
}

// leads is where a link leads, with the rest of the path behind it: a path of the
// guest where the link's volume has a place in it, else one on the same volume, which
// is all that is known of its guest then.
func (w *way) leads(link FileLocation, target, rest string) FilePath {
	from := func(root string) string {
		if strings.HasPrefix(target, "/") {
			return path.Join("/", target, rest)
		}
		return path.Join("/", root, string(link.Path), "..", target, rest)
	}
	if mount := w.mountPoint(link.Volume); mount != "" {
		guests := FilePath(from(mount))
		// Two volumes may claim one mount point; then each is a world of its own.
		if _, err := LocateFile(w.volumes, guests); !IsCode(err, CodeUnknownVolume) {
			return guests
		}
	}
	return FilePath(string(link.Volume) + ":" + from(""))
}

func (w *way) mountPoint(id VolumeID) string {
	for _, v := range w.volumes {
		if v.ID == id && strings.HasPrefix(v.MountPoint, "/") {
			return v.MountPoint
		}
	}
	return ""
}

// UnknownFile is the error of a location at which nothing is.
func UnknownFile(at FileLocation) error {
	return Errorf(CodeUnknownFile, "there is no %s", at).Becausef("the point has no file or folder of this path")
}
