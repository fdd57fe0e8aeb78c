package debian

import (
	"bytes"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestInitramfsFormatIsWhatCpioReads(t *testing.T) {
	var b bytes.Buffer
	c := NewArchive(&b)
	c.Folder("bin")
	c.Program("bin/a", []byte("hello"))
	c.Link("bin/b", "a")
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if b.Len()%4 != 0 {
		t.Errorf("archive is %d bytes long, which is no multiple of 4", b.Len())
	}
	for _, want := range []string{"bin/a\x00", "hello", "TRAILER!!!\x00"} {
		if !bytes.Contains(b.Bytes(), []byte(want)) {
			t.Errorf("archive does not hold %q", want)
		}
	}
	// Each header begins on a multiple of 4.
	for at := 0; ; {
		i := bytes.Index(b.Bytes()[at:], []byte("070701"))
		if i < 0 {
			break
		}
		if (at+i)%4 != 0 {
			t.Errorf("header at %d", at+i)
		}
		at += i + 6
	}
}

func TestLibrariesOfAProgramIncludeItsLoader(t *testing.T) {
	program, err := exec.LookPath("mount")
	if err != nil {
		t.Fatal(err)
	}
	libs, err := Libraries(program, "/")
	if err != nil {
		t.Fatal(err)
	}
	var loader, libc bool
	for path := range libs {
		loader = loader || strings.HasPrefix(filepath.Base(path), "ld-linux")
		libc = libc || strings.HasPrefix(filepath.Base(path), "libc.so")
	}
	if !loader || !libc {
		t.Errorf("libraries of %s lack loader or libc: %v", program, libs)
	}
}
