package record

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Stamp identifies the state of a frozen layer. A file's is its size and time. A
// block device has neither: what counts there is how much was ever written to it
// since the host started, and in another run of the host nothing is proved. Of an
// export on the network nothing can be seen at all; it counts as it is taken.
type Stamp struct {
	Bytes   int64     `json:"bytes"`
	ModTime time.Time `json:"modTime"`
	// Boot and Written are of a block device: the run of the host, and the sectors
	// that were written or discarded in it.
	Boot    string `json:"boot,omitempty"`
	Written uint64 `json:"written,omitempty"`
	// Network marks an export, which is trusted to belong to its VM alone.
	Network bool `json:"network,omitempty"`
}

// onHost tells whether a location is a file or device of the host.
func onHost(location string) bool { return filepath.IsAbs(location) }

// Elsewhere tells whether the layer is no file in a folder of the host.
func (l *Layer) Elsewhere() bool { return l.Folder != "" }

// RecordFolder is the folder in which the layer's records lie.
func (l *Layer) RecordFolder() string {
	if l.Folder != "" {
		return l.Folder
	}
	return filepath.Dir(l.File)
}

// There fails if the layer's file or device is not there: fs.ErrNotExist. An
// export on the network is not asked.
func (l *Layer) There() error {
	if !onHost(l.File) {
		return nil
	}
	_, err := os.Stat(l.File)
	return err
}

// StampOf describes a layer as it is now.
func StampOf(location string) (*Stamp, error) {
	if !onHost(location) {
		return &Stamp{Network: true}, nil
	}
	info, err := os.Stat(location)
	if err != nil {
		return nil, fmt.Errorf("look at layer: %w", err)
	}
	if info.Mode()&os.ModeDevice == 0 {
		return &Stamp{Bytes: info.Size(), ModTime: info.ModTime().UTC()}, nil
	}
	s, err := stampOfDevice(location)
	if err != nil {
		// It proves nothing then, which costs a comparison and no point.
		return &Stamp{}, nil
	}
	return s, nil
}

// stampOfDevice asks the kernel. Dirty pages of the host's cache are on the
// device when a frozen disk is stamped: QEMU flushes a disk that it stops writing to.
func stampOfDevice(path string) (*Stamp, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return nil, err
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, err
	}
	stat, err := os.ReadFile(fmt.Sprintf("/sys/dev/block/%d:%d/stat", unix.Major(uint64(st.Rdev)), unix.Minor(uint64(st.Rdev))))
	if err != nil {
		return nil, err
	}
	written, err := sectorsWritten(string(stat))
	return &Stamp{Boot: strings.TrimSpace(string(boot)), Written: written}, err
}

// sectorsWritten reads a line of the kernel's block statistics: the seventh
// number counts the sectors that were written, the fourteenth those discarded.
func sectorsWritten(stat string) (uint64, error) {
	fields := strings.Fields(stat)
	if len(fields) < 11 {
		return 0, errors.New("the kernel's statistics of the device have too few numbers")
	}
	var sum uint64
	for _, at := range []int{6, 13} {
		if at >= len(fields) {
			continue
		}
		n, err := strconv.ParseUint(fields[at], 10, 64)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}

// Intact tells whether a frozen layer is proved to be as we last saw it.
func (l *Layer) Intact() bool { return l.Stamp.Is(l.File) }

// Rewritten tells whether a frozen layer was written to since we last saw it:
// its points are not what they were. A file that looks older than the stamp is
// not, since a power loss can take a time back that was never made durable; nor
// is a device of which nothing is known in this run of the host.
func (l *Layer) Rewritten() bool {
	if l.Stamp == nil {
		return false
	}
	now, err := StampOf(l.File)
	switch {
	case err != nil || now.Network:
		return false
	case now.Boot != "" || l.Stamp.Boot != "":
		return now.Boot == l.Stamp.Boot && now.Written != l.Stamp.Written
	}
	return now.Bytes != l.Stamp.Bytes || now.ModTime.After(l.Stamp.ModTime)
}

// Is tells whether a layer is in the state that the stamp describes, as far as
// that can be proved.
func (s *Stamp) Is(location string) bool {
	now, err := StampOf(location)
	switch {
	case err != nil, s == nil:
		return false
	case now.Network:
		return s.Network
	case now.Boot != "" || s.Boot != "":
		return now.Boot == s.Boot && now.Written == s.Written
	case now.Bytes == 0 && now.ModTime.IsZero():
		return false // a device of which the kernel tells nothing
	}
	return now.Bytes == s.Bytes && now.ModTime.Equal(s.ModTime)
}
