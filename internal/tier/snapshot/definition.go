package snapshot

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/backstay/backstay/internal/hypervisor"
	"github.com/backstay/backstay/internal/tier"
)

// The most that is captured of a VM beside its disks, in bytes.
const (
	maxNVRAM = 64 << 20
	maxTPM   = 16 << 20
)

// capture reads what a point holds of a VM beside its disks.
func capture(domain *hypervisor.Domain) (tier.Definition, error) {
	d := tier.Definition{LiveXML: domain.LiveXML, InactiveXML: domain.InactiveXML, Files: handedFiles(domain), Autostart: domain.Autostart}
	err := captureState(domain, &d)
	return d, err
}

// captureState reads firmware variables and TPM state, which the guest changes
// while it runs. A file that is not there was never made: no error.
func captureState(domain *hypervisor.Domain, d *tier.Definition) error {
	if domain.NVRAM != "" {
		data, err := readLimited(domain.NVRAM, maxNVRAM)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("read firmware variables: %w", err)
		}
		if err == nil {
			d.NVRAM = data
		}
	}
	if domain.TPMState == "" {
		return nil
	}
	state := map[string][]byte{}
	if err := readTPM(domain.TPMState, state); err != nil {
		return fmt.Errorf("read TPM state: %w", err)
	}
	d.TPM = state
	return nil
}

// readTPM reads the regular files below a folder. The TPM replaces them
// atomically, so each is whole, and one may vanish under our eyes.
func readTPM(root string, into map[string][]byte) error {
	left := int64(maxTPM)
	return filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if !e.Type().IsRegular() || e.Name() == ".lock" {
			return nil
		}
		data, err := readLimited(path, left)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		left -= int64(len(data))
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		into[rel] = data
		return nil
	})
}

func readLimited(path string, limit int64) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%s is larger than %d bytes", path, limit)
	}
	return data, nil
}
