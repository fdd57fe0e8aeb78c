package record

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// The folder beside the disks, and what is in it.
const (
	Folder       = ".backstay"
	layerFolder  = "layers"
	pointFolder  = "points"
	intentFolder = "intents"
	mapFolder    = "changes"
	tempPrefix   = ".new-" // of a record that is being written
)

// CutOff is where tests end the process: it is asked before each durable
// change of a record or file, and an error stands for a crash at that instant.
var CutOff = func(path string) error { return nil }

// Fsync makes a file durable. Tests that lose no power do without.
var Fsync = (*os.File).Sync

// WriteJSON replaces a record so that after a power loss it is there wholly as
// it was or wholly as it is. In a file system that is full it uses the reserve:
// without records no layer could be merged, and nothing be freed.
func WriteJSON(path string, v any) error {
	if err := CutOff(path); err != nil {
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
	return filepath.Base(folder) == Folder && os.Remove(filepath.Join(folder, ReserveName)) == nil
}

// CreateTemp is where tests let the file system be full.
var CreateTemp = os.CreateTemp

func replaceFile(path string, data []byte) error {
	if err := makeFolder(filepath.Dir(path)); err != nil {
		return err
	}
	temp, err := CreateTemp(filepath.Dir(path), tempPrefix+"*")
	if err != nil {
		return fmt.Errorf("write record %s: %w", path, err)
	}
	defer os.Remove(temp.Name())
	if _, err = temp.Write(data); err == nil {
		err = Fsync(temp)
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
	ReserveName = "reserve"
	ReserveSize = 1 << 20
)

// Reserve keeps room for records beside disks that their guests may fill.
func Reserve(folder string) error {
	path := filepath.Join(folder, Folder, ReserveName)
	if info, err := os.Stat(path); err == nil && info.Size() == ReserveSize {
		return nil
	}
	for _, sub := range []string{layerFolder, pointFolder, intentFolder} {
		if err := makeFolder(filepath.Join(folder, Folder, sub)); err != nil {
			return err
		}
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("reserve room for records: %w", err)
	}
	if err = unix.Fallocate(int(file.Fd()), 0, 0, ReserveSize); errors.Is(err, unix.EOPNOTSUPP) {
		_, err = io.CopyN(file, rand.Reader, ReserveSize) // zeros might take no room
	}
	if err == nil {
		err = Fsync(file)
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
		if filepath.Base(dir) != Folder {
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
	if err := Fsync(dir); err != nil {
		return fmt.Errorf("sync folder %s: %w", path, err)
	}
	return nil
}

// RemoveFile removes a file durably; no error if it is not there.
func RemoveFile(path string) error {
	if err := CutOff(path); err != nil {
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

// LinkFile gives a file a second name, durably. No error if it has it.
func LinkFile(path, name string) error {
	if SameFile(path, name) {
		return nil
	}
	if err := CutOff(name); err != nil {
		return err
	}
	if err := os.Link(path, name); err != nil {
		return fmt.Errorf("give file another name: %w", err)
	}
	return syncFolder(filepath.Dir(name))
}

// ReplaceFile lets the second of two names be the first one's file, durably and
// in one step. Both names are there afterwards.
func ReplaceFile(path, name string) error {
	if SameFile(path, name) {
		return nil
	}
	temp := name + tempPrefix
	if err := RemoveFile(temp); err != nil {
		return err
	}
	if err := LinkFile(path, temp); err != nil {
		return err
	}
	if err := CutOff(name); err != nil {
		return err
	}
	if err := os.Rename(temp, name); err != nil {
		return fmt.Errorf("replace file: %w", err)
	}
	return syncFolder(filepath.Dir(name))
}

// SameFile tells whether two names are of one file.
func SameFile(a, b string) bool {
	x, errA := os.Stat(a)
	y, errB := os.Stat(b)
	return errA == nil && errB == nil && os.SameFile(x, y)
}

// ReadJSON reads a record into v after seeing that its version is one that we
// know.
func ReadJSON(path string, v any) error {
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
