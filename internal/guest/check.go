package guest

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/guest/wire"
)

// The bounds of what an answer may hold; the machine keeps far below them.
const (
	mostValues    = 1 << 20 // values of JSON
	mostVolumes   = 4096
	longestID     = 32 << 10 // bytes of a volume's name, which may be a path
	longestName   = 4096     // bytes of a file's
	longestHeader = 16 << 20 // bytes of a locked volume's header
)

// decode is json.Unmarshal for an answer that nobody believes: many small values would
// take a hundred times the room that they have as text.
func decode(answer []byte, r any) error {
	values, quoted := 0, false
	for i := 0; i < len(answer); i++ {
		switch c := answer[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case !quoted && (c == ',' || c == '{' || c == '['):
			values++
		}
	}
	if values > mostValues {
		return fmt.Errorf("an answer of %d values", values)
	}
	return json.Unmarshal(answer, r)
}

// checkScanned holds what a scan says of volumes to what volumes can be, and makes its
// texts, which stand on a disk, ones that can be printed.
func checkScanned(s *wire.Scanned) error {
	if len(s.Volumes) > mostVolumes || len(s.Locks) > mostVolumes {
		return fmt.Errorf("%d volumes", len(s.Volumes))
	}
	seen := map[backstay.VolumeID]bool{}
	for i := range s.Volumes {
		v := &s.Volumes[i]
		kinds := []backstay.VolumeKind{backstay.VolumeFiles, backstay.VolumeLocked, backstay.VolumeSwap, backstay.VolumeEmpty, backstay.VolumeUnread}
		if !isID(v.ID) || seen[v.ID] || !slices.Contains(kinds, v.Kind) || v.Size < 0 || v.Used < 0 {
			return fmt.Errorf("a volume %.80q of kind %.20q", v.ID, v.Kind)
		}
		seen[v.ID] = true
		for _, text := range []*string{&v.FileSystem, &v.Label, &v.UUID, &v.Reason} {
			*text = wire.Clean(*text)
		}
		for j := range v.On {
			v.On[j] = wire.Clean(v.On[j])
		}
	}
	for _, l := range s.Locks {
		if !isID(l.Volume) || l.Offset < 0 || l.Length < 0 || len(l.Header) > longestHeader {
			return fmt.Errorf("a lock of %.80q", l.Volume)
		}
	}
	return nil
}

// isID tells whether a text may name a volume.
func isID(id backstay.VolumeID) bool {
	return id != "" && len(id) <= longestID && strings.IndexFunc(string(id), unicode.IsControl) < 0
}

// checkFolder holds a part of a folder to what one can be.
func checkFolder(f *wire.Folder) error {
	if len(f.Entries) > wire.MaxEntries {
		return fmt.Errorf("%d entries", len(f.Entries))
	}
	for i := range f.Entries {
		e := &f.Entries[i]
		if e.Name == "" || e.Name == "." || e.Name == ".." || strings.ContainsRune(string(e.Name), '/') {
			return fmt.Errorf("an entry %.80q", string(e.Name))
		}
		if err := checkEntry(e); err != nil {
			return err
		}
	}
	return nil
}

var errEntry = errors.New("an entry that no folder can have")

// checkEntry holds an entry to what one can be.
func checkEntry(e *backstay.FileEntry) error {
	types := []backstay.FileType{
		backstay.TypeFile, backstay.TypeFolder, backstay.TypeLink, backstay.TypeBlock, backstay.TypeChar, backstay.TypeFIFO, backstay.TypeSocket,
	}
	if len(e.Name) > longestName || strings.IndexByte(string(e.Name), 0) >= 0 || !slices.Contains(types, e.Type) || e.Size < 0 || e.Used < 0 ||
		e.Mode&^0o7777 != 0 || len(e.Target) > wire.MaxPath || strings.IndexByte(string(e.Target), 0) >= 0 {
		return fmt.Errorf("%w: %.80q of type %.20q", errEntry, string(e.Name), e.Type)
	}
	return nil
}
