package luks

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
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
	// Where we are root, cryptsetup runs as one of the users whose numbers systemd gives
	// to services for as long as they run. Not as nobody: that user may have other
	// processes, which could look into this one.
	firstUser, lastUser = 61184, 65519
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
	namespaces := uintptr(syscall.CLONE_NEWNET | syscall.CLONE_NEWIPC | syscall.CLONE_NEWPID | syscall.CLONE_NEWUTS)
	if os.Geteuid() != 0 {
		namespaces = 0
	}
	var out, said bounded
	confined := func(namespaces uintptr) error {
		out, said = bounded{}, bounded{}
		cmd := exec.CommandContext(ctx, "prlimit", append(append(limits, args...), "/proc/self/fd/3")...)
		cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}
		cmd.Dir = "/"
		cmd.ExtraFiles = []*os.File{file}
		cmd.Stdin = bytes.NewReader(input)
		cmd.Stdout, cmd.Stderr = &out, &said
		cmd.SysProcAttr = attributes(namespaces)
		return alone(cmd)
	}
	err = confined(namespaces)
	if errors.Is(err, unix.EPERM) && namespaces != 0 { // a container may forbid them
		err = confined(0)
	}
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, fmt.Errorf("cryptsetup: %w%s", err, said.words())
	}
	return out.Bytes(), nil
}

// attributes are how cryptsetup runs: it ends with us, and what it starts ends with it.
func attributes(namespaces uintptr) *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL, Cloneflags: namespaces}
	if os.Geteuid() == 0 {
		id := firstUser + rand.Uint32N(lastUser-firstUser+1)
		attr.Credential = &syscall.Credential{Uid: id, Gid: id}
	}
	return attr
}

// alone runs a command. It is killed when the thread that started it ends, so that is
// held; and where memory runs out, it goes before any guest does (I12).
func alone(cmd *exec.Cmd) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := cmd.Start(); err != nil {
		return err
	}
	_ = os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", cmd.Process.Pid), []byte("1000"), 0) // it may have ended
	return cmd.Wait()
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
