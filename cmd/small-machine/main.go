// Command small-machine builds what the small machines start from, for the build
// and the package.
package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/backstay/backstay/internal/guest/image"
)

func main() {
	if len(os.Args) != 3 || os.Args[1] != "build" {
		fmt.Fprintln(os.Stderr, "usage: small-machine build FOLDER")
		os.Exit(2)
	}
	if err := build(context.Background(), os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "small-machine:", err)
		os.Exit(1)
	}
}

// build puts the image's files into a folder, unless they are there already.
func build(ctx context.Context, folder string) error {
	from, err := image.Ensure(ctx, os.Getenv("BACKSTAY_MACHINE_CACHE"))
	if err != nil {
		return err
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	want, err := os.ReadFile(filepath.Join(from, image.ManifestFile))
	if err != nil {
		return err
	}
	if have, err := os.ReadFile(filepath.Join(folder, image.ManifestFile)); err == nil && bytes.Equal(have, want) {
		return nil
	}
	// The manifest comes last: where it is, the others are.
	for _, name := range []string{image.KernelFile, image.InitrdFile, image.ManifestFile} {
		data, err := os.ReadFile(filepath.Join(from, name))
		if err != nil {
			return err
		}
		target := filepath.Join(folder, name)
		if err := os.WriteFile(target+".new", data, 0o644); err != nil {
			return err
		}
		if err := os.Rename(target+".new", target); err != nil {
			return err
		}
	}
	return nil
}
