// Package live serves the disks of a vault's point to a VM that runs before they
// were copied. The export is a process of its own, one for each such VM, in a
// session of its own: it outlives the server and the mover, holds what the guest
// asks while the store is away, and ends by itself when it is needed no more.
//
// It knows no hypervisor and copies nothing. What it hands out was authenticated
// by the image that it came from (I4).
package live

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/mover"
)

// Order says what an export serves, and for how long.
type Order struct {
	// Folder holds the socket; User and Group are those that QEMU runs as, who may
	// connect to it besides root.
	Folder      string
	User, Group int
	Point       backstay.PointID
	Vault       mover.VaultAccess
	Disks       []Disk
}

// Disk is one disk that is served, as the export of its target's name.
type Disk struct {
	Target backstay.DiskTarget `json:"target"`
	Size   int64               `json:"size"`
}

// Socket is where an export with this folder listens.
func Socket(folder string) string { return filepath.Join(folder, "s") }

// neededFile is in the folder for as long as the export is to serve: it ends when
// the file is gone and nobody is connected.
func neededFile(folder string) string { return filepath.Join(folder, "needed") }

// Prepare makes the folder of an export, which root and QEMU's user may enter, and
// notes that it is needed. Safe to repeat.
func Prepare(o Order) error {
	if err := os.MkdirAll(filepath.Dir(o.Folder), 0o711); err != nil {
		return fmt.Errorf("make the folder of sockets: %w", err)
	}
	if err := os.Mkdir(o.Folder, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make the folder of the export: %w", err)
	}
	if o.User != os.Geteuid() {
		if err := os.Chown(o.Folder, o.User, o.Group); err != nil {
			return fmt.Errorf("give the folder of the export to QEMU: %w", err)
		}
	}
	if err := os.WriteFile(neededFile(o.Folder), nil, 0o600); err != nil {
		return fmt.Errorf("note that the export is needed: %w", err)
	}
	return nil
}

// Dismiss lets the export in a folder end as soon as nobody is connected to it. No
// error if there is none.
func Dismiss(folder string) error {
	if err := os.Remove(neededFile(folder)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("dismiss the export: %w", err)
	}
	return nil
}

// wire is an Order as it is sent through the pipe and sealed; Key is plain in it.
type wire struct {
	Folder     string              `json:"folder"`
	User       int                 `json:"user"`
	Group      int                 `json:"group"`
	Point      backstay.PointID    `json:"point"`
	Disks      []Disk              `json:"disks"`
	Vault      backstay.VaultName  `json:"vault"`
	VaultID    string              `json:"vaultID"`
	Units      []string            `json:"units"`
	Redundancy backstay.Redundancy `json:"redundancy"`
	Key        []byte              `json:"key"`
}

func encode(o Order) ([]byte, error) {
	return json.Marshal(wire{
		o.Folder, o.User, o.Group, o.Point, o.Disks,
		o.Vault.Name, o.Vault.ID, o.Vault.Units, o.Vault.Redundancy, o.Vault.Key.Reveal(),
	})
}

func (w wire) order() Order {
	return Order{
		Folder: w.Folder, User: w.User, Group: w.Group, Point: w.Point, Disks: w.Disks,
		Vault: mover.VaultAccess{Name: w.Vault, ID: w.VaultID, Units: w.Units, Redundancy: w.Redundancy, Key: backstay.NewSecret(w.Key)},
	}
}

// Seal encrypts an order with a key of the host, so that only this host opens it,
// and only as that of this restore (I10).
func Seal(key []byte, job backstay.JobID, o Order) ([]byte, error) {
	plain, err := encode(o)
	if err != nil {
		return nil, fmt.Errorf("seal export: %w", err)
	}
	gcm, err := aead(key)
	if err != nil {
		return nil, fmt.Errorf("seal export: %w", err)
	}
	nonce := make([]byte, gcm.NonceSize())
	if _, err := rand.Read(nonce); err != nil {
		return nil, fmt.Errorf("seal export: %w", err)
	}
	return gcm.Seal(nonce, nonce, plain, []byte(job)), nil
}

// Unseal is Seal's inverse.
func Unseal(key []byte, job backstay.JobID, sealed []byte) (Order, error) {
	gcm, err := aead(key)
	if err != nil {
		return Order{}, fmt.Errorf("unseal export: %w", err)
	}
	if len(sealed) < gcm.NonceSize() {
		return Order{}, errors.New("unseal export: it is cut short")
	}
	plain, err := gcm.Open(nil, sealed[:gcm.NonceSize()], sealed[gcm.NonceSize():], []byte(job))
	if err != nil {
		return Order{}, fmt.Errorf("unseal export: it is not what this host sealed for job %s: %w", job, err)
	}
	var w wire
	if err := json.Unmarshal(plain, &w); err != nil {
		return Order{}, fmt.Errorf("unseal export: %w", err)
	}
	return w.order(), nil
}

// aead uses a key derived from the host's, which seals other things as well.
func aead(hostKey []byte) (cipher.AEAD, error) {
	key, err := hkdf.Key(sha256.New, hostKey, nil, "backstay live restore", 32)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}
