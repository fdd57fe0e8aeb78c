package daemon

import (
	"context"
	"testing"

	backstay "github.com/backstay/backstay"
)

func TestAStartWaitsForAServerThatWasJustKilled(t *testing.T) {
	dir := t.TempDir()
	first, err := lockFolder(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan error)
	go func() {
		unlock, err := lockFolder(t.Context(), dir)
		if err == nil {
			err = unlock()
		}
		got <- err
	}()
	if err := first(); err != nil {
		t.Fatal(err)
	}
	if err := <-got; err != nil {
		t.Error(err)
	}
}

func TestOneServerAtATimeUsesADataFolder(t *testing.T) {
	dir := t.TempDir()
	unlock, err := lockFolder(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unlock() }()
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // nobody waits
	if _, err := lockFolder(ctx, dir); !backstay.IsCode(err, backstay.CodeConflict) {
		t.Errorf("a second server: %v", err)
	}
}
