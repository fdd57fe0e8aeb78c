package libvirt

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/beevik/etree"
	"github.com/digitalocean/go-libvirt"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
)

// How long a backup job may take to end.
const (
	pullEndPoll  = 20 * time.Millisecond
	pullEndTries = 1000
)

// BeginPull is libvirt's backup in pull mode. Once it is asked for, its outcome
// is waited for whatever ctx says: the caller must know.
func (h *Host) BeginPull(ctx context.Context, id backstay.VMID, r hypervisor.PullRequest) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	err := h.do(context.WithoutCancel(ctx), callPatience, func(l *libvirt.Libvirt) error {
		d, err := lookup(l, id)
		if err != nil {
			return err
		}
		state, err := vmState(l, d)
		if err != nil {
			return err
		}
		if state == backstay.VMShutOff {
			return hypervisor.ErrNotRunning
		}
		// Asked for while another runs, libvirt waits for half a minute.
		job, runs, err := pullJob(l, d)
		if err != nil {
			return err
		}
		if runs {
			return fmt.Errorf("%w: %s", hypervisor.ErrBusy, job.What)
		}
		root, _, err := definition(l, d, 0)
		if err != nil {
			return err
		}
		backup, checkpoint, err := pullXML(root, r)
		if err != nil {
			return err
		}
		return pullError(l.DomainBackupBegin(d, backup, checkpoint, libvirt.DomainBackupBeginReuseExternal))
	})
	if err != nil {
		return fmt.Errorf("serve disks of VM %s: %w", id, err)
	}
	return nil
}

// pullError finds the port's error in libvirt's answer.
func pullError(err error) error {
	var answer libvirt.Error
	if !errors.As(err, &answer) {
		return err
	}
	words := answer.Message
	switch {
	case isCode(err, libvirt.ErrCheckpointInconsistent, libvirt.ErrNoDomainCheckpoint, libvirt.ErrInvalidDomainCheckpoint),
		strings.Contains(words, "bitmap"):
		return &knownError{hypervisor.ErrCheckpoint, err}
	case strings.Contains(words, "another backup job"), strings.Contains(words, "active block job"),
		isCode(err, libvirt.ErrOperationTimeout), strings.Contains(words, "NBD server is already"):
		return &knownError{hypervisor.ErrBusy, err}
	case strings.Contains(words, "inactive domain"), strings.Contains(words, "is not running"):
		return &knownError{hypervisor.ErrNotRunning, err}
	}
	return err
}

// pullXML writes the two texts that libvirt wants. Every disk of the VM is
// named: libvirt would serve and mark those that are not.
func pullXML(root *etree.Element, r hypervisor.PullRequest) (backup string, checkpoint libvirt.OptString, err error) {
	b, c := etree.NewDocument(), etree.NewDocument()
	job := b.CreateElement("domainbackup")
	job.CreateAttr("mode", "pull")
	server := job.CreateElement("server")
	server.CreateAttr("transport", "unix")
	server.CreateAttr("socket", r.Socket)
	served := job.CreateElement("disks")
	mark := c.CreateElement("domaincheckpoint")
	mark.CreateElement("name").SetText(r.Checkpoint)
	mark.CreateElement("description").SetText("made by backstay: what changes from here on goes into its next recovery point")
	marked := mark.CreateElement("disks")
	left := slices.Clone(r.Disks)
	for _, e := range root.FindElements("./devices/disk") {
		target := attr(e, "target", "dev")
		in, out := served.CreateElement("disk"), marked.CreateElement("disk")
		in.CreateAttr("name", target)
		out.CreateAttr("name", target)
		i := slices.IndexFunc(left, func(d hypervisor.PullDisk) bool { return string(d.Target) == target })
		if i < 0 {
			in.CreateAttr("backup", "no")
			out.CreateAttr("checkpoint", "no")
			continue
		}
		serveDisk(in, left[i])
		out.CreateAttr("checkpoint", "no")
		if left[i].Mark {
			out.CreateAttr("checkpoint", "bitmap")
			out.CreateAttr("bitmap", r.Checkpoint)
		}
		left = slices.Delete(left, i, i+1)
	}
	if len(left) > 0 {
		return "", nil, fmt.Errorf("the VM has no disk %s", left[0].Target)
	}
	if backup, err = b.WriteToString(); err != nil || r.Checkpoint == "" {
		return backup, nil, err
	}
	text, err := c.WriteToString()
	return backup, libvirt.OptString{text}, err
}

func serveDisk(e *etree.Element, d hypervisor.PullDisk) {
	e.CreateAttr("backup", "yes")
	e.CreateAttr("type", "file")
	e.CreateAttr("exportname", string(d.Target))
	e.CreateAttr("backupmode", "full")
	if d.Since != "" {
		e.CreateAttr("backupmode", "incremental")
		e.CreateAttr("incremental", d.Since)
		e.CreateAttr("exportbitmap", hypervisor.PullBitmap(d.Target))
	}
	e.CreateElement("driver").CreateAttr("type", "qcow2")
	scratch := e.CreateElement("scratch")
	scratch.CreateAttr("file", d.Scratch)
	if d.Secret != "" {
		encryption := scratch.CreateElement("encryption")
		encryption.CreateAttr("format", "luks")
		secret := encryption.CreateElement("secret")
		secret.CreateAttr("type", "passphrase")
		secret.CreateAttr("uuid", d.Secret)
	}
}

// Pulling asks for the backup job of the VM.
func (h *Host) Pulling(ctx context.Context, id backstay.VMID) (hypervisor.PullJob, bool, error) {
	type answer struct {
		job  hypervisor.PullJob
		runs bool
	}
	a, err := call(ctx, h, callPatience, func(l *libvirt.Libvirt) (answer, error) {
		d, err := lookup(l, id)
		if err != nil {
			return answer{}, err
		}
		job, runs, err := pullJob(l, d)
		return answer{job, runs}, err
	})
	if err != nil {
		return a.job, false, fmt.Errorf("ask for the backup job of VM %s: %w", id, err)
	}
	return a.job, a.runs, nil
}

func pullJob(l *libvirt.Libvirt, d libvirt.Domain) (job hypervisor.PullJob, runs bool, err error) {
	xml, err := l.DomainBackupGetXMLDesc(d, 0)
	if isCode(err, libvirt.ErrNoDomainBackup) {
		return job, false, nil
	}
	if err != nil {
		if active, stateErr := l.DomainIsActive(d); stateErr == nil && active == 0 {
			return job, false, nil
		}
		return job, false, err
	}
	doc := etree.NewDocument()
	if err := doc.ReadFromString(xml); err != nil || doc.Root() == nil {
		return job, false, fmt.Errorf("read the description of the backup job: %w", errors.Join(err, os.ErrInvalid))
	}
	job.Socket = attr(doc.Root(), "server", "socket")
	job.What = "a backup in " + doc.Root().SelectAttrValue("mode", "push") + " mode"
	if job.Socket != "" {
		job.What += " that serves on " + job.Socket
	}
	for _, e := range doc.Root().FindElements("./disks/disk/target") {
		if file := e.SelectAttrValue("file", e.SelectAttrValue("dev", "")); file != "" {
			job.What += " to " + file
			break
		}
	}
	return job, true, nil
}

// EndPull ends a backup job of ours: in pull mode an abort is the normal end.
// A VM has one such job at a time, so what is aborted is what was looked at.
func (h *Host) EndPull(ctx context.Context, id backstay.VMID, socket string) error {
	err := h.do(context.WithoutCancel(ctx), callPatience, func(l *libvirt.Libvirt) error {
		d, err := lookup(l, id)
		if err != nil {
			return err
		}
		job, runs, err := pullJob(l, d)
		if err != nil || !runs {
			return err
		}
		if job.Socket != socket {
			return fmt.Errorf("%w: %s", hypervisor.ErrBusy, job.What)
		}
		abortErr := l.DomainAbortJob(d)
		for range pullEndTries { // the abort only asks for the end
			job, runs, err := pullJob(l, d)
			if err != nil || !runs || job.Socket != socket {
				return err
			}
			if abortErr != nil {
				return abortErr
			}
			time.Sleep(pullEndPoll)
		}
		return errors.New("the job does not end")
	})
	if err != nil && !errors.Is(err, hypervisor.ErrNoVM) {
		return fmt.Errorf("end the backup job of VM %s: %w", id, err)
	}
	return nil
}

// checkpointNames lists a VM's checkpoints, parents first.
func checkpointNames(l *libvirt.Libvirt, d libvirt.Domain) ([]string, error) {
	checkpoints, err := listCheckpoints(l, d)
	var names []string
	for _, c := range checkpoints {
		names = append(names, c.Name)
	}
	return names, err
}

func listCheckpoints(l *libvirt.Libvirt, d libvirt.Domain) ([]libvirt.DomainCheckpoint, error) {
	checkpoints, _, err := l.DomainListAllCheckpoints(d, 1, uint32(libvirt.DomainCheckpointListTopological))
	if isCode(err, libvirt.ErrNoSupport) {
		return nil, nil
	}
	return checkpoints, err
}

// Checkpoints lists the VM's checkpoints.
func (h *Host) Checkpoints(ctx context.Context, id backstay.VMID) ([]hypervisor.Checkpoint, error) {
	all, err := call(ctx, h, callPatience, func(l *libvirt.Libvirt) ([]hypervisor.Checkpoint, error) {
		d, err := lookup(l, id)
		if err != nil {
			return nil, err
		}
		checkpoints, err := listCheckpoints(l, d)
		if err != nil {
			return nil, err
		}
		var all []hypervisor.Checkpoint
		for _, c := range checkpoints {
			xml, err := l.DomainCheckpointGetXMLDesc(c, uint32(libvirt.DomainCheckpointXMLNoDomain))
			if isCode(err, libvirt.ErrNoDomainCheckpoint) {
				continue
			}
			if err != nil {
				return nil, err
			}
			described, err := describeCheckpoint(c.Name, xml)
			if err != nil {
				return nil, err
			}
			all = append(all, described)
		}
		return all, nil
	})
	if err != nil {
		return nil, fmt.Errorf("list checkpoints of VM %s: %w", id, err)
	}
	return all, nil
}

func describeCheckpoint(name, xml string) (hypervisor.Checkpoint, error) {
	c := hypervisor.Checkpoint{Name: name}
	doc := etree.NewDocument()
	if err := doc.ReadFromString(xml); err != nil || doc.Root() == nil {
		return c, fmt.Errorf("read checkpoint %s: %w", name, errors.Join(err, os.ErrInvalid))
	}
	if e := doc.Root().FindElement("./parent/name"); e != nil {
		c.Parent = e.Text()
	}
	for _, e := range doc.Root().FindElements("./disks/disk") {
		if e.SelectAttrValue("checkpoint", "") == "bitmap" {
			c.Disks = append(c.Disks, backstay.DiskTarget(e.SelectAttrValue("name", "")))
		}
	}
	return c, nil
}

// DropCheckpoint deletes a checkpoint.
func (h *Host) DropCheckpoint(ctx context.Context, id backstay.VMID, name string, metadataOnly bool) error {
	err := h.do(ctx, callPatience, func(l *libvirt.Libvirt) error {
		d, err := lookup(l, id)
		if err != nil {
			return err
		}
		c, err := l.DomainCheckpointLookupByName(d, name, 0)
		if isCode(err, libvirt.ErrNoDomainCheckpoint) {
			return nil
		}
		if err != nil {
			return err
		}
		var flags libvirt.DomainCheckpointDeleteFlags
		if metadataOnly {
			flags = libvirt.DomainCheckpointDeleteMetadataOnly
		} else if state, err := vmState(l, d); err == nil && state == backstay.VMShutOff {
			return hypervisor.ErrNotRunning
		}
		return pullError(l.DomainCheckpointDelete(c, flags))
	})
	if err != nil && !errors.Is(err, hypervisor.ErrNoVM) {
		return fmt.Errorf("drop checkpoint %s of VM %s: %w", name, id, err)
	}
	return nil
}
