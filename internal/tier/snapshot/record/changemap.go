package record

import (
	"fmt"
	"path/filepath"

	backstay "github.com/backstay/backstay"
)

// ChangeMap is the record of what changed on a disk from one point to another,
// saved when the layer that told it was merged. It is removed when a later point
// than From is in the vault.
type ChangeMap struct {
	Version int                 `json:"version"`
	VM      backstay.VMID       `json:"vm"`
	Target  backstay.DiskTarget `json:"target"`
	From    backstay.PointID    `json:"from"`
	To      backstay.PointID    `json:"to"`
	Size    int64               `json:"size"` // guest-visible bytes, of both
	// Layer is the layer that held the changes, and Stamp its file when they were
	// read and proved.
	Layer backstay.LayerID `json:"layer"`
	Stamp Stamp            `json:"stamp"`
	// Ranges are the only ones that may differ, in order, in steps of 4 KiB.
	Ranges []backstay.Range `json:"ranges"`

	// Path is where the record lies.
	Path string `json:"-"`
}

// Maps reads the saved change maps of a VM. They can be long, so they are no
// part of a Book.
func (b *Book) Maps(vm backstay.VMID) ([]*ChangeMap, error) {
	folders, err := b.store.folders()
	if err != nil {
		return nil, err
	}
	var maps []*ChangeMap
	for _, folder := range folders {
		err := eachRecord(filepath.Join(folder, Folder, mapFolder), func(path string, m *ChangeMap) {
			if m.Path = path; m.VM == vm {
				maps = append(maps, m)
			}
		})
		if err != nil {
			return nil, err
		}
	}
	return maps, nil
}

// PutMap writes a saved change map beside the layer that it was read from.
func (b *Book) PutMap(m *ChangeMap, beside *Layer) error {
	m.Version = Version
	name := fmt.Sprintf("%s-%s-%s.json", m.From, m.To, m.Target)
	m.Path = filepath.Join(beside.RecordFolder(), Folder, mapFolder, name)
	return WriteJSON(m.Path, m)
}

// RemoveMaps removes the saved change maps of a VM that drop chooses.
func (b *Book) RemoveMaps(vm backstay.VMID, drop func(*ChangeMap) bool) error {
	maps, err := b.Maps(vm)
	if err != nil {
		return err
	}
	for _, m := range maps {
		if !drop(m) {
			continue
		}
		if err := RemoveFile(m.Path); err != nil {
			return err
		}
	}
	return nil
}
