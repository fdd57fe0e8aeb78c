package libvirt

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/beevik/etree"
	"github.com/digitalocean/go-libvirt"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
)

// How long QEMU goes on trying to reach an export that is away before a request
// fails, and how long it waits for it when it connects first, in seconds. A
// request that fails stops the VM, and is made again when it goes on.
const (
	reconnectSeconds = 3600
	openSeconds      = 10
)

// StartPaused starts a VM with its processors stopped.
func (h *Host) StartPaused(ctx context.Context, id backstay.VMID) error {
	err := h.do(ctx, startPatience, func(l *libvirt.Libvirt) error {
		d, err := lookup(l, id)
		if err != nil {
			return err
		}
		_, err = l.DomainCreateWithFlags(d, uint32(libvirt.DomainStartPaused))
		return err
	})
	if err != nil {
		return fmt.Errorf("start VM %s: %w", id, err)
	}
	return nil
}

// Reconnect puts a node of ours below each disk, by QEMU's own monitor: libvirt
// has no word for a connection that is made again. libvirt's own view of the
// chain stays as it was, and so does what it can do with it.
func (h *Host) Reconnect(ctx context.Context, id backstay.VMID, disks []hypervisor.Below) error {
	err := h.do(ctx, callPatience, func(l *libvirt.Libvirt) error {
		d, err := lookup(l, id)
		if err != nil {
			return err
		}
		nodes, err := blockNodes(l, d)
		if err != nil {
			return err
		}
		for _, below := range disks {
			if err := reconnect(l, d, nodes, below); err != nil {
				return fmt.Errorf("disk %s: %w", below.Target, err)
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("connect the disks of VM %s: %w", id, err)
	}
	return nil
}

// waitingNode is the name of our node below a disk.
func waitingNode(target backstay.DiskTarget) string { return "backstay-" + string(target) }

func reconnect(l *libvirt.Libvirt, d libvirt.Domain, nodes map[string]bool, below hypervisor.Below) error {
	e, err := liveDisk(l, d, below.Target)
	if err != nil {
		return err
	}
	chain, _ := recordedChain(e)
	if len(chain) == 1 {
		return nil
	}
	if len(chain) != 2 || !samePath(chain[1].path, below.Location()) {
		return fmt.Errorf("it stands on %s, not on %s", chain[1].path, below.Location())
	}
	top := "libvirt-" + chain[0].index + "-"
	if !nodes[top+"format"] || !nodes[top+"storage"] {
		return fmt.Errorf("QEMU has no node %sformat", top)
	}
	node := waitingNode(below.Target)
	if !nodes[node] {
		if _, err := monitor(l, d, "blockdev-add", map[string]any{
			"driver": "nbd", "node-name": node, "read-only": true, "export": below.Export,
			"server":          map[string]any{"type": "unix", "path": below.Socket},
			"reconnect-delay": reconnectSeconds, "open-timeout": openSeconds,
		}); err != nil {
			return err
		}
	}
	_, err = monitor(l, d, "blockdev-reopen", map[string]any{"options": []any{reopenOptions(e, top, node)}})
	return err
}

// reopenOptions repeats what libvirt opened a disk's image with: what is not said
// again goes back to QEMU's default.
func reopenOptions(e *etree.Element, top, node string) map[string]any {
	options := map[string]any{
		"driver": "qcow2", "node-name": top + "format", "file": top + "storage", "backing": node, "read-only": false,
	}
	for _, name := range []string{"discard", "detect_zeroes"} {
		if value := attr(e, "driver", name); value != "" {
			options[strings.ReplaceAll(name, "_", "-")] = value
		}
	}
	switch attr(e, "driver", "cache") {
	case "none", "directsync":
		options["cache"] = map[string]any{"direct": true, "no-flush": false}
	case "unsafe":
		options["cache"] = map[string]any{"direct": false, "no-flush": true}
	case "writeback", "writethrough":
		options["cache"] = map[string]any{"direct": false, "no-flush": false}
	}
	if size, err := strconv.ParseInt(text(e, "driver/metadata_cache/max_size"), 10, 64); err == nil {
		options["cache-size"] = size
	}
	return options
}

// monitor has QEMU carry out a command of its own.
func monitor(l *libvirt.Libvirt, d libvirt.Domain, command string, arguments any) (json.RawMessage, error) {
	words := map[string]any{"execute": command}
	if arguments != nil {
		words["arguments"] = arguments
	}
	text, err := json.Marshal(words)
	if err != nil {
		return nil, err
	}
	reply, err := l.QEMUDomainMonitorCommand(d, string(text), 0)
	if err != nil {
		return nil, err
	}
	var answer struct {
		Return json.RawMessage               `json:"return"`
		Error  *struct{ Class, Desc string } `json:"error"`
	}
	if err := json.Unmarshal([]byte(reply), &answer); err != nil {
		return nil, fmt.Errorf("read QEMU's answer to %s: %w", command, err)
	}
	if answer.Error != nil {
		return nil, fmt.Errorf("%s: QEMU answered: %s", command, answer.Error.Desc)
	}
	return answer.Return, nil
}

func blockNodes(l *libvirt.Libvirt, d libvirt.Domain) (map[string]bool, error) {
	reply, err := monitor(l, d, "query-named-block-nodes", map[string]any{"flat": true})
	if err != nil {
		return nil, err
	}
	var nodes []struct {
		Name string `json:"node-name"`
	}
	if err := json.Unmarshal(reply, &nodes); err != nil {
		return nil, fmt.Errorf("read QEMU's list of block nodes: %w", err)
	}
	names := map[string]bool{}
	for _, n := range nodes {
		names[n.Name] = true
	}
	return names, nil
}

// CopyIn is libvirt's block pull of the whole chain.
func (h *Host) CopyIn(ctx context.Context, id backstay.VMID, c hypervisor.CopyIn, progress func(done, total int64)) error {
	if err := h.copyIn(ctx, id, c, progress); err != nil {
		return fmt.Errorf("copy disk %s of VM %s in: %w", c.Target, id, err)
	}
	return nil
}

func (h *Host) copyIn(ctx context.Context, id backstay.VMID, c hypervisor.CopyIn, progress func(done, total int64)) error {
	pace := &pacer{throttle: c.Throttle}
	alone := false
	err := h.do(ctx, callPatience, func(l *libvirt.Libvirt) (err error) {
		alone, err = startCopyIn(l, id, c.Target, pace)
		return err
	})
	if err != nil {
		return err
	}
	if !alone {
		if err := h.follow(ctx, id, following{c.Target, false, pace, progress}); err != nil {
			if ctx.Err() != nil {
				return errors.Join(ctx.Err(), h.abort(ctx, id, c.Target))
			}
			return err
		}
	}
	return h.do(context.WithoutCancel(ctx), callPatience, func(l *libvirt.Libvirt) error {
		d, err := lookup(l, id)
		if err != nil {
			return err
		}
		e, err := liveDisk(l, d, c.Target)
		if err != nil {
			return err
		}
		chain, _ := recordedChain(e)
		if len(chain) > 1 {
			return fmt.Errorf("its image still stands on %s: the copy broke off", chain[1].path)
		}
		if err := flush(l, d, "libvirt-"+chain[0].index+"-format"); err != nil {
			return err
		}
		h.settleChains(l, d, []backstay.DiskTarget{c.Target})
		// Nobody uses it any more; QEMU takes it along when it ends.
		_, _ = monitor(l, d, "blockdev-del", map[string]any{"node-name": waitingNode(c.Target)})
		return nil
	})
}

// flush makes durable what QEMU knows of an image. When a pull is done it has cut
// the image off what it stood on, and has yet to write where the copies are.
func flush(l *libvirt.Libvirt, d libvirt.Domain, node string) error {
	reply, err := monitor(l, d, "human-monitor-command", map[string]any{"command-line": "qemu-io " + node + " \"flush\""})
	if err != nil {
		return err
	}
	var said string
	if err := json.Unmarshal(reply, &said); err != nil || said != "" {
		return fmt.Errorf("flush %s: QEMU answered %q (%v)", node, said, err)
	}
	return nil
}

// startCopyIn starts the job or adopts the one that runs; alone tells that the
// image stands on nothing already.
func startCopyIn(l *libvirt.Libvirt, id backstay.VMID, target backstay.DiskTarget, pace *pacer) (alone bool, err error) {
	d, err := lookup(l, id)
	if err != nil {
		return false, err
	}
	e, err := liveDisk(l, d, target)
	if err != nil {
		return false, err
	}
	job, err := jobOf(l, d, target)
	if err != nil {
		return false, err
	}
	if job.found {
		if job.kind == libvirt.DomainBlockJobTypePull {
			return false, nil
		}
		return false, errors.New("another block job runs on the disk")
	}
	if chain, _ := recordedChain(e); len(chain) == 1 {
		return true, nil
	}
	return false, l.DomainBlockPull(d, string(target), pace.first(), libvirt.DomainBlockPullBandwidthBytes)
}

// SetPolicies edits the persistent definition by element.
func (h *Host) SetPolicies(ctx context.Context, id backstay.VMID, disks map[backstay.DiskTarget]hypervisor.Policies) error {
	err := h.do(context.WithoutCancel(ctx), callPatience, func(l *libvirt.Libvirt) error {
		d, err := lookup(l, id)
		if err != nil {
			return err
		}
		root, _, err := definition(l, d, libvirt.DomainXMLSecure|libvirt.DomainXMLInactive)
		if err != nil {
			return err
		}
		changed := false
		for target, p := range disks {
			driver := find(diskElement(root, target), "driver")
			if driver == nil {
				continue // the owner took the disk away meanwhile
			}
			changed = setPolicy(driver, "error_policy", p.Write) || changed
			changed = setPolicy(driver, "rerror_policy", p.Read) || changed
		}
		if !changed {
			return nil
		}
		return redefine(l, root)
	})
	if err != nil {
		return fmt.Errorf("set error policies of VM %s: %w", id, err)
	}
	return nil
}

func setPolicy(driver *etree.Element, name, value string) bool {
	if driver.SelectAttrValue(name, "") == value {
		return false
	}
	driver.RemoveAttr(name)
	if value != "" {
		driver.CreateAttr(name, value)
	}
	return true
}

// QEMUUser reads the label of ownership that libvirt gives to QEMU; without one
// QEMU runs as libvirt does.
func (h *Host) QEMUUser(ctx context.Context) (uid, gid int, err error) {
	label, err := call(ctx, h, callPatience, func(l *libvirt.Libvirt) (string, error) {
		xml, err := l.ConnectGetCapabilities()
		if err != nil {
			return "", err
		}
		return ownerLabel(xml)
	})
	if err != nil {
		return 0, 0, fmt.Errorf("ask as whom QEMU runs: %w", err)
	}
	return parseOwner(label)
}

func ownerLabel(capabilities string) (string, error) {
	doc := etree.NewDocument()
	if err := doc.ReadFromString(capabilities); err != nil || doc.Root() == nil {
		return "", fmt.Errorf("read capabilities: %w", errors.Join(err, errors.ErrUnsupported))
	}
	for _, model := range doc.Root().FindElements("./host/secmodel") {
		if text(model, "model") != "dac" {
			continue
		}
		for _, label := range model.SelectElements("baselabel") {
			if slices.Contains([]string{"qemu", "kvm"}, label.SelectAttrValue("type", "")) {
				return strings.TrimSpace(label.Text()), nil
			}
		}
	}
	return "+0:+0", nil
}

// parseOwner reads +UID:+GID.
func parseOwner(label string) (uid, gid int, err error) {
	user, group, _ := strings.Cut(label, ":")
	uid, userErr := strconv.Atoi(strings.TrimPrefix(user, "+"))
	gid, groupErr := strconv.Atoi(strings.TrimPrefix(group, "+"))
	if err := errors.Join(userErr, groupErr); err != nil {
		return 0, 0, fmt.Errorf("libvirt's label of QEMU's user is %q: %w", label, err)
	}
	return uid, gid, nil
}
