package luks

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	backstay "github.com/backstay/backstay"
)

const (
	// floorMemory is what cryptsetup may have beside what a key slot asks for, in bytes.
	floorMemory = 512 << 20
	// patience is how long one attempt may take. A slot of argon2id with 1 GiB takes
	// seconds; one that was made to take hours is given up.
	patience = 5 * time.Minute
	// nobody is whom cryptsetup runs as, where we are root.
	nobody = 65534
	// maxOutput is the most that is read of what cryptsetup says, in bytes.
	maxOutput = 8 << 20
)

// Unlock returns the volume key. key is a passphrase or the content of a key file,
// without a newline that is not part of it. ErrWrongKey if it opens nothing.
func (v *Volume) Unlock(ctx context.Context, key backstay.Secret) (backstay.Secret, error) {
	out, err := v.run(ctx, key.Reveal(), floorMemory+v.Memory, "--dump-volume-key", "--key-file", "-")
	defer clear(out)
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == 2 { // cryptsetup(8), RETURN CODES
		return backstay.Secret{}, ErrWrongKey
	}
	if err != nil {
		return backstay.Secret{}, fmt.Errorf("unlock LUKS volume: %w", err)
	}
	_, dump, found := strings.Cut(string(out), "MK dump:")
	volumeKey, err := hex.DecodeString(strings.Join(strings.Fields(dump), ""))
	if !found || err != nil || len(volumeKey) == 0 {
		return backstay.Secret{}, errors.New("unlock LUKS volume: cryptsetup did not say its volume key")
	}
	return backstay.NewSecret(volumeKey), nil
}

// run has cryptsetup look at the header with at most so many bytes of memory, and
// returns what it said.
func (v *Volume) run(ctx context.Context, input []byte, memory int64, args ...string) ([]byte, error) {
	file, err := v.inMemory()
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	limits := []string{
		fmt.Sprintf("--as=%d", memory), fmt.Sprintf("--cpu=%d", int(patience.Seconds())),
		"--nofile=64", "--fsize=0", "--core=0",
		"cryptsetup", "luksDump", "--batch-mode", "--disable-locks",
	}
	cmd := exec.CommandContext(ctx, "prlimit", append(append(limits, args...), "/proc/self/fd/3")...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}
	cmd.Dir = "/"
	cmd.ExtraFiles = []*os.File{file}
	cmd.Stdin = bytes.NewReader(input)
	var out, said bounded
	cmd.Stdout, cmd.Stderr = &out, &said
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if os.Geteuid() == 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: nobody, Gid: nobody, NoSetGroups: false}
		cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWNET | syscall.CLONE_NEWIPC
	}
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, fmt.Errorf("cryptsetup: %w%s", err, said.words())
	}
	return out.Bytes(), nil
}

// inMemory returns the header as a file that is in memory only, as large as the
// volume: cryptsetup compares sizes.
func (v *Volume) inMemory() (*os.File, error) {
	fd, err := unix.MemfdCreate("luks-header", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("keep LUKS header: %w", err)
	}
	file := os.NewFile(uintptr(fd), "luks-header")
	_, err = file.Write(v.header)
	if err = errors.Join(err, file.Truncate(v.size)); err != nil {
		return nil, errors.Join(fmt.Errorf("keep LUKS header: %w", err), file.Close())
	}
	return file, nil
}

// bounded keeps the first maxOutput bytes that are written to it.
type bounded struct{ bytes.Buffer }

// Write never fails: what is too much is dropped.
func (b *bounded) Write(p []byte) (int, error) {
	b.Buffer.Write(p[:min(len(p), maxOutput-b.Len())])
	return len(p), nil
}

// words are the last of what a tool said, in a form for error texts.
func (b *bounded) words() string {
	lines := strings.Split(strings.TrimSpace(b.String()), "\n")
	last := lines[len(lines)-1]
	if last == "" {
		return ""
	}
	return fmt.Sprintf(" (%q)", last[:min(len(last), 200)])
}
