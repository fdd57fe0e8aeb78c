package daemon

import "testing"

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
