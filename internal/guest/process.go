package guest

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/backstay/backstay/internal/guest/wire"
)

// process is QEMU with the three channels to it.
type process struct {
	cmd     *exec.Cmd
	channel net.Conn      // to our program in the machine
	monitor *net.UnixConn // QMP
	shared  []byte        // memory that the machine sees too
	console *words        // what the machine and QEMU print
	ended   chan struct{} // closed when it has ended
}

// The files that QEMU is given besides the standard ones, by number.
const (
	fdChannel = 3 + iota
	fdMonitor
	fdConsole
	fdKernel
	fdInitrd
	fdShared
)

// launch starts QEMU.
func launch(o Options) (*process, error) {
	p := &process{console: &words{}, ended: make(chan struct{})}
	var theirs, ours []*os.File
	closeAll := func(files []*os.File) {
		for _, f := range files {
			f.Close()
		}
	}
	defer func() { closeAll(theirs); closeAll(ours) }()
	for range 3 {
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return nil, fmt.Errorf("make a channel: %w", err)
		}
		ours = append(ours, os.NewFile(uintptr(fds[0]), "channel"))
		theirs = append(theirs, os.NewFile(uintptr(fds[1]), "channel"))
	}
	for _, name := range []string{"vmlinux", "initrd"} {
		file, err := os.Open(filepath.Join(o.Parts, name))
		if err != nil {
			return nil, fmt.Errorf("find the parts of a small machine: %w", err)
		}
		theirs = append(theirs, file)
	}
	memory, err := sharedMemory()
	if err != nil {
		return nil, err
	}
	theirs = append(theirs, memory)
	if p.shared, err = unix.Mmap(int(memory.Fd()), 0, wire.SharedSize, unix.PROT_READ, unix.MAP_SHARED); err != nil {
		return nil, fmt.Errorf("map shared memory: %w", err)
	}
	conns := make([]*net.UnixConn, 3)
	for i, f := range ours {
		conn, err := net.FileConn(f)
		if err != nil {
			return nil, err
		}
		conns[i] = conn.(*net.UnixConn)
	}
	p.channel, p.monitor = conns[0], conns[1]
	go p.console.from(conns[2])
	if err := p.confinedRun(o, theirs); err != nil {
		for _, c := range conns {
			c.Close()
		}
		return nil, err
	}
	return p, nil
}

// confinedRun starts QEMU with these files. In a container that may not make
// namespaces it does without them: the user and the filter of system calls remain.
func (p *process) confinedRun(o Options, files []*os.File) error {
	p.cmd = command(o)
	p.cmd.ExtraFiles, p.cmd.Stderr = files, p.console
	err := p.run(o.Run)
	if !errors.Is(err, unix.EPERM) || p.cmd.SysProcAttr.Cloneflags == 0 {
		return err
	}
	o.Log.Warn("small machines run without namespaces of their own", "error", err)
	p.cmd = command(o)
	p.cmd.ExtraFiles, p.cmd.Stderr = files, p.console
	p.cmd.SysProcAttr.Cloneflags = 0
	return p.run(o.Run)
}

// sharedMemory makes the memory that we and the machine see. It is sealed against
// being cut: a QEMU that was taken over could end us with that.
func sharedMemory() (*os.File, error) {
	fd, err := unix.MemfdCreate("backstay-small-machine", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("make shared memory: %w", err)
	}
	file := os.NewFile(uintptr(fd), "shared memory")
	if err := file.Truncate(int64(wire.SharedSize)); err != nil {
		file.Close()
		return nil, fmt.Errorf("make shared memory: %w", err)
	}
	if _, err := unix.FcntlInt(file.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL); err != nil {
		file.Close()
		return nil, fmt.Errorf("make shared memory: %w", err)
	}
	return file, nil
}

// run starts the command in a thread that lives as long as it: the kernel kills it
// when the thread that started it ends, which is when we do.
func (p *process) run(folder string) error {
	begun := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		if err != nil {
			begun <- fmt.Errorf("start QEMU: %w", err)
			return
		}
		goesFirst(p.cmd.Process.Pid)
		forget, err := record(folder, p.cmd.Process.Pid)
		if err != nil {
			p.kill()
			forget = func() {}
		}
		begun <- err
		_ = p.cmd.Wait() // how it ended is told by its last words
		forget()
		p.channel.Close()
		p.monitor.Close()
		close(p.ended)
	}()
	return <-begun
}

func (p *process) kill() {
	// An error means that it has ended.
	_ = p.cmd.Process.Kill()
}

// command is QEMU's command line: no network, no file of the host, no display.
func command(o Options) *exec.Cmd {
	fd := func(n int) string { return "/proc/self/fd/" + strconv.Itoa(n) }
	socket := func(id string, n int) string { return fmt.Sprintf("socket,id=%s,fd=%d", id, n) }
	boot := "console=ttyS0 quiet loglevel=4 panic=-1 reboot=t tsc=reliable no_timer_check random.trust_cpu=on cryptomgr.notests 8250.nr_uarts=1 audit=0"
	cpu := "host"
	if o.Accel == AccelTCG {
		cpu = "max,la57=off"
		// Nothing in the machine is to be kept from anything else in it, and emulating
		// the measures against that is dear.
		boot += " mitigations=off nokaslr"
	}
	accel := o.Accel
	processors := "2"
	if accel == AccelTCG {
		processors = "1" // a second one takes longer to boot than it saves
		accel = fmt.Sprintf("tcg,thread=multi,tb-size=%d", translated>>20)
	}
	// prlimit bounds what the process may do to the host and becomes QEMU; limits set
	// from outside would come late, and need a right that we may lack.
	cmd := exec.Command("prlimit", append(limits(o), "--", o.QEMU,
		"-name", "backstay-small-machine", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
		"-machine", "q35,sata=off,smbus=off,usb=off,graphics=off", "-accel", accel, "-cpu", cpu, "-m", strconv.FormatInt(o.Memory>>20, 10), "-smp", processors,
		"-kernel", fd(fdKernel), "-initrd", fd(fdInitrd), "-append", boot,
		"-chardev", socket("console", fdConsole), "-serial", "chardev:console",
		"-chardev", socket("monitor", fdMonitor), "-mon", "chardev=monitor,mode=control",
		"-object", fmt.Sprintf("memory-backend-file,id=shared,share=on,size=%d,mem-path=%s", wire.SharedSize, fd(fdShared)),
		"-device", "ivshmem-plain,memdev=shared",
		"-object", "iothread,id=disks", "-device", "virtio-scsi-pci,id=scsi,iothread=disks",
		"-device", "virtio-serial-pci,max_ports=2", "-chardev", socket("channel", fdChannel),
		"-device", "virtserialport,chardev=channel,name=backstay",
	)...)
	cmd.Env = []string{}
	cmd.Dir = "/"
	cmd.SysProcAttr = confined(o)
	return cmd
}
