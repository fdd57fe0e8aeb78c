package volumes

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/guest/inside/probe"
	"github.com/backstay/backstay/internal/guest/wire"
)

// Unlock opens a locked volume, and looks at what appears below it.
func (s *Set) Unlock(ctx context.Context, q wire.UnlockRequest) (wire.Scanned, error) {
	if err := s.unlock(ctx, q); err != nil {
		return wire.Scanned{}, err
	}
	return s.Scan(ctx)
}

func (s *Set) unlock(ctx context.Context, q wire.UnlockRequest) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.find(q.Volume)
	if n == nil {
		return backstay.Errorf(backstay.CodeUnknownVolume, "there is no volume %q", q.Volume)
	}
	if n.content.Class != probe.Locked {
		return nil // somebody was faster
	}
	// The kernel would ask for ciphers itself, of a program that the machine has not.
	if err := s.load("dm_mod", "dm_crypt", "dm_zero", "aesni_intel", "xts", "cbc", "essiv", "algif_skcipher", "sha256_generic", "sha512_generic",
		"serpent_generic", "twofish_generic", "camellia_generic"); err != nil {
		return err
	}
	name := fmt.Sprintf("open%d", s.number())
	if err := openLocked(ctx, n, name, q); err != nil {
		return err
	}
	size, err := sizeOf("/dev/mapper/" + name)
	if err != nil {
		return fmt.Errorf("open volume %s: %w", n.id, err)
	}
	device, err := mapped(name)
	if err != nil {
		return fmt.Errorf("open volume %s: %w", n.id, err)
	}
	return s.look(ctx, n.opened(device, size))
}

// mapped returns the device that a name below /dev/mapper stands for.
func mapped(name string) (string, error) {
	var st unix.Stat_t
	if err := unix.Stat("/dev/mapper/"+name, &st); err != nil {
		return "", err
	}
	device := fmt.Sprintf("/dev/dm-%d", unix.Minor(st.Rdev))
	if _, err := os.Stat(device); err != nil {
		return "", err
	}
	return device, nil
}

// openLocked has cryptsetup open a volume. Keys go through pipes and memory only.
func openLocked(ctx context.Context, n *node, name string, q wire.UnlockRequest) error {
	kind := "luks"
	if n.content.Type == probe.TypeBitLocker {
		kind = "bitlk"
	}
	p := program{name: "cryptsetup", args: []string{"open", "--type", kind, "--disable-locks", "--disable-keyring", "--batch-mode"}}
	switch {
	case len(q.VolumeKey) > 0:
		file, err := memory(q.VolumeKey)
		if err != nil {
			return err
		}
		defer file.Close()
		p.files = append(p.files, file)
		p.args = append(p.args, "--volume-key-file", "/proc/self/fd/3")
	case len(q.RecoveryKey) > 0:
		p.input = []byte(strings.TrimSpace(string(q.RecoveryKey)))
	case len(q.KeyFile) > 0:
		p.input = q.KeyFile
	default:
		p.input = q.Passphrase
	}
	if p.input != nil {
		p.args = append(p.args, "--key-file", "-")
	}
	p.args = append(p.args, n.device, name)
	_, _, err := p.run(ctx)
	clear(p.input)
	return unlockError(n, err)
}

// memory returns a file without a name that holds data, at its beginning.
func memory(data []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate("key", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("hand over key: %w", err)
	}
	file := os.NewFile(uintptr(fd), "key")
	if _, err := file.WriteAt(data, 0); err != nil {
		file.Close()
		return nil, fmt.Errorf("hand over key: %w", err)
	}
	return file, nil
}

// unlockError says what cryptsetup's exit status means; see its manual.
func unlockError(n *node, err error) error {
	var f *failure
	switch {
	case err == nil:
		return nil
	case !errors.As(err, &f):
		return fmt.Errorf("open volume %s: %w", n.id, err)
	case f.code == 2, f.code == 1 && f.stderr == "" && n.content.Type == probe.TypeBitLocker:
		// Of BitLocker's keys, cryptsetup says no more than that none fits.
		return backstay.Errorf(backstay.CodeVolumeKey, "the key does not open volume %s", n.id).Becausef("it fits none of the volume's key slots")
	case f.code == 3 || f.code < 0 && f.stderr == "":
		return backstay.Errorf(backstay.CodeVolumeLocked, "volume %s cannot be opened inside the small machine", n.id).
			Becausef("its key needs more memory than the machine has")
	}
	return backstay.Errorf(backstay.CodeVolumeLocked, "volume %s cannot be opened", n.id).Becausef("%s", f.Error())
}
