package backstay_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	backstay "github.com/backstay/backstay"
)

// TestWhatThePageOfDifferencesNamesExists: codes, tests and stories.
func TestWhatThePageOfDifferencesNamesExists(t *testing.T) {
	page, err := os.ReadFile("docs/differences.md")
	if err != nil {
		t.Fatal(err)
	}
	tests := testNames(t)
	for _, m := range regexp.MustCompile("`(Test[A-Za-z]+)`").FindAllStringSubmatch(string(page), -1) {
		if !tests[m[1]] {
			t.Errorf("there is no test %s", m[1])
		}
	}
	for _, m := range regexp.MustCompile("story `([a-z_]+)`").FindAllStringSubmatch(string(page), -1) {
		if _, err := os.Stat(filepath.Join("test/scripts", m[1]+".txtar")); err != nil {
			t.Errorf("there is no story %s", m[1])
		}
	}
	codes := backstay.Codes()
	for line := range strings.Lines(string(page)) {
		cells := strings.Split(line, "|")
		if len(cells) < 5 || strings.Contains(cells[1], "there") && strings.Contains(cells[2], "here") {
			continue // only the failures have three columns
		}
		for _, m := range regexp.MustCompile("`([a-z]+(?:-[a-z]+)*)`").FindAllStringSubmatch(cells[2], -1) {
			if _, ok := codes[backstay.Code(m[1])]; !ok && m[1] != "protect" {
				t.Errorf("there is no code %s", m[1])
			}
		}
	}
}

func testNames(t *testing.T) map[string]bool {
	names, found := map[string]bool{}, regexp.MustCompile(`(?m)^func (Test[A-Za-z0-9]+)\(`)
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() && path != "." && strings.HasPrefix(d.Name(), ".") {
			if err == nil {
				err = filepath.SkipDir
			}
			return err
		}
		if d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return nil
		}
		text, err := os.ReadFile(path)
		for _, m := range found.FindAllSubmatch(text, -1) {
			names[string(m[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}
