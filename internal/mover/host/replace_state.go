package host

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/durable"
	"github.com/backstay/backstay/internal/hypervisor"
	"github.com/backstay/backstay/internal/tier"
)

// tpmExchange is the exchange of a TPM's state: libvirt finds it by the VM's UUID
// alone, so the folder of that name changes places with another in one step.
type tpmExchange struct {
	// Folder is where the VM's TPM has its state, and Other the folder beside it:
	// the point's state before the exchange, and the VM's own after it.
	Folder string `json:"folder"`
	Other  string `json:"other"`
	// New is the inode of the point's state, by which it is known where it is.
	New uint64 `json:"new"`
}

// placeNVRAM writes the point's firmware variables to a file of their own, beside
// the VM's: the definition that names it makes them count.
func (j *replaceJournal) placeNVRAM(now string, point tier.Definition) error {
	if now == "" || len(point.NVRAM) == 0 {
		return nil
	}
	if j.NVRAM == "" {
		ext := filepath.Ext(now)
		stem := strings.TrimSuffix(filepath.Base(now), ext)
		if at := strings.Index(stem, replacedMark); at > 0 {
			stem = stem[:at] // of an earlier replace
		}
		j.NVRAM = filepath.Join(filepath.Dir(now), stem+replacedMark+strings.ToLower(string(j.Job))+nvramExtension(point))
		j.OldNVRAM = now
		if err := j.write(); err != nil {
			return err
		}
	}
	if err := cutOff(j.NVRAM); err != nil {
		return err
	}
	// 0600 root: libvirt gives it to the user that QEMU runs as.
	if err := durable.WriteFile(j.NVRAM, point.NVRAM); err != nil {
		return fmt.Errorf("write firmware variables: %w", err)
	}
	return nil
}

// replacedMark is in the names of files that a replace made, before its job.
const replacedMark = ".replaced-"

// placeTPM writes the point's TPM state beside the VM's.
func (j *replaceJournal) placeTPM(now string, point tier.Definition) error {
	if now == "" || len(point.TPM) == 0 || j.TPM != nil && j.TPM.New != 0 {
		return nil
	}
	j.TPM = &tpmExchange{Folder: now, Other: now + replacedMark + strings.ToLower(string(j.Job))}
	if err := j.write(); err != nil {
		return err
	}
	if err := os.RemoveAll(j.TPM.Other); err != nil { // of an attempt that was cut off
		return fmt.Errorf("write TPM state: %w", err)
	}
	if err := cutOff(j.TPM.Other); err != nil {
		return err
	}
	c := companions{folder: j.TPM.Other, tpm: map[string][]byte{}}
	for name, content := range point.TPM {
		if !filepath.IsLocal(name) {
			continue // made by nobody that we know
		}
		if !strings.Contains(name, "/") {
			name = filepath.Join("tpm2", name)
		}
		c.tpm[filepath.Join(c.folder, name)] = content
	}
	err := os.MkdirAll(filepath.Dir(now), 0o711)
	if err == nil {
		err = c.placeTPM()
	}
	if err == nil {
		j.TPM.New, err = inode(j.TPM.Other)
	}
	if err != nil {
		return fmt.Errorf("write TPM state: %w", err)
	}
	return j.write()
}

func inode(path string) (uint64, error) {
	var st syscall.Stat_t
	if err := syscall.Stat(path, &st); err != nil {
		return 0, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	return st.Ino, nil
}

// exchange is put for a VM that may run: a TPM that is in use would write what it
// has in memory over the state that it is given.
func (x *tpmExchange) exchange(d *hypervisor.Domain, point bool) error {
	if x == nil || x.New == 0 {
		return nil
	}
	at, err := inode(x.Folder)
	if err == nil && (at == x.New) != point && d.VM.State != backstay.VMShutOff {
		return backstay.Errorf(backstay.CodeNotShutOff, "VM %s is not shut off", d.VM.Name).Becausef("it is %s, and its TPM is in use", d.VM.State).
			Do("shut it off; the rest is done then")
	}
	return x.put(point)
}

// put lets the VM's TPM have the point's state, or its own again. Safe to repeat.
func (x *tpmExchange) put(point bool) error {
	if x == nil || x.New == 0 {
		return nil
	}
	if _, err := os.Stat(x.Folder); errors.Is(err, os.ErrNotExist) { // it was never started
		if err := os.MkdirAll(x.Folder, 0o711); err != nil {
			return fmt.Errorf("exchange TPM state: %w", err)
		}
	}
	at, err := inode(x.Folder)
	if err != nil {
		return fmt.Errorf("exchange TPM state: %w", err)
	}
	if (at == x.New) == point {
		return nil
	}
	if err := cutOff(x.Folder); err != nil {
		return err
	}
	err = unix.Renameat2(unix.AT_FDCWD, x.Folder, unix.AT_FDCWD, x.Other, unix.RENAME_EXCHANGE)
	if err != nil {
		return fmt.Errorf("exchange TPM state: %w", &os.LinkError{Op: "exchange", Old: x.Folder, New: x.Other, Err: err})
	}
	return durable.Sync(filepath.Dir(x.Folder))
}

// discard removes the state that does not count.
func (x *tpmExchange) discard() error {
	if x == nil {
		return nil
	}
	if err := cutOff(x.Other); err != nil {
		return err
	}
	if err := os.RemoveAll(x.Other); err != nil {
		return fmt.Errorf("remove TPM state: %w", err)
	}
	return durable.Sync(filepath.Dir(x.Other))
}

// discardNVRAM removes firmware variables that no definition names any more.
func discardNVRAM(path, inUse string) error {
	if path == "" || path == inUse {
		return nil
	}
	if err := cutOff(path); err != nil {
		return err
	}
	return durable.Remove(path)
}
