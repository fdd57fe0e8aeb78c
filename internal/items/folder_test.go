package items

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
)

// text is a file with content.
func text(path, content string) whole {
	return whole{Item: file(path, int64(len(content))), Runs: runsOf([]byte(content))}
}

func symlink(path, target string) whole {
	return whole{Item: Item{Path: backstay.FilePath(path), Type: backstay.TypeLink, Target: backstay.FilePath(target), ModTime: time.Unix(5, 0)}}
}

func into(t *testing.T, dir string, o FolderOptions, all ...whole) Report {
	t.Helper()
	report, err := Folder(t.Context(), dir, NewReader(bytes.NewReader(write(t, all))), o)
	must(t, err)
	return report
}

// shown is what lies in a folder, one line for each: content, "/" for a folder, "->" and
// the target for a link.
func shown(t *testing.T, dir string) (lines []string) {
	t.Helper()
	must(t, filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		name, _ := filepath.Rel(dir, path)
		switch {
		case err != nil || name == ".":
			return err
		case info.IsDir():
			name += "/"
		case info.Mode()&os.ModeSymlink != 0:
			target, _ := os.Readlink(path)
			name += " -> " + target
		default:
			content, err := os.ReadFile(path)
			must(t, err)
			name += ": " + string(content)
		}
		lines = append(lines, name)
		return nil
	}))
	return lines
}

func same(t *testing.T, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("there is\n  %q, not\n  %q", got, want)
	}
}

func TestAConflictEndsAsItWasSaid(t *testing.T) {
	stream := []whole{text("a.txt", "new"), {Item: folder("b")}, text("b/in", "new"), text("c", "new"), {Item: folder("d")}, text("d/in", "new"), symlink("e", "new")}
	there := func(t *testing.T) string {
		dir := t.TempDir()
		must(t, os.WriteFile(filepath.Join(dir, "a.txt"), []byte("old"), 0o600))
		must(t, os.WriteFile(filepath.Join(dir, "b"), []byte("old"), 0o600)) // a folder in the stream
		must(t, os.Mkdir(filepath.Join(dir, "c"), 0o700))                    // a file in the stream
		must(t, os.Mkdir(filepath.Join(dir, "d"), 0o700))
		must(t, os.WriteFile(filepath.Join(dir, "d/in"), []byte("old"), 0o600))
		must(t, os.WriteFile(filepath.Join(dir, "e"), []byte("old"), 0o600))
		return dir
	}
	ask := func(c Clash) (backstay.Conflict, error) {
		if strings.Contains(string(c.Path), "d") {
			return backstay.ConflictOverwrite, nil
		}
		return backstay.ConflictSkip, nil
	}
	for _, c := range []struct {
		how    backstay.Conflict
		want   []string
		counts map[Outcome]int64
	}{
		{backstay.ConflictSkip, []string{"a.txt: old", "b: old", "c/", "d/", "d/in: old", "e: old"}, map[Outcome]int64{Skipped: 5}},
		{"", []string{"a.txt: old", "b: old", "c/", "d/", "d/in: old", "e: old"}, map[Outcome]int64{Skipped: 5}},
		{backstay.ConflictAsk, []string{"a.txt: old", "b: old", "c/", "d/", "d/in: new", "e: old"}, map[Outcome]int64{Skipped: 4}},
		{backstay.ConflictOverwrite, []string{"a.txt: new", "b/", "b/in: new", "c/", "d/", "d/in: new", "e -> new"}, map[Outcome]int64{Refused: 1}},
		{backstay.ConflictRename, []string{"a (restored).txt: new", "a.txt: old", "b: old", "b (restored)/", "b (restored)/in: new", "c/", "c (restored): new",
			"d/", "d/in: old", "d/in (restored): new", "e: old", "e (restored) -> new"}, map[Outcome]int64{Renamed: 5}},
	} {
		t.Run(string(c.how), func(t *testing.T) {
			dir := there(t)
			report := into(t, dir, FolderOptions{Conflict: c.how, Ask: ask}, stream...)
			got := shown(t, dir)
			slices.Sort(got)
			slices.Sort(c.want)
			same(t, got, c.want...)
			if fmt.Sprint(report.Counts) != fmt.Sprint(c.counts) {
				t.Error(report.Counts)
			}
		})
	}
}

// TestNothingIsWrittenThroughALink: neither one that is there, nor one of the stream.
func TestNothingIsWrittenThroughALink(t *testing.T) {
	hard := file("h", 3)
	hard.HardLink = "f"
	first := text("f", "new")
	first.Item.Linked = true
	streams := map[string][]whole{
		"a folder":              {{Item: folder("to")}, text("to/in", "new"), {Item: folder("to/sub")}},
		"a file":                {text("to", "new")},
		"of the stream":         {symlink("x", "../outside"), {Item: folder("x")}, text("x/in", "new")},
		"of the stream, a file": {symlink("x", "../outside/in"), text("x", "new")},
		"hard link to a link":   {first, {Item: hard}},
	}
	for name, stream := range streams {
		for _, how := range []backstay.Conflict{backstay.ConflictSkip, backstay.ConflictRename, backstay.ConflictOverwrite} {
			t.Run(name+", "+string(how), func(t *testing.T) {
				top := t.TempDir()
				dir, outside := filepath.Join(top, "dir"), filepath.Join(top, "outside")
				must(t, os.Mkdir(dir, 0o700))
				must(t, os.Mkdir(outside, 0o700))
				must(t, os.WriteFile(filepath.Join(outside, "in"), []byte("old"), 0o600))
				must(t, os.Symlink("../outside", filepath.Join(dir, "to")))
				must(t, os.Symlink("../outside/in", filepath.Join(dir, "f")))
				into(t, dir, FolderOptions{Conflict: how}, stream...)
				same(t, shown(t, outside), "in: old")
			})
		}
	}
}

// TestNoHalfFileIsLeft: whatever ends the writing, a file is there whole, or as it was.
func TestNoHalfFileIsLeft(t *testing.T) {
	big := text("f", strings.Repeat("new ", 1000))
	stream := write(t, []whole{big})
	for n := 0; n < len(stream); n += 97 {
		dir := t.TempDir()
		must(t, os.WriteFile(filepath.Join(dir, "f"), []byte("old"), 0o600))
		_, err := Folder(t.Context(), dir, NewReader(bytes.NewReader(stream[:n])), FolderOptions{Conflict: backstay.ConflictOverwrite})
		if !errors.Is(err, ErrCut) {
			t.Fatal(err)
		}
		if got := shown(t, dir); len(got) != 1 || got[0] != "f: old" && got[0] != "f: "+strings.Repeat("new ", 1000) {
			t.Fatalf("cut behind %d bytes: %.60q", n, got)
		}
	}
	broken := whole{Item: file("g", 9), Runs: []Run{{0, []byte("1234")}}, Reason: "input/output error"}
	dir := t.TempDir()
	report := into(t, dir, FolderOptions{}, broken, text("h", "good"))
	same(t, shown(t, dir), "h: good")
	if report.Whole() || report.Counts[Unread] != 1 || report.Remarks[0].Text != "input/output error" {
		t.Error(report)
	}
}

func TestWhatTheTargetCannotTakeIsNamedAndTheRestIsWritten(t *testing.T) {
	dir := t.TempDir()
	long := strings.Repeat("l", 300)
	lost := whole{Item: folder("lost")}
	lost.Item.Error = "input/output error"
	socket := whole{Item: Item{Path: "s", Type: backstay.TypeSocket}}
	pipe := whole{Item: Item{Path: "p", Type: backstay.TypeFIFO}}
	report := into(t, dir, FolderOptions{}, text(long, "x"), whole{Item: folder(long)}, text(long+"/x", "x"), lost, socket, pipe, text("ok", "x"))
	same(t, shown(t, dir), "lost/", "ok: x")
	if report.Whole() || report.Counts[Refused] != 2 || report.Counts[Unread] != 1 || report.Counts[LeftOut] != 2 {
		t.Error(report)
	}
}

func TestRightsThatGoWithTheOwnerAreNotGivenWithoutIt(t *testing.T) {
	dir := t.TempDir()
	suid := text("suid", "x")
	suid.Item.Mode, suid.Item.UID = 0o6755, 1234
	suid.Item.Xattrs = []Xattr{{"security.capability", []byte("\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00")}, {"user.kept", []byte("1")}}
	report := into(t, dir, FolderOptions{}, suid)
	info, err := os.Stat(filepath.Join(dir, "suid"))
	must(t, err)
	if info.Mode() != 0o755 || report.Counts[Lacking] != 1 || !strings.Contains(report.Remarks[0].Text, "set-uid") || !strings.Contains(report.Remarks[0].Text, "security.capability") ||
		strings.Contains(report.Remarks[0].Text, "user.kept") {
		t.Error(info.Mode(), report)
	}
}

// TestAFolderThatForbidsWritingIsFilledFirst, and gets its own time after that.
func TestAFolderThatForbidsWritingIsFilledFirst(t *testing.T) {
	dir := t.TempDir()
	closed := folder("closed")
	closed.Mode = 0o500
	into(t, dir, FolderOptions{}, whole{Item: closed}, whole{Item: folder("closed/in")}, text("closed/in/f", "x"), text("closed/g", "y"))
	info, err := os.Stat(filepath.Join(dir, "closed"))
	must(t, err)
	if info.Mode().Perm() != 0o500 || !info.ModTime().Equal(closed.ModTime) {
		t.Error(info.Mode(), info.ModTime())
	}
	must(t, os.Chmod(filepath.Join(dir, "closed"), 0o700))
}

func TestARestoreThatIsRunAgainMakesWhatIsMissing(t *testing.T) {
	first := text("f", "two names")
	first.Item.Linked = true
	second := file("g", 9)
	second.HardLink = "f"
	dir := t.TempDir()
	into(t, dir, FolderOptions{}, first)
	report := into(t, dir, FolderOptions{}, first, whole{Item: second})
	same(t, shown(t, dir), "f: two names", "g: two names")
	if !report.Whole() || report.Counts[Skipped] != 1 {
		t.Error(report)
	}
	// Another file of the name is not what the link was a name of.
	must(t, os.Remove(filepath.Join(dir, "f")))
	must(t, os.Remove(filepath.Join(dir, "g")))
	must(t, os.WriteFile(filepath.Join(dir, "f"), []byte("somebody's"), 0o600))
	report = into(t, dir, FolderOptions{}, first, whole{Item: second})
	same(t, shown(t, dir), "f: somebody's")
	if report.Whole() {
		t.Error(report)
	}
}
