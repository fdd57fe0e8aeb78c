package record

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	backstay "github.com/backstay/backstay"
)

// Store is all records of one host. Its methods may be called concurrently.
type Store struct {
	state string
	// mu makes each read-change-write of records one step.
	mu sync.Mutex
}

// NewStore returns the records of a host. state is a folder of its own, in which
// the folders that hold records are remembered; it is made if it is not there.
func NewStore(state string) (*Store, error) {
	if err := os.MkdirAll(state, 0o700); err != nil {
		return nil, fmt.Errorf("make state folder: %w", err)
	}
	state, err := filepath.Abs(state)
	if err != nil {
		return nil, fmt.Errorf("find state folder: %w", err)
	}
	return &Store{state: state}, nil
}

// Load reads all records.
func (s *Store) Load() (*Book, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.read()
}

// Change reads all records and lets fn change and write them, while nobody else
// does. fn must not call the store.
func (s *Store) Change(fn func(b *Book) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, err := s.read()
	if err != nil {
		return err
	}
	return fn(b)
}

// read reads all records. The caller holds mu.
func (s *Store) read() (*Book, error) {
	folders, err := s.folders()
	if err != nil {
		return nil, err
	}
	b := &Book{
		Layers: map[backstay.LayerID]*Layer{}, Points: map[backstay.PointID]*Point{},
		PointFiles: map[backstay.PointID]string{}, store: s,
	}
	for _, folder := range folders {
		if err := b.readFolder(folder); err != nil {
			return nil, err
		}
	}
	for _, p := range b.Points {
		p.Parent = b.ParentOf(p)
	}
	return b, nil
}

// folderList is the file in the state folder that names the folders which
// hold records.
type folderList struct {
	Version int      `json:"version"`
	Folders []string `json:"folders"`
}

func (s *Store) folderFile() string { return filepath.Join(s.state, "folders.json") }

// folders returns the folders that may hold records. The caller holds mu.
func (s *Store) folders() ([]string, error) {
	var list folderList
	err := ReadJSON(s.folderFile(), &list)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return list.Folders, err
}

// Discover adds those of the folders that hold records to the ones that are
// looked at.
func (s *Store) Discover(folders []string) error {
	var found []string
	for _, folder := range folders {
		if _, err := os.Stat(filepath.Join(folder, Folder)); err == nil {
			found = append(found, folder)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.remember(found)
}

// Remember adds folders to those that are looked at, durably and before the
// first record is written there.
func (b *Book) Remember(folders ...string) error { return b.store.remember(folders) }

// remember is Remember for a caller that holds mu.
func (s *Store) remember(folders []string) error {
	known, err := s.folders()
	if err != nil {
		return err
	}
	all := append(slices.Clone(known), folders...)
	slices.Sort(all)
	all = slices.Compact(all)
	if slices.Equal(all, known) {
		return nil
	}
	return WriteJSON(s.folderFile(), folderList{Version: Version, Folders: all})
}

// RemoveTemps removes half-written records and returns their paths. Nobody
// writes a layer's or a point's record while mu is held.
func (s *Store) RemoveTemps() (removed []string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	folders, err := s.folders()
	if err != nil {
		return nil, err
	}
	for _, folder := range folders {
		for _, sub := range []string{layerFolder, pointFolder, mapFolder} {
			gone, err := removeTemps(filepath.Join(folder, Folder, sub))
			removed = append(removed, gone...)
			if err != nil {
				return removed, err
			}
		}
	}
	return removed, nil
}

func removeTemps(folder string) (removed []string, err error) {
	entries, err := os.ReadDir(folder)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list half-written records: %w", err)
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), tempPrefix) {
			continue
		}
		path := filepath.Join(folder, e.Name())
		if err := RemoveFile(path); err != nil {
			return removed, err
		}
		removed = append(removed, path)
	}
	return removed, nil
}
