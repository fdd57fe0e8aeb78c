package snapshot

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// The folder beside the disks, and what is in it.
const (
	recordFolder = ".backstay"
	layerFolder  = "layers"
	pointFolder  = "points"
	intentFolder = "intents"
	tempPrefix   = ".new-" // of a record that is being written
)

// cutOff is where tests end the process: it is asked before each durable
// change of a record or file, and an error stands for a crash at that instant.
var cutOff = func(path string) error { return nil }

// fsync makes a file durable. Tests that lose no power do without.
var fsync = (*os.File).Sync

// writeJSON replaces a record so that after a power loss it is there wholly as
// it was or wholly as it is. In a file system that is full it uses the reserve:
// without records no layer could be merged, and nothing be freed.
func writeJSON(path string, v any) error {
	if err := cutOff(path); err != nil {
		return err
	}
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("encode record %s: %w", path, err)
	}
	data = append(data, '\n')
	err = replaceFile(path, data)
	if errors.Is(err, unix.ENOSPC) && giveUpReserve(path) {
		err = replaceFile(path, data)
	}
	return err
}

// giveUpReserve frees the reserve of the folder in which a record lies, and
// tells whether there was one.
func giveUpReserve(record string) bool {
	folder := filepath.Dir(filepath.Dir(record))
	return filepath.Base(folder) == recordFolder && os.Remove(filepath.Join(folder, reserveName)) == nil
}

// createTemp is where tests let the file system be full.
var createTemp = os.CreateTemp

func replaceFile(path string, data []byte) error {
	if err := makeFolder(filepath.Dir(path)); err != nil {
		return err
	}
	temp, err := createTemp(filepath.Dir(path), tempPrefix+"*")
	if err != nil {
		return fmt.Errorf("write record %s: %w", path, err)
	}
	defer os.Remove(temp.Name())
	if _, err = temp.Write(data); err == nil {
		err = fsync(temp)
	}
	if closeErr := temp.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(temp.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("write record %s: %w", path, err)
	}
	return syncFolder(filepath.Dir(path))
}

// The file beside the records that keeps room for them, and its bytes.
const (
	reserveName = "reserve"
	reserveSize = 1 << 20
)

// reserve keeps room for records beside disks that their guests may fill.
func reserve(folder string) error {
	path := filepath.Join(folder, recordFolder, reserveName)
	if info, err := os.Stat(path); err == nil && info.Size() == reserveSize {
		return nil
	}
	for _, sub := range []string{layerFolder, pointFolder, intentFolder} {
		if err := makeFolder(filepath.Join(folder, recordFolder, sub)); err != nil {
			return err
		}
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("reserve room for records: %w", err)
	}
	if err = unix.Fallocate(int(file.Fd()), 0, 0, reserveSize); errors.Is(err, unix.EOPNOTSUPP) {
		_, err = io.CopyN(file, rand.Reader, reserveSize) // zeros might take no room
	}
	if err == nil {
		err = fsync(file)
	}
	if err = errors.Join(err, file.Close()); err != nil {
		return fmt.Errorf("reserve room for records: %w", errors.Join(err, os.Remove(path)))
	}
	return nil
}

// makeFolder makes a folder that only root can read, durably.
func makeFolder(path string) error {
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	for dir := filepath.Dir(path); ; dir = filepath.Dir(dir) {
		if err := syncFolder(dir); err != nil {
			return err
		}
		if filepath.Base(dir) != recordFolder {
			return nil
		}
	}
}

func syncFolder(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("sync folder: %w", err)
	}
	defer dir.Close()
	if err := fsync(dir); err != nil {
		return fmt.Errorf("sync folder %s: %w", path, err)
	}
	return nil
}

// removeFile removes a file durably; no error if it is not there.
func removeFile(path string) error {
	if err := cutOff(path); err != nil {
		return err
	}
	err := os.Remove(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove file: %w", err)
	}
	return syncFolder(filepath.Dir(path))
}

// readJSON reads a record into v after seeing that its version is one that we
// know.
func readJSON(path string, v any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read record: %w", err)
	}
	var head struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(data, &head); err != nil {
		return fmt.Errorf("read record %s: %w", path, err)
	}
	if head.Version < 1 || head.Version > Version {
		return fmt.Errorf("read record %s: it has version %d, and this backstay knows up to %d: use a newer one", path, head.Version, Version)
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("read record %s: %w", path, err)
	}
	return nil
}

// listJSON returns the paths of the records in a folder, in order of name;
// none if the folder is not there.
func listJSON(folder string) ([]string, error) {
	entries, err := os.ReadDir(folder)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list records: %w", err)
	}
	var paths []string
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".json") && !strings.HasPrefix(e.Name(), ".") {
			paths = append(paths, filepath.Join(folder, e.Name()))
		}
	}
	return paths, nil
}

// folderList is the file in the state folder that names the folders which
// hold records.
type folderList struct {
	Version int      `json:"version"`
	Folders []string `json:"folders"`
}

func (t *Tier) folderFile() string { return filepath.Join(t.state, "folders.json") }

// folders returns the folders that may hold records. The caller holds mu.
func (t *Tier) folders() ([]string, error) {
	var list folderList
	err := readJSON(t.folderFile(), &list)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return list.Folders, err
}

// remember adds folders to those that are looked at, durably and before the
// first record is written there. The caller holds mu.
func (t *Tier) remember(folders ...string) error {
	known, err := t.folders()
	if err != nil {
		return err
	}
	all := append(slices.Clone(known), folders...)
	slices.Sort(all)
	all = slices.Compact(all)
	if slices.Equal(all, known) {
		return nil
	}
	return writeJSON(t.folderFile(), folderList{Version: Version, Folders: all})
}
