package backstay

import "testing"

func TestLinksAreFollowedAsTheGuestWould(t *testing.T) {
	volumes := []Volume{
		{ID: "root", Kind: VolumeFiles, MountPoint: "/"}, {ID: "var", Kind: VolumeFiles, MountPoint: "/var"},
		{ID: "vdb", Kind: VolumeFiles},
	}
	tree := map[string]string{ // a link's target, or "" for a folder and "." for a file
		"root:/": "", "root:/usr": "", "root:/usr/bin": "", "root:/usr/bin/ls": ".", "root:/bin": "usr/bin", "root:/run": "", "root:/run/lock": ".",
		"var:/": "", "var:/run": "/run", "var:/lib": "", "var:/up": "../usr", "var:/deep": "lib/../../bin",
		"root:/logs": "/var/log", "var:/log": "", "var:/log/a": ".", "root:/a": "b", "root:/b": "a", "root:/dangling": "nowhere/x",
		"root:/chain": "chain2", "root:/chain2": "/logs/a", "root:/escape": "../../../../usr",
		"vdb:/": "", "vdb:/etc": "", "vdb:/etc/f": ".", "vdb:/e": "/etc", "vdb:/r": "etc/f", "vdb:/out": "../../etc",
	}
	stat := func(at FileLocation) (FileEntry, error) {
		target, ok := tree[at.String()]
		switch {
		case !ok:
			return FileEntry{}, UnknownFile(at)
		case target == "":
			return FileEntry{Type: TypeFolder}, nil
		case target == ".":
			return FileEntry{Type: TypeFile}, nil
		}
		return FileEntry{Type: TypeLink, Target: FilePath(target)}, nil
	}
	for _, c := range []struct {
		path string
		last bool
		want string
	}{
		{"/usr/bin/ls", true, "root:/usr/bin/ls"},
		{"/bin/ls", false, "root:/usr/bin/ls"},
		{"/bin", true, "root:/usr/bin"},
		{"/bin", false, "root:/bin"},
		{"/var/run/lock", false, "root:/run/lock"},
		{"var:/run/lock", false, "root:/run/lock"},
		{"/var/up/bin/ls", false, "root:/usr/bin/ls"},
		{"/var/deep/ls", false, "root:/usr/bin/ls"},
		{"/logs/a", true, "var:/log/a"},
		{"/chain", true, "var:/log/a"},
		{"/escape/bin", true, "root:/usr/bin"},
		{"vdb:/e/f", true, "vdb:/etc/f"},
		{"vdb:/r", true, "vdb:/etc/f"},
		{"vdb:/out/f", true, "vdb:/etc/f"},
		{"/a", false, "root:/a"},
		{"/a", true, "file-not-possible"},
		{"/a/x", false, "file-not-possible"},
		{"/dangling", false, "root:/dangling"},
		{"/dangling", true, "unknown-file"},
		{"/nothing/x", true, "unknown-file"},
		{"vdz:/x", true, "unknown-volume"},
	} {
		w := way{volumes: volumes, stat: stat}
		at, _, err := w.find(FilePath(c.path), c.last)
		got := at.String()
		if err != nil {
			got = string(AsError(err).Code)
		}
		if got != c.want {
			t.Errorf("%s (last %v): %s, want %s", c.path, c.last, got, c.want)
		}
	}
}

func TestAPathOnOneVolumeAloneNeedsNoMountPoint(t *testing.T) {
	volumes := []Volume{
		{ID: "esp", Kind: VolumeFiles}, {ID: "root", Kind: VolumeFiles}, {ID: "swap", Kind: VolumeSwap},
	}
	there := map[string]bool{"root:/etc": true, "root:/": true, "esp:/": true, "root:/boot": true, "esp:/boot": true}
	w := way{volumes: volumes, stat: func(at FileLocation) (FileEntry, error) {
		if !there[at.String()] {
			return FileEntry{}, UnknownFile(at)
		}
		return FileEntry{Type: TypeFolder}, nil
	}}
	for name, want := range map[FilePath]string{"/etc/": "root:/etc", "/boot": "", "/": "", "/nowhere": ""} {
		at, _, err := w.find(name, true)
		if want == "" && !IsCode(err, CodeUnknownVolume) || want != "" && (err != nil || at.String() != want) {
			t.Errorf("%s is %s (%v), not %q", name, at, err, want)
		}
	}
	volumes[1].MountPoint = "/srv"
	if at, _, err := w.find("/etc", true); err == nil {
		t.Errorf("a path that the guest's fstab does not place is taken as %s", at)
	}
}
