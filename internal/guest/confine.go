package guest

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// translated is the most that QEMU keeps of translated code, in bytes, where it
// emulates.
const translated = 256 << 20

// spare is what QEMU may map besides the machine's memory and what it translates:
// its own program and libraries, its threads' stacks, caches.
const spare = 3 << 30

// limits are what the process may use of the host, as options of prlimit.
func limits(o Options) []string {
	limits := []string{
		"--fsize=" + strconv.FormatInt(o.Overlay, 10), "--nofile=256", "--core=0",
		"--as=" + strconv.FormatInt(o.Memory+translated+spare, 10),
	}
	if os.Geteuid() == 0 {
		// Of a user who has no other process; QEMU reads disks with up to 64 threads.
		limits = append(limits, "--nproc=256")
	}
	return limits
}

// confined is how the process runs: it ends with us, and where we are root, as a
// user whom nothing belongs to, without a network, and without seeing another
// process.
func confined(o Options) *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	if os.Geteuid() != 0 {
		return attr
	}
	id := nobodys()
	attr.Credential = &syscall.Credential{Uid: id, Gid: id}
	attr.Cloneflags = unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWPID | unix.CLONE_NEWUTS
	if o.Accel == "kvm" {
		var s unix.Stat_t
		if unix.Stat(kvm, &s) == nil {
			attr.Credential.Groups = []uint32{s.Gid}
		}
	}
	return attr
}

// kvm is the device by which QEMU runs machines on the processor itself.
const kvm = "/dev/kvm"

// The numbers of users that systemd gives to services for as long as they run:
// nothing on a host belongs to any of them.
const (
	firstUser = 61184
	lastUser  = 65519
)

// nobodys returns the number of a user who has no name and no process, so that
// machines have nothing in common with each other either.
func nobodys() uint32 {
	busy := map[uint32]bool{}
	processes, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range processes {
		var s unix.Stat_t
		if unix.Stat(dir, &s) == nil {
			busy[s.Uid] = true
		}
	}
	for {
		id := firstUser + rand.Uint32N(lastUser-firstUser+1)
		_, err := user.LookupId(strconv.FormatUint(uint64(id), 10))
		if !busy[id] && err != nil {
			return id
		}
	}
}

// goesFirst makes a process the one that ends where the host's memory runs out: no guest
// has to, for somebody who looks into a point (I12).
func goesFirst(pid int) {
	// It may have ended already, which is noticed elsewhere.
	_ = os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid), []byte("1000"), 0)
}

// record names a machine's process in a folder, so that it is found there when we
// have ended without being able to end it. What returns removes it.
func record(dir string, pid int) (func(), error) {
	began, ok := started(pid)
	if !ok {
		return func() {}, nil // it has ended already, which is noticed elsewhere
	}
	path := filepath.Join(dir, fmt.Sprintf("machine-%d-%d", pid, began))
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		return nil, fmt.Errorf("record a small machine: %w", err)
	}
	return func() { _ = os.Remove(path) }, nil
}

// sweep ends the machines that are recorded in a folder: whoever started them is
// gone.
func sweep(dir string) error {
	records, err := filepath.Glob(filepath.Join(dir, "machine-*"))
	if err != nil {
		return err
	}
	for _, path := range records {
		var pid int
		var began uint64
		if _, err := fmt.Sscanf(filepath.Base(path), "machine-%d-%d", &pid, &began); err == nil {
			if at, ok := started(pid); ok && at == began {
				if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
					return fmt.Errorf("end a small machine of an earlier run: %w", err)
				}
			}
		}
		if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
			return fmt.Errorf("forget a small machine of an earlier run: %w", err)
		}
	}
	return nil
}

// started returns when a process began, in the kernel's ticks; false if it has
// ended. With the number it names a process for ever.
func started(pid int) (uint64, bool) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, false
	}
	// The name is in parentheses and may hold anything; the state is field 3 of
	// proc(5), and the start field 22.
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) < 20 || fields[0][0] == 'Z' || fields[0][0] == 'X' {
		return 0, false
	}
	at, err := strconv.ParseUint(string(fields[19]), 10, 64)
	return at, err == nil
}
