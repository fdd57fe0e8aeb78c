package libvirt

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/beevik/etree"
	"github.com/digitalocean/go-libvirt"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
)

// location is where the image of an element lies that has a type and a source: a
// disk, a layer of its recorded chain, or what a block job mirrors to. It is ""
// for kinds that cannot be opened by a path or an NBD export.
func location(e *etree.Element) string {
	source := find(e, "source")
	switch attr(e, "", "type") {
	case "network":
		return networkLocation(source)
	case "volume", "vhostuser", "vhostvdpa", "nvme":
		return ""
	}
	return first(attr(source, "", "file"), attr(source, "", "dev"))
}

func networkLocation(source *etree.Element) string {
	if attr(source, "", "protocol") != "nbd" || attr(source, "", "tls") == "yes" {
		return ""
	}
	hosts := source.FindElements("./host")
	if len(hosts) != 1 {
		return ""
	}
	n := hypervisor.NBD{Export: attr(source, "", "name")}
	switch attr(hosts[0], "", "transport") {
	case "", "tcp":
		n.Host, n.Port = attr(hosts[0], "", "name"), attr(hosts[0], "", "port")
	case "unix":
		n.Socket = attr(hosts[0], "", "socket")
	}
	if n.Host == "" && n.Socket == "" {
		return ""
	}
	return n.String()
}

// setLocation lets an element name an image.
func setLocation(e *etree.Element, location string) {
	source := find(e, "source")
	if source == nil {
		source = e.CreateElement("source")
	}
	for _, name := range []string{"file", "dev", "protocol", "name", "pool", "volume", "mode", "tls", "startupPolicy"} {
		source.RemoveAttr(name)
	}
	for _, c := range source.ChildElements() {
		switch c.Tag {
		case "host", "auth", "initiator", "reservations", "cookies", "ssl", "readahead", "timeout":
			source.RemoveChild(c)
		}
	}
	n, network := hypervisor.ParseNBD(location)
	switch {
	case network:
		e.CreateAttr("type", "network")
		source.CreateAttr("protocol", "nbd")
		source.CreateAttr("name", n.Export)
		host := source.CreateElement("host")
		if n.Socket != "" {
			host.CreateAttr("transport", "unix")
			host.CreateAttr("socket", n.Socket)
		} else {
			host.CreateAttr("name", n.Host)
			host.CreateAttr("port", n.Port)
		}
	case isDevice(location):
		e.CreateAttr("type", "block")
		source.CreateAttr("dev", location)
	default:
		e.CreateAttr("type", "file")
		source.CreateAttr("file", location)
	}
}

func isDevice(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode()&os.ModeDevice != 0
}

// secretOf is the UUID of the secret that a disk or layer is encrypted with, and
// why it cannot be used, if so.
func secretOf(e *etree.Element) (uuid, reason string) {
	encryption := find(e, "source/encryption")
	if encryption == nil {
		encryption = find(e, "encryption")
	}
	if encryption == nil {
		return "", ""
	}
	secret := find(encryption, "secret")
	switch format := attr(encryption, "", "format"); {
	case format != "luks":
		return "", "it is encrypted on the host as " + format + "; only luks can be backed up"
	case attr(encryption, "", "engine") != "" && attr(encryption, "", "engine") != "qemu":
		return "", "it is encrypted on the host by " + attr(encryption, "", "engine") + ", and not by QEMU"
	case secret == nil:
		return "", "it is encrypted on the host, and its definition names no secret"
	case attr(secret, "", "uuid") == "":
		return "", "it is encrypted on the host with a secret that is named by its usage; name it by its UUID"
	}
	return strings.ToLower(attr(secret, "", "uuid")), ""
}

// setSecret lets a disk or layer be encrypted with a secret; "" for not.
func setSecret(e *etree.Element, uuid string) {
	source := find(e, "source")
	for _, parent := range []*etree.Element{e, source} {
		if old := find(parent, "encryption"); old != nil {
			parent.RemoveChild(old)
		}
	}
	if uuid == "" {
		return
	}
	encryption := source.CreateElement("encryption")
	encryption.CreateAttr("format", "luks")
	secret := encryption.CreateElement("secret")
	secret.CreateAttr("type", "passphrase")
	secret.CreateAttr("uuid", uuid)
}

// imageFormat is how an image of a disk or layer is opened, by its format in the
// definition.
func imageFormat(format, secret string) string {
	if format == "raw" && secret != "" {
		return "luks"
	}
	return format
}

// resolveVolumes lets each disk and layer that is named as a volume of a pool be named by
// what the volume is, so that all else goes by one way of naming. What cannot be
// resolved stays as it is.
func resolveVolumes(l *libvirt.Libvirt, root *etree.Element) {
	for _, e := range root.FindElements(".//*[@type='volume']") {
		if e.Tag != "disk" && e.Tag != "backingStore" && e.Tag != "mirror" {
			continue
		}
		kind, path, err := volume(l, attr(e, "source", "pool"), attr(e, "source", "volume"))
		if err != nil {
			e.CreateAttr("volume-reason", err.Error())
			continue
		}
		source := find(e, "source")
		source.RemoveAttr("pool")
		source.RemoveAttr("volume")
		e.CreateAttr("type", kind)
		e.CreateAttr("volume", "yes")
		source.CreateAttr(map[string]string{"file": "file", "block": "dev"}[kind], path)
	}
}

func volume(l *libvirt.Libvirt, pool, name string) (kind, path string, err error) {
	p, err := l.StoragePoolLookupByName(pool)
	if err != nil {
		return "", "", fmt.Errorf("its pool %s cannot be found: %w", pool, err)
	}
	v, err := l.StorageVolLookupByName(p, name)
	if err != nil {
		return "", "", fmt.Errorf("its volume %s cannot be found in pool %s: %w", name, pool, err)
	}
	if path, err = l.StorageVolGetPath(v); err != nil {
		return "", "", fmt.Errorf("its volume %s: %w", name, err)
	}
	t, _, _, err := l.StorageVolGetInfo(v)
	switch {
	case err != nil:
		return "", "", fmt.Errorf("its volume %s: %w", name, err)
	case t == int8(libvirt.StorageVolFile):
		return "file", path, nil
	case t == int8(libvirt.StorageVolBlock):
		return "block", path, nil
	}
	return "", "", fmt.Errorf("pool %s keeps its volumes on the network; name the volume's own source in the definition", pool)
}

// judge completes what a definition alone does not tell of a VM's disks: the
// size of one on the network, and whether a secret can be read.
func (h *Host) judge(ctx context.Context, vm *backstay.VM) {
	readable := map[string]error{}
	for i := range vm.Disks {
		d := &vm.Disks[i]
		if d.Reason == "" && d.Kind == backstay.NetworkDisk {
			h.measure(ctx, d)
		}
		if d.Reason != "" || d.Secret == "" {
			continue
		}
		err, asked := readable[d.Secret]
		if !asked {
			_, err = h.Secret(ctx, d.Secret)
			readable[d.Secret] = err
		}
		switch {
		case errors.Is(err, hypervisor.ErrPrivateSecret):
			d.Reason = "it is encrypted with secret " + d.Secret + ", which is private: backstay could not open its own layers"
		case errors.Is(err, hypervisor.ErrNoSecret):
			d.Reason = "it is encrypted with secret " + d.Secret + ", which this host does not have, or not its value"
		}
	}
	if vm.Reason == "" {
		vm.Reason = diskless(vm)
	}
}

// measure finds the size of a disk on the network: by asking, or while a server
// answers nobody, as it was last.
func (h *Host) measure(ctx context.Context, d *backstay.Disk) {
	if h.size == nil {
		d.Reason = "it is a network disk, and nobody was named who could open it"
		return
	}
	ctx, cancel := context.WithTimeout(ctx, sizePatience)
	defer cancel()
	size, err := h.size(ctx, d.Source)
	switch {
	case err != nil:
		d.Reason = "its server cannot be asked, or takes no further client: " + err.Error()
	case size == 0:
		d.Reason = "it has no bytes"
	}
	d.Size = size
}
