package sandbox

import (
	"slices"
	"strings"
	"testing"
)

func TestDisksAreReadAsTheCommandLineGivesThem(t *testing.T) {
	got, err := ParseDisks([]string{"qcow2", "raw:64M", "qcow2:1T"})
	want := []DiskSpec{{}, {Raw: true, Size: 64 << 20}, {Size: 1 << 40}}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, %v", got, err)
	}
	for _, bad := range []string{"vmdk", "raw:", "raw:64", "raw:0G", "raw:-1G", "raw:1X"} {
		if got, err := ParseDisks([]string{bad}); err == nil {
			t.Errorf("%q was read as %v", bad, got)
		}
	}
}

func TestNamesThatWouldBreakXMLOrPathsAreRefused(t *testing.T) {
	w := &World{}
	for _, name := range []string{"", "../x", "a b", "a'/>", "A"} {
		if err := w.AddVM(t.Context(), VMSpec{Name: name}); err == nil || !strings.Contains(err.Error(), "VM name") {
			t.Errorf("name %q: %v", name, err)
		}
	}
}

func TestAWorldsPathMustLeaveRoomForSockets(t *testing.T) {
	if _, err := makeDir(t.TempDir() + "/" + strings.Repeat("x", longestDir)); err == nil {
		t.Error("a folder too long for the sockets below it was taken")
	}
	if _, err := makeDir("/run/world"); err == nil {
		t.Error("a folder that hosts cannot see was taken")
	}
}
