//go:build integration

package guesttest

import "testing"

func TestImagesAreMadeOnce(t *testing.T) {
	first := Images(t, "ext4")
	if again := Images(t, "ext4"); first[0] != again[0] {
		t.Fatalf("%s became %s", first[0], again[0])
	}
}
