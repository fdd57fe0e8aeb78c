package qemu

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// TestSocketsOfAKilledProcessAreSweptBeforeItIsCollected (I9): whoever starts right
// after a crash may still see its predecessor as a zombie.
func TestSocketsOfAKilledProcessAreSweptBeforeItIsCollected(t *testing.T) {
	dir := t.TempDir()
	child := exec.Command("sleep", "60")
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	left := filepath.Join(dir, fmt.Sprintf("%s%d", exportsPrefix, child.Process.Pid))
	if err := os.Mkdir(left, 0o700); err != nil {
		t.Fatal(err)
	}
	if New(Options{Dir: dir}); !there(left) {
		t.Error("the folder of a process that lives was removed")
	}
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for begin := time.Now(); !ended(child.Process.Pid); time.Sleep(time.Millisecond) {
		if time.Since(begin) > 10*time.Second {
			t.Fatal("a killed process that nobody collected counts as alive")
		}
	}
	if New(Options{Dir: dir}); there(left) {
		t.Error("the folder of a killed process is left")
	}
	_ = child.Wait() // it was killed
}

func there(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
