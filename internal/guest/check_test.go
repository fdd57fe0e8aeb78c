package guest

import (
	"strings"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/guest/wire"
)

func TestAnAnswerTakesNoMoreRoomThanItsText(t *testing.T) {
	var folder wire.Folder
	many := `{"entries":[` + strings.Repeat(`{},`, 2<<20) + `{}]}`
	if err := decode([]byte(many), &folder); err == nil || len(folder.Entries) > 0 {
		t.Errorf("%d bytes became %d entries", len(many), len(folder.Entries))
	}
	quoted := `{"entries":[{"name":"a,\\x7b\\\\\",` + strings.Repeat(`,{[`, 1<<20) + `"}]}`
	if err := decode([]byte(quoted), &folder); err != nil || len(folder.Entries) != 1 {
		t.Errorf("a long name: %v, %d entries", err, len(folder.Entries))
	}
}

func TestWhatNoFolderHoldsIsNoAnswer(t *testing.T) {
	ok := backstay.FileEntry{Name: "a\xff\x1b", Type: backstay.TypeLink, Target: "/etc/../x", Mode: 0o777}
	if err := checkFolder(&wire.Folder{Entries: []backstay.FileEntry{ok}}); err != nil {
		t.Error(err)
	}
	for what, spoil := range map[string]func(*backstay.FileEntry){
		"no name": func(e *backstay.FileEntry) { e.Name = "" }, "a path": func(e *backstay.FileEntry) { e.Name = "a/b" },
		"above": func(e *backstay.FileEntry) { e.Name = ".." }, "NUL": func(e *backstay.FileEntry) { e.Name = "a\x00" },
		"no type": func(e *backstay.FileEntry) { e.Type = "x" }, "a size": func(e *backstay.FileEntry) { e.Size = -1 },
		"a mode": func(e *backstay.FileEntry) { e.Mode = 0o100644 }, "a long target": func(e *backstay.FileEntry) { e.Target = backstay.FilePath(strings.Repeat("a", 1<<20)) },
	} {
		e := ok
		spoil(&e)
		if err := checkFolder(&wire.Folder{Entries: []backstay.FileEntry{e}}); err == nil {
			t.Errorf("%s: taken", what)
		}
	}
	if err := checkFolder(&wire.Folder{Entries: make([]backstay.FileEntry, wire.MaxEntries+1)}); err == nil {
		t.Error("more entries than were asked for")
	}
}

func TestVolumesOfAMachineAreHeldToWhatVolumesAre(t *testing.T) {
	v := backstay.Volume{ID: "vda2:@home", Kind: backstay.VolumeFiles, Label: "a\x1b[2Jb\nc", Reason: strings.Repeat("x", 1<<20)}
	s := wire.Scanned{Volumes: []backstay.Volume{v}}
	if err := checkScanned(&s); err != nil || strings.ContainsAny(s.Volumes[0].Label, "\x1b\n") || len(s.Volumes[0].Reason) > 8<<10 {
		t.Errorf("%v %q, a reason of %d bytes", err, s.Volumes[0].Label, len(s.Volumes[0].Reason))
	}
	for what, all := range map[string][]backstay.Volume{
		"twice": {v, v}, "too many": make([]backstay.Volume, mostVolumes+1), "no kind": {{ID: "a"}}, "no name": {{Kind: v.Kind}},
		"control characters": {{ID: "a\x1bb", Kind: v.Kind}},
	} {
		if err := checkScanned(&wire.Scanned{Volumes: all}); err == nil {
			t.Errorf("%s: taken", what)
		}
	}
}
