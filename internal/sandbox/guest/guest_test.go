package guest

import (
	"bytes"
	"encoding/binary"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestInitramfsFormatIsWhatCpioReads(t *testing.T) {
	var b bytes.Buffer
	c := &cpioWriter{w: &b}
	c.folder("bin")
	c.program("bin/a", []byte("hello"))
	c.link("bin/b", "a")
	if err := c.close(); err != nil {
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

func TestBootRecordHasTwoPartitionsSideBySide(t *testing.T) {
	record := bootRecord([]byte("code"))
	if len(record) != sector || record[510] != 0x55 || record[511] != 0xaa {
		t.Fatal("no boot signature")
	}
	first, second := record[446:462], record[462:478]
	if first[0] != 0x80 || first[4] != 0xef || second[4] != 0x83 {
		t.Error("first partition must be active and EFI, the second Linux")
	}
	end := binary.LittleEndian.Uint32(first[8:]) + binary.LittleEndian.Uint32(first[12:])
	if start := binary.LittleEndian.Uint32(second[8:]); start != end {
		t.Errorf("second partition begins at sector %d, the first ends at %d", start, end)
	}
}

func TestKeyChangesWithWhatGoesIn(t *testing.T) {
	a, err := inputs{versions: []string{"agent 1"}}.key()
	if err != nil {
		t.Fatal(err)
	}
	b, err := inputs{versions: []string{"agent 2"}}.key()
	if err != nil {
		t.Fatal(err)
	}
	if a == b {
		t.Error("two versions of the agent give one key")
	}
}

func TestLibrariesOfAProgramIncludeItsLoader(t *testing.T) {
	program, err := exec.LookPath("mount")
	if err != nil {
		t.Fatal(err)
	}
	libs, err := libraries(program)
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
