package backstay_test

import (
	"strings"
	"testing"

	backstay "github.com/backstay/backstay"
)

func TestAPathIsFoundOnTheVolumeThatTheGuestPutsItOn(t *testing.T) {
	files := func(id, mount string) backstay.Volume {
		return backstay.Volume{ID: backstay.VolumeID(id), Kind: backstay.VolumeFiles, MountPoint: mount}
	}
	locked := backstay.Volume{ID: "vda3", Kind: backstay.VolumeLocked}
	server := []backstay.Volume{
		files("vda1", "/boot"), files("vg0/root", "/"), files("vg0/var", "/var/"), {ID: "vda2", Kind: backstay.VolumeSwap, MountPoint: "none"},
		files("vdb", ""), files("vda5:@", ""), files("vda5:@home", "/home"), files("vda5", ""),
		{ID: "vdc", Kind: backstay.VolumeUnread, Reason: "zfs is not known here", MountPoint: "/srv"}, {ID: "vdd", Kind: backstay.VolumeEmpty},
	}
	for _, c := range []struct {
		volumes    []backstay.Volume
		path, want string
	}{
		{server, "/etc/passwd", "vg0/root:/etc/passwd"},
		{server, "/", "vg0/root:/"},
		{server, "/var", "vg0/var:/"},
		{server, "/var/log/../lib//dpkg/", "vg0/var:/lib/dpkg"},
		{server, "/variety", "vg0/root:/variety"},
		{server, "/boot/vmlinuz", "vda1:/vmlinuz"},
		{server, "/home/ann", "vda5:@home:/ann"},
		{server, "/../../etc", "vg0/root:/etc"},
		{server, "vdb:/a", "vdb:/a"},
		{server, "vdb", "vdb:/"},
		{server, "vdb:", "vdb:/"},
		{server, "vdb:/../../x", "vdb:/x"},
		{server, "vg0/root:/var", "vg0/root:/var"},
		{server, "vda5:@home:/ann", "vda5:@home:/ann"},
		{server, "vda5:/ann", "vda5:/ann"},
		{server, "vda5:@", "vda5:@:/"},
		{server, "vdb:/odd\n\xff", `vdb:/odd\x0a\xff`},
		{server, "vdz:/a", "unknown-volume"},
		{server, "etc/passwd", "unknown-volume"},
		{server, "", "usage"},
		{server, "/a\x00b", "usage"},
		{server, "vda2:/", "volume-unreadable"},
		{server, "vdd:/", "volume-unreadable"},
		{server, "/srv/data", "volume-unreadable: zfs is not known here"},
		{[]backstay.Volume{files("vdb", "")}, "/a/b", "vdb:/a/b"},
		{[]backstay.Volume{files("vdb", "/data")}, "/a/b", "unknown-volume"},
		{[]backstay.Volume{files("vdb", ""), files("vdc", "")}, "/a", "unknown-volume: say vdb:/a or vdc:/a"},
		{[]backstay.Volume{files("vda1", "/"), files("vdb1", "/")}, "/a", "unknown-volume: say vda1:/a or vdb1:/a"},
		{[]backstay.Volume{files("vda1", "/boot"), locked}, "/etc", "volume-locked"},
		{[]backstay.Volume{files("vda1", "/boot"), locked}, "/boot/x", "vda1:/x"},
		{[]backstay.Volume{locked}, "vda3:/etc", "volume-locked"},
		{nil, "/etc", "unknown-volume"},
	} {
		at, err := backstay.LocateFile(c.volumes, backstay.FilePath(c.path))
		got := at.String()
		if err != nil {
			e := backstay.AsError(err)
			got = string(e.Code) + ": " + e.Cause + "; " + e.Action
			if code, detail, _ := strings.Cut(c.want, ": "); string(e.Code) == code && strings.Contains(got, detail) {
				continue
			}
		}
		if got != c.want {
			t.Errorf("%q: got %s, want %s", c.path, got, c.want)
		}
	}
}
