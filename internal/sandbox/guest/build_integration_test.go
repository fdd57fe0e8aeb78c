//go:build integration

package guest

import (
	"context"
	"os"
	"sync"
	"testing"
)

func TestConcurrentBuildersMakeOneImage(t *testing.T) {
	cache := t.TempDir()
	var paths [2]string
	var wg sync.WaitGroup
	for i := range paths {
		wg.Go(func() {
			path, err := Image(context.Background(), cache)
			if err != nil {
				t.Error(err)
			}
			paths[i] = path
		})
	}
	wg.Wait()
	if paths[0] != paths[1] {
		t.Fatalf("two builders made two images: %v", paths)
	}
	entries, err := os.ReadDir(cache)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 3 { // image, lock, packages
		t.Errorf("cache holds %v", entries)
	}
}
