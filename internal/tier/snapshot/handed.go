package snapshot

import (
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/backstay/backstay/internal/hypervisor"
	"github.com/backstay/backstay/internal/tier"
)

// maxHanded bounds each file that is handed to a guest, in bytes; larger ones are
// no keys, and are left out.
const maxHanded = 64 << 10

// handedFiles reads the files that a VM's definition hands to its guest through the
// firmware (<sysinfo type='fwcfg'>). One that cannot be read is left out: the VM
// could not start with it either.
func handedFiles(domain *hypervisor.Domain) map[string]tier.HostFile {
	var files map[string]tier.HostFile
	for _, text := range []string{domain.LiveXML, domain.InactiveXML} {
		for _, path := range handedPaths(text) {
			file, err := readHanded(path)
			if err != nil {
				continue
			}
			if files == nil {
				files = map[string]tier.HostFile{}
			}
			files[path] = file
		}
	}
	return files
}

// handedPaths lists the files that a definition names.
func handedPaths(text string) (paths []string) {
	if !strings.Contains(text, "fwcfg") {
		return nil
	}
	var domain struct {
		Sysinfo []struct {
			Type    string `xml:"type,attr"`
			Entries []struct {
				File string `xml:"file,attr"`
			} `xml:"entry"`
		} `xml:"sysinfo"`
	}
	if err := xml.NewDecoder(strings.NewReader(text)).Decode(&domain); err != nil && !errors.Is(err, io.EOF) {
		return nil
	}
	for _, info := range domain.Sysinfo {
		for _, e := range info.Entries {
			if info.Type == "fwcfg" && filepath.IsAbs(e.File) {
				paths = append(paths, filepath.Clean(e.File))
			}
		}
	}
	return paths
}

func readHanded(path string) (tier.HostFile, error) {
	info, err := os.Stat(path)
	if err != nil {
		return tier.HostFile{}, err
	}
	if !info.Mode().IsRegular() {
		return tier.HostFile{}, errors.New("it is no file")
	}
	content, err := readLimited(path, maxHanded)
	file := tier.HostFile{Content: content, Mode: uint32(info.Mode().Perm())}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		file.UID, file.GID = int(st.Uid), int(st.Gid)
	}
	return file, err
}
