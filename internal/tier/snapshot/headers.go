package snapshot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
)

// headLength is how much of a file is searched for the name of what it stands
// on: an image's header names its backing file in its first bytes.
const headLength = 64 << 10

// unknownOn says which files beside the given ones stand on them although no
// record knows of it: the overlay of a VM that was undefined, or of a point that
// is being taken, or one that somebody made by hand. The hypervisor cannot tell
// of those, and merging below them would corrupt them silently.
func (t *Tier) unknownOn(ctx context.Context, b *book, files ...string) ([]string, error) {
	var who []string
	for folder, names := range t.byFolder(files) {
		entries, err := os.ReadDir(folder)
		if err != nil {
			return nil, fmt.Errorf("look for what stands on %s: %w", files[0], err)
		}
		for _, e := range entries {
			path := filepath.Join(folder, e.Name())
			if !e.Type().IsRegular() || b.ByFile(path) != nil || b.overlayOfUser(path) || !mentions(path, names) {
				continue
			}
			info, err := t.images.Info(ctx, path)
			if errors.Is(err, os.ErrNotExist) {
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("look for what stands on %s: %w", files[0], err)
			}
			if slices.Contains(files, ourWord(info.Backing, files)) {
				who = append(who, b.strangerInWords(path, info.Backing))
			}
		}
	}
	slices.Sort(who)
	return who, nil
}

func (b *book) strangerInWords(path, on string) string {
	for _, in := range b.Intents {
		for _, d := range in.Disks {
			if d.Overlay == path {
				return fmt.Sprintf("point %s is being taken on %s", in.ID, on)
			}
		}
	}
	return fmt.Sprintf("%s stands on %s, and no record of backstay knows it", path, on)
}

// overlayOfUser tells whether a file is the overlay of a VM that is recorded as
// standing on a layer: what it keeps is known.
func (b *book) overlayOfUser(path string) bool {
	for _, l := range b.Layers {
		if slices.ContainsFunc(l.Users, func(u User) bool { return u.Overlay == path }) {
			return true
		}
	}
	return false
}

// byFolder lists for each folder the names of the files in it.
func (t *Tier) byFolder(files []string) map[string][]string {
	folders := map[string][]string{}
	for _, f := range files {
		if !isFile(f) {
			// What stands on it has many ways to name it: everything is asked.
			if _, err := os.Stat(t.layers); err == nil {
				folders[t.layers] = append(folders[t.layers], "")
			}
			continue
		}
		folders[filepath.Dir(f)] = append(folders[filepath.Dir(f)], filepath.Base(f))
	}
	return folders
}

// mentions tells whether the head of a file has one of the names in it. It spares
// asking the image tools about every file in a folder.
func mentions(path string, names []string) bool {
	file, err := os.Open(path)
	if err != nil {
		return true // let the tools say what is wrong with it
	}
	defer file.Close()
	head := make([]byte, headLength)
	n, err := io.ReadFull(file, head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return true
	}
	return slices.ContainsFunc(names, func(name string) bool { return bytes.Contains(head[:n], []byte(name)) })
}
