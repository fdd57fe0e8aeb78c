package host

import (
	"os"

	"github.com/beevik/etree"

	"github.com/backstay/backstay/internal/hypervisor"
)

// encrypted lets a source be opened with a secret.
func encrypted(source *etree.Element, secret string) {
	e := source.CreateElement("encryption")
	e.CreateAttr("format", "luks")
	s := e.CreateElement("secret")
	s.CreateAttr("type", "passphrase")
	s.CreateAttr("uuid", secret)
}

// backing spells out what an encrypted overlay stands on, to its end: libvirt
// finds the images by their headers, but no keys.
func backing(disk, after *etree.Element, below []hypervisor.Image) {
	if len(below) == 0 {
		return
	}
	parent := disk
	for _, image := range below {
		b := etree.NewElement("backingStore")
		if parent == disk {
			insertAfter(disk, after, b)
		} else {
			parent.AddChild(b)
		}
		format := image.Format
		if format == "luks" {
			format = "raw" // in the words of definitions
		}
		b.CreateElement("format").CreateAttr("type", format)
		source := b.CreateElement("source")
		locate(b, source, image.Location)
		if image.Secret != "" {
			encrypted(source, image.Secret)
		}
		parent = b
	}
	parent.CreateElement("backingStore")
}

// locate names an image in the words of definitions.
func locate(e, source *etree.Element, location string) {
	info, err := os.Stat(location)
	n, network := hypervisor.ParseNBD(location)
	switch {
	case !network && err == nil && info.Mode()&os.ModeDevice != 0:
		setAttr(e, "type", "block")
		setAttr(source, "dev", location)
	case !network:
		setAttr(e, "type", "file")
		setAttr(source, "file", location)
	default:
		setAttr(e, "type", "network")
		setAttr(source, "protocol", "nbd")
		setAttr(source, "name", n.Export)
		host := source.CreateElement("host")
		if n.Socket != "" {
			setAttr(host, "transport", "unix")
			setAttr(host, "socket", n.Socket)
			return
		}
		setAttr(host, "name", n.Host)
		setAttr(host, "port", n.Port)
	}
}

// guestLUKS tells whether a chain ends in a raw image on which the guest put LUKS:
// libvirt, following the chain by itself, would take it for the host's.
func guestLUKS(below []hypervisor.Image) bool {
	if len(below) == 0 {
		return false
	}
	bottom := below[len(below)-1]
	return bottom.Format == "raw" && bottom.Secret == "" && hypervisor.StartsWithLUKS(bottom.Location)
}
