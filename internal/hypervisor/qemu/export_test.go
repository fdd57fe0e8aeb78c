package qemu

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// qemu-nbd does this with a signal that comes while it starts.
const forgetful = `trap 'trap "exit 0" TERM' TERM; touch "$0"; while :; do sleep 0.01; done`

func TestAServerThatForgetsTheFirstSignalIsStoppedAllTheSame(t *testing.T) {
	ready := filepath.Join(t.TempDir(), "ready")
	p, err := start("sh", nil, "-c", forgetful, ready)
	if err != nil {
		t.Fatal(err)
	}
	for _, err := os.Stat(ready); err != nil; _, err = os.Stat(ready) {
		time.Sleep(time.Millisecond)
	}
	if err := stop(p); err != nil {
		t.Error(err)
	}
}
