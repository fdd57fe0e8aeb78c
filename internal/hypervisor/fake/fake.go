// Package fake is a hypervisor of one host in memory, with layers as files of a
// simple format of its own: good enough to run tier and engine tests on without
// QEMU, libvirt or root. It keeps the port's contract, locks and refusals
// included; hypervisortest holds it to that.
//
// It starts no guests: a test writes to the disks with WriteGuest.
package fake

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
)

// Host is a fake of hypervisor.Host and of hypervisor.Images.
type Host struct {
	// FactsValue is what Facts returns. Set it before use.
	FactsValue backstay.HostFacts
	// Hook, if set, is called first in each changing call with the call's name
	// (switch, freeze, thaw, pause, resume, the names of agent commands, merge,
	// retarget, begin-pull, end-pull, drop-checkpoint, define, redefine, undefine, define-secret, undefine-secret, start, shutdown, destroy, discard-saved, autostart, create, create-overlay, export,
	// allocated, commit, rebase, copy, convert, reconnect, copy-in, set-policies,
	// make-network, remove-network, leases, screenshot); its error is the
	// call's, and nothing is changed. It must not call the Host. Set it before use.
	Hook func(call string) error
	// CPUProblem is what CheckCPU returns. Set it before use.
	CPUProblem error
	// Remote reads exports that VMs stand on; nil for none. Set it before use.
	Remote Remote

	dir string // sockets, firmware variables, TPM state

	io       sync.Mutex // held while pages are read or written
	mu       sync.Mutex // all below; taken before io
	vms      map[backstay.VMID]*vm
	exports  map[*export]bool
	away     bool
	watch    map[chan hypervisor.Event]bool
	secrets  map[string]secret
	networks map[string]*network
}

var (
	_ hypervisor.Host   = (*Host)(nil)
	_ hypervisor.Images = (*Host)(nil)
)

// New returns a host without VMs. dir is a folder for its sockets and firmware
// files; its path must be short.
func New(dir string) *Host {
	h := &Host{dir: dir, vms: map[backstay.VMID]*vm{}, exports: map[*export]bool{}, watch: map[chan hypervisor.Event]bool{}, secrets: map[string]secret{}}
	h.FactsValue = backstay.HostFacts{
		Hypervisor: "fake", Networks: []string{"default"}, UEFI: true, TPM: true,
		Emulators: []backstay.Emulator{{Arch: "x86_64", Path: "/usr/bin/qemu-system-x86_64", Machines: []string{"q35", "pc"}}},
		Pools:     []backstay.Pool{{Name: "default", Path: dir, Available: 1 << 40}},
	}
	return h
}

// vm is one VM. Guarded by the host's mu.
type vm struct {
	inactive *definition
	live     *definition // nil when shut off
	starts   bool        // with the host
	saved    *definition // what ran when its memory was saved; nil if none is
	paused   bool
	ignores  bool // a wish to shut down
	agent    backstay.AgentState
	quiesce  error                                      // what a freeze fails with
	io       map[backstay.DiskTarget]hypervisor.IOStats // since the start
	frozen   bool
	waits    map[backstay.DiskTarget]bool // wait for what they stand on
	stalled  bool                         // stands still since a disk failed it
	keeps    func(*hypervisor.Domain)     // what the hypervisor keeps of the VM besides; nil for nothing
	// frozenMounts is how many file systems are.
	frozenMounts int
	guest        Guest
	screen       []byte // what it shows; nil without a display
	ran          []ranProgram
	pull         *pull
	// checkpoints are in the order in which they were made.
	checkpoints []*checkpoint
}

func (h *Host) enter(ctx context.Context, call string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if h.Hook != nil {
		return h.Hook(call)
	}
	return nil
}

// enterVM is enter for a call to "libvirt" about one VM.
func (h *Host) enterVM(ctx context.Context, call string, id backstay.VMID) (*vm, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if h.away {
		return nil, hypervisor.ErrAway
	}
	v, ok := h.vms[id]
	if !ok {
		return nil, fmt.Errorf("%s: %w", id, hypervisor.ErrNoVM)
	}
	return v, h.enter(ctx, call)
}

// SetAway lets every call fail with hypervisor.ErrAway, or work again.
func (h *Host) SetAway(away bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.away = away
	kind := hypervisor.EventUp
	if away {
		kind = hypervisor.EventDown
	}
	h.emit(hypervisor.Event{Kind: kind})
}

// SetAgent says whether a VM's guest agent answers.
func (h *Host) SetAgent(id backstay.VMID, state backstay.AgentState) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.vms[id].agent = state
	h.emit(hypervisor.Event{Kind: hypervisor.EventAgent, VM: id})
}

// FailQuiesce lets freezing a VM fail for this reason; nil lets it work again.
func (h *Host) FailQuiesce(id backstay.VMID, reason error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.vms[id].quiesce = reason
}

// SetFrozen leaves a guest frozen, as a crash of somebody else would, or not.
func (h *Host) SetFrozen(id backstay.VMID, frozen bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.vms[id].frozen = frozen
}

// SetKept lets the hypervisor tell of snapshots, a saved state or checkpoints of
// somebody else's: keeps enters them into the VM's description; nil for none.
func (h *Host) SetKept(id backstay.VMID, keeps func(*hypervisor.Domain)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.vms[id].keeps = keeps
}

// WriteGuest writes to a disk as the guest would, to the active layer.
func (h *Host) WriteGuest(id backstay.VMID, target backstay.DiskTarget, off int64, p []byte) error {
	return h.guest(id, target, func(v *vm, l *layer) error { v.noteWrite(target, off, int64(len(p))); return l.writeAt(p, off) })
}

// ZeroGuest discards a part of a disk as the guest would.
func (h *Host) ZeroGuest(id backstay.VMID, target backstay.DiskTarget, off, length int64) error {
	return h.guest(id, target, func(v *vm, l *layer) error { v.noteWrite(target, off, length); return l.writeZeroes(off, length) })
}

// ReadGuest reads a disk as the guest would see it.
func (h *Host) ReadGuest(id backstay.VMID, target backstay.DiskTarget, off int64, p []byte) error {
	return h.guest(id, target, func(_ *vm, l *layer) error { return l.readAt(p, off) })
}

func (h *Host) guest(id backstay.VMID, target backstay.DiskTarget, fn func(*vm, *layer) error) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	v, ok := h.vms[id]
	if !ok {
		return hypervisor.ErrNoVM
	}
	d := v.current()
	for _, disk := range d.disks() {
		if disk.Target == target {
			l, err := openLayer(disk.Source, hypervisor.ImageOf(disk).Format, false)
			if err != nil {
				return err
			}
			defer l.close()
			h.io.Lock()
			defer h.io.Unlock()
			return fn(v, l)
		}
	}
	return fmt.Errorf("no disk %s", target)
}

func (v *vm) current() *definition {
	if v.live != nil {
		return v.live
	}
	return v.inactive
}

// Facts returns FactsValue.
func (h *Host) Facts(ctx context.Context) (backstay.HostFacts, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.away {
		return backstay.HostFacts{}, hypervisor.ErrAway
	}
	facts := h.FactsValue
	facts.Networks = slices.Clone(facts.Networks)
	for name := range h.networks {
		facts.Networks = append(facts.Networks, name)
	}
	slices.Sort(facts.Networks)
	return facts, ctx.Err()
}

// VMs lists the VMs by name.
func (h *Host) VMs(ctx context.Context) ([]backstay.VM, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.away {
		return nil, hypervisor.ErrAway
	}
	var all []backstay.VM
	for _, v := range h.vms {
		all = append(all, v.describe())
	}
	slices.SortFunc(all, func(a, b backstay.VM) int { return strings.Compare(a.Name, b.Name) })
	return all, ctx.Err()
}

// Domain describes one VM.
func (h *Host) Domain(ctx context.Context, id backstay.VMID) (hypervisor.Domain, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	v, err := h.enterVM(ctx, "domain", id)
	if err != nil {
		return hypervisor.Domain{}, err
	}
	d := hypervisor.Domain{VM: v.describe(), InactiveXML: v.inactive.xml(), Chains: map[backstay.DiskTarget][]string{}}
	if v.live != nil {
		d.LiveXML = v.live.xml()
	}
	if v.current().uefi() {
		if d.NVRAM = v.current().text("os/nvram"); d.NVRAM == "" {
			d.NVRAM = filepath.Join(h.dir, "nvram", d.VM.Name+"_VARS.fd")
		}
	}
	if d.VM.TPM {
		d.TPMState = filepath.Join(h.dir, "swtpm", string(id))
	}
	d.Saved, d.Autostart = v.saved != nil, v.starts
	d.Elements = v.inactive.elements()
	for _, disk := range d.VM.Disks {
		if disk.Source != "" {
			d.Chains[disk.Target] = chainOf(disk.Source)
		}
	}
	if v.keeps != nil {
		v.keeps(&d)
	}
	return d, nil
}

// Watch calls fn for each event, first with EventUp.
func (h *Host) Watch(ctx context.Context, fn func(hypervisor.Event)) error {
	events := make(chan hypervisor.Event, 1024)
	h.mu.Lock()
	h.watch[events] = true
	h.mu.Unlock()
	defer func() {
		h.mu.Lock()
		delete(h.watch, events)
		h.mu.Unlock()
	}()
	fn(hypervisor.Event{Kind: hypervisor.EventUp})
	for {
		select {
		case e := <-events:
			fn(e)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (h *Host) emit(e hypervisor.Event) {
	for c := range h.watch {
		select {
		case c <- e:
		default: // a test that does not listen must not block the fake
		}
	}
}

func (h *Host) changed(id backstay.VMID) {
	h.emit(hypervisor.Event{Kind: hypervisor.EventChanged, VM: id})
}

// Define makes a VM.
func (h *Host) Define(ctx context.Context, xml string) (backstay.VMID, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.away {
		return "", hypervisor.ErrAway
	}
	if err := h.enter(ctx, "define"); err != nil {
		return "", err
	}
	d, err := parse(xml)
	if err != nil {
		return "", fmt.Errorf("define VM: %w", err)
	}
	for id, v := range h.vms {
		if id == d.id() || v.inactive.text("name") == d.text("name") {
			return "", fmt.Errorf("define VM %s: %w", d.text("name"), hypervisor.ErrExists)
		}
	}
	agent := backstay.AgentNone
	if strings.Contains(xml, "org.qemu.guest_agent") {
		agent = backstay.AgentConnected
	}
	h.vms[d.id()] = &vm{inactive: d, agent: agent}
	h.changed(d.id())
	return d.id(), nil
}

// Undefine removes a VM that is shut off.
func (h *Host) Undefine(ctx context.Context, id backstay.VMID) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	v, err := h.enterVM(ctx, "undefine", id)
	if errors.Is(err, hypervisor.ErrNoVM) {
		return nil
	}
	if err != nil {
		return err
	}
	if v.live != nil {
		return fmt.Errorf("undefine VM %s: it is running", id)
	}
	_ = os.Remove(filepath.Join(h.dir, "nvram", v.inactive.text("name")+"_VARS.fd"))
	_ = os.RemoveAll(filepath.Join(h.dir, "swtpm", string(id)))
	delete(h.vms, id)
	h.changed(id)
	return nil
}

// Start starts a VM if its disks are there and nobody else has them.
func (h *Host) Start(ctx context.Context, id backstay.VMID) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	v, err := h.enterVM(ctx, "start", id)
	if err != nil {
		return err
	}
	if v.live != nil {
		return fmt.Errorf("start VM %s: it is running", id)
	}
	from := v.inactive
	if v.saved != nil {
		from = v.saved // it goes on where it was, on the disks that it had
	}
	for _, d := range from.disks() {
		for i, file := range chainOf(d.Source) {
			if !hypervisor.IsPath(file) {
				if err := h.reachable(ctx, file); err != nil {
					return fmt.Errorf("start VM %s: %w", id, err)
				}
				continue
			}
			if _, err := os.Stat(file); err != nil {
				return fmt.Errorf("start VM %s: %w", id, err)
			}
			if err := h.conflict(file, i == 0, id); err != nil {
				return fmt.Errorf("start VM %s: %w", id, err)
			}
		}
	}
	v.live, v.saved, v.io = from.copy(), nil, nil
	h.changed(id)
	return nil
}

// Destroy ends a VM.
func (h *Host) Destroy(ctx context.Context, id backstay.VMID) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	v, err := h.enterVM(ctx, "destroy", id)
	if errors.Is(err, hypervisor.ErrNoVM) {
		return nil
	}
	if err != nil {
		return err
	}
	v.live, v.paused, v.frozen, v.stalled, v.waits = nil, false, false, false, nil
	if v.pull != nil {
		v.pull.close() // the servers end with QEMU
		v.pull = nil
	}
	h.changed(id)
	return nil
}

// Close forgets nothing: the fake can go on being used.
func (h *Host) Close() error { return nil }
