package fake

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
)

// checkpoint is a VM's checkpoint with its bitmaps. Guarded by the host's mu.
type checkpoint struct {
	hypervisor.Checkpoint
	dirty  map[backstay.DiskTarget]map[int64]bool // pages written since
	broken bool
}

// pull is a backup job. Guarded by the host's mu.
type pull struct {
	hypervisor.PullJob
	servers []*export
	first   *export // owns the listener; nil for a foreign job
}

// noteWrite marks what the guest writes in every bitmap of the disk.
func (v *vm) noteWrite(target backstay.DiskTarget, off, length int64) {
	for _, c := range v.checkpoints {
		if c.dirty[target] == nil {
			continue
		}
		for page := off / pageSize; page*pageSize < off+length; page++ {
			c.dirty[target][page] = true
		}
	}
}

// BreakCheckpoints does to a VM's bitmaps what the death of its QEMU does.
func (h *Host) BreakCheckpoints(id backstay.VMID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, c := range h.vms[id].checkpoints {
		c.broken = true
	}
}

// AddCheckpoint makes a checkpoint as another tool would.
func (h *Host) AddCheckpoint(id backstay.VMID, name string, disks ...backstay.DiskTarget) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.vms[id].mark(name, disks)
}

// SetForeignJob lets another tool's backup job run on a VM, or end.
func (h *Host) SetForeignJob(id backstay.VMID, runs bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.vms[id].pull = nil
	if runs {
		h.vms[id].pull = &pull{PullJob: hypervisor.PullJob{Socket: "/elsewhere.sock", What: "a backup in pull mode that serves on /elsewhere.sock"}}
	}
}

func (v *vm) mark(name string, disks []backstay.DiskTarget) {
	c := &checkpoint{Checkpoint: hypervisor.Checkpoint{Name: name, Disks: disks}, dirty: map[backstay.DiskTarget]map[int64]bool{}}
	if n := len(v.checkpoints); n > 0 {
		c.Parent = v.checkpoints[n-1].Name
	}
	for _, d := range disks {
		c.dirty[d] = map[int64]bool{}
	}
	v.checkpoints = append(v.checkpoints, c)
}

func (v *vm) checkpoint(name string) *checkpoint {
	for _, c := range v.checkpoints {
		if c.Name == name {
			return c
		}
	}
	return nil
}

// BeginPull serves copies of the disks.
func (h *Host) BeginPull(ctx context.Context, id backstay.VMID, r hypervisor.PullRequest) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	v, err := h.enterVM(ctx, "begin-pull", id)
	if err != nil {
		return err
	}
	switch {
	case v.live == nil:
		return hypervisor.ErrNotRunning
	case v.pull != nil:
		return fmt.Errorf("%w: %s", hypervisor.ErrBusy, v.pull.What)
	case v.checkpoint(r.Checkpoint) != nil:
		return fmt.Errorf("checkpoint %s: %w", r.Checkpoint, hypervisor.ErrExists)
	}
	var marked []backstay.DiskTarget
	for _, d := range r.Disks {
		if err := v.checkPull(d); err != nil {
			return fmt.Errorf("disk %s: %w", d.Target, err)
		}
		if d.Mark {
			marked = append(marked, d.Target)
		}
	}
	p := &pull{PullJob: hypervisor.PullJob{Socket: r.Socket, What: "a backup in pull mode that serves on " + r.Socket}}
	for _, d := range r.Disks {
		e, err := h.serveFrozen(v, d)
		if err != nil {
			p.close()
			return err
		}
		p.servers = append(p.servers, e)
	}
	if err := p.listen(r.Socket); err != nil {
		p.close()
		return err
	}
	if r.Checkpoint != "" {
		v.mark(r.Checkpoint, marked)
	}
	v.pull = p
	return nil
}

func (v *vm) checkPull(d hypervisor.PullDisk) error {
	el := v.live.diskElement(d.Target)
	if el == nil {
		return errors.New("the VM has no such disk")
	}
	if d.Mark && el.SelectElement("driver").SelectAttrValue("type", "") != "qcow2" {
		return errors.New("checkpoint unsupported for this format")
	}
	if d.Since == "" {
		return nil
	}
	c := v.checkpoint(d.Since)
	if c == nil || c.broken || c.dirty[d.Target] == nil {
		return fmt.Errorf("%w: missing or broken bitmap '%s'", hypervisor.ErrCheckpoint, d.Since)
	}
	return nil
}

// serveFrozen copies a disk into its scratch image and makes a server of that.
func (h *Host) serveFrozen(v *vm, d hypervisor.PullDisk) (*export, error) {
	i := slices.IndexFunc(v.live.disks(), func(o backstay.Disk) bool { return o.Target == d.Target })
	disk := v.live.disks()[i]
	source, err := openLayer(disk.Source, hypervisor.ImageOf(disk).Format, false)
	if err != nil {
		return nil, err
	}
	defer source.close()
	scratch, err := openLayer(absolute(d.Scratch), "qcow2", true)
	if err != nil {
		return nil, err
	}
	if scratch.h.Size != source.h.Size {
		scratch.close()
		return nil, fmt.Errorf("scratch image of disk %s has another size", d.Target)
	}
	h.io.Lock()
	defer h.io.Unlock()
	buf := make([]byte, pageSize)
	for page := int64(0); page*pageSize < source.h.Size; page++ {
		if depth, zero := source.depth(page); depth == 0 || zero {
			continue
		}
		if err = source.readPage(buf, page); err == nil {
			err = scratch.setPage(buf, page)
		}
		if err != nil {
			scratch.close()
			return nil, err
		}
	}
	e := &export{host: h, top: scratch, conns: map[net.Conn]bool{}, name: string(d.Target)}
	if c := v.checkpoint(d.Since); c != nil {
		e.bitmap, e.dirty = hypervisor.PullContext(d.Target), map[int64]bool{}
		for page := range c.dirty[d.Target] {
			e.dirty[page] = true
		}
	}
	return e, nil
}

// listen serves all disks on one socket.
func (p *pull) listen(socket string) error {
	l, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	p.first = p.servers[0]
	p.first.listener, p.first.socket, p.first.siblings = l, socket, p.servers
	p.first.clients.Go(p.first.accept)
	return nil
}

// close ends the servers. The caller holds the host's mu.
func (p *pull) close() {
	if p.first != nil {
		p.first.hangUp()
		_ = os.Remove(p.Socket)
	}
	for _, e := range p.servers {
		e.top.close()
	}
}

// Pulling tells of the VM's backup job.
func (h *Host) Pulling(ctx context.Context, id backstay.VMID) (hypervisor.PullJob, bool, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	v, err := h.enterVM(ctx, "pulling", id)
	if err != nil || v.pull == nil {
		return hypervisor.PullJob{}, false, err
	}
	return v.pull.PullJob, true, nil
}

// EndPull ends a job of ours.
func (h *Host) EndPull(ctx context.Context, id backstay.VMID, socket string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	v, err := h.enterVM(ctx, "end-pull", id)
	if errors.Is(err, hypervisor.ErrNoVM) {
		return nil
	}
	if err != nil || v.pull == nil {
		return err
	}
	if v.pull.Socket != socket {
		return fmt.Errorf("%w: %s", hypervisor.ErrBusy, v.pull.What)
	}
	v.pull.close()
	v.pull = nil
	return nil
}

// Checkpoints lists the VM's checkpoints.
func (h *Host) Checkpoints(ctx context.Context, id backstay.VMID) ([]hypervisor.Checkpoint, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	v, err := h.enterVM(ctx, "checkpoints", id)
	if err != nil {
		return nil, err
	}
	var all []hypervisor.Checkpoint
	for _, c := range v.checkpoints {
		all = append(all, c.Checkpoint)
	}
	return all, nil
}

// DropCheckpoint forgets a checkpoint.
func (h *Host) DropCheckpoint(ctx context.Context, id backstay.VMID, name string, metadataOnly bool) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	v, err := h.enterVM(ctx, "drop-checkpoint", id)
	if errors.Is(err, hypervisor.ErrNoVM) {
		return nil
	}
	if err != nil {
		return err
	}
	i := slices.IndexFunc(v.checkpoints, func(c *checkpoint) bool { return c.Name == name })
	switch {
	case i < 0:
		return nil
	case !metadataOnly && v.live == nil:
		return hypervisor.ErrNotRunning
	case !metadataOnly && v.checkpoints[i].broken:
		return hypervisor.ErrCheckpoint
	}
	if i+1 < len(v.checkpoints) {
		v.checkpoints[i+1].Parent = v.checkpoints[i].Parent
	}
	v.checkpoints = slices.Delete(v.checkpoints, i, i+1)
	return nil
}
