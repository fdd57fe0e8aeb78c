package backstay

import (
	"path"
	"slices"
	"strings"
)

// FileLocation is a path within a volume of a point.
type FileLocation struct {
	Volume VolumeID `json:"volume"`
	Path   FilePath `json:"path"` // absolute, without "." and ".."
}

// String is the location as it can be given to a command: VOLUME:/path.
func (l FileLocation) String() string { return string(l.Volume) + ":" + l.Path.String() }

// LocateFile finds what a path means among a point's volumes: VOLUME:/path, or the
// guest's own path, which lies on the volume with the longest mount point above it.
// Errors: CodeUnknownVolume, with the volumes that it could be; CodeVolumeLocked,
// CodeVolumeUnread and CodeUsage.
func LocateFile(volumes []Volume, name FilePath) (FileLocation, error) {
	text := string(name)
	if text == "" || strings.ContainsRune(text, 0) {
		return FileLocation{}, Errorf(CodeUsage, "%q is no path", name.String()).
			Becausef("a path has at least one character, and none of its bytes is zero")
	}
	if text[0] == '/' {
		return locateGuestPath(volumes, path.Clean(text))
	}
	best := -1
	for i, v := range volumes {
		rest, ok := strings.CutPrefix(text, string(v.ID))
		if ok && (rest == "" || rest == ":" || strings.HasPrefix(rest, ":/")) && (best < 0 || len(v.ID) > len(volumes[best].ID)) {
			best = i
		}
	}
	if best < 0 {
		return FileLocation{}, unknownVolume(volumes, name, "no volume has this name")
	}
	v := volumes[best]
	rest := strings.TrimPrefix(strings.TrimPrefix(text, string(v.ID)), ":")
	return FileLocation{v.ID, FilePath(path.Clean("/" + rest))}, browsable(v)
}

// locateGuestPath goes by the mount points that the guest's own fstab gives.
func locateGuestPath(volumes []Volume, name string) (FileLocation, error) {
	var found, files, locked []Volume
	length := -1
	for _, v := range volumes {
		switch v.Kind {
		case VolumeFiles:
			files = append(files, v)
		case VolumeLocked:
			locked = append(locked, v)
		}
		n, ok := below(v.MountPoint, name)
		if ok && n > length {
			found, length = nil, n
		}
		if ok && n == length {
			found = append(found, v)
		}
	}
	switch {
	case len(found) == 1:
		rest := strings.TrimPrefix(name, strings.TrimSuffix(path.Clean(found[0].MountPoint), "/"))
		return FileLocation{found[0].ID, FilePath(path.Clean("/" + rest))}, browsable(found[0])
	case len(found) > 1:
		return FileLocation{}, unknownVolume(found, FilePath(name), "more than one volume has the mount point "+found[0].MountPoint)
	case len(locked) > 0:
		return FileLocation{}, lockedVolume(locked[0], "the path may lie on it, and what would tell is locked too")
	case len(files) == 1 && files[0].MountPoint == "":
		return FileLocation{files[0].ID, FilePath(name)}, nil
	}
	return FileLocation{}, unknownVolume(volumes, FilePath(name), "the point does not say which volume it lies on")
}

// below tells whether a path is a mount point or below it, and the mount point's length.
func below(mount, name string) (int, bool) {
	if !strings.HasPrefix(mount, "/") {
		return 0, false // none, or that of swap
	}
	mount = path.Clean(mount)
	if mount == "/" {
		return 0, true
	}
	return len(mount), name == mount || strings.HasPrefix(name, mount+"/")
}

// browsable is nil for a volume whose files can be read, else says why they cannot.
func browsable(v Volume) error {
	switch v.Kind {
	case VolumeFiles:
		return nil
	case VolumeLocked:
		return lockedVolume(v, first(v.Reason, "it is encrypted, and not opened yet"))
	case VolumeSwap:
		return Errorf(CodeVolumeUnread, "volume %s holds no files", v.ID).Becausef("it is swap")
	case VolumeEmpty:
		return Errorf(CodeVolumeUnread, "volume %s holds no files", v.ID).Becausef("it is empty: there are zeros where a file system would begin")
	}
	return Errorf(CodeVolumeUnread, "volume %s cannot be read", v.ID).Becausef("%s", first(v.Reason, "what it holds is not known"))
}

func lockedVolume(v Volume, cause string) error {
	return Errorf(CodeVolumeLocked, "volume %s is locked", v.ID).Becausef("%s", cause)
}

func unknownVolume(volumes []Volume, name FilePath, cause string) error {
	e := Errorf(CodeUnknownVolume, "it is not clear on which volume %s lies", name).Becausef("%s", cause)
	if len(name) > 0 && name[0] != '/' {
		e = Errorf(CodeUnknownVolume, "there is no volume for %s", name).Becausef("%s", cause)
	}
	var could []string
	for _, v := range volumes {
		if v.Kind == VolumeFiles || v.Kind == VolumeLocked {
			could = append(could, string(v.ID))
		}
	}
	if len(could) == 0 {
		return e
	}
	slices.Sort(could)
	tail := ":/path"
	if len(name) > 0 && name[0] == '/' {
		tail = ":" + name.String()
	}
	return e.Do("say %s%s", strings.Join(could, tail+" or "), tail)
}

func first(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}
