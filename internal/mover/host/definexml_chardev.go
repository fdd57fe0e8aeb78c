package host

import (
	"path/filepath"
	"strings"

	"github.com/beevik/etree"
)

// channelFolder is where libvirt puts the sockets that it names by itself.
const channelFolder = "/var/lib/libvirt/qemu/channel"

// chardev gives a serial line, console or channel its own file or socket.
func (e *definitionEditor) chardev(d *etree.Element) {
	d.RemoveAttr("tty")
	source := d.SelectElement("source")
	if log := d.SelectElement("log"); log != nil {
		e.ownLog(d, log)
	}
	if target := d.SelectElement("target"); target != nil && d.Tag == "channel" {
		target.RemoveAttr("state")
	}
	switch d.SelectAttrValue("type", "") {
	case "pty":
		removeAll(d, "source")
	case "file":
		if source == nil || !e.ownOutput(source, "path") {
			e.toPty(d, "its folder is not there")
		}
	case "unix":
		e.ownSocket(d, source)
	case "tcp", "udp":
		if d.FindElement("./source[@mode='bind']") != nil {
			e.toPty(d, "its port may be taken by the source")
		}
	case "dev", "pipe":
		e.toPty(d, "its device belongs to one VM")
	}
}

// ownOutput renames the file in an attribute for the new VM; false if there is
// no folder for it on this host.
func (e *definitionEditor) ownOutput(at *etree.Element, key string) bool {
	old := at.SelectAttrValue(key, "")
	if old == "" || !e.options.FolderExists(filepath.Dir(old)) {
		return false
	}
	own := ownName(old, e.plan.Source.Name, e.plan.Name)
	setAttr(at, key, own)
	if strings.HasPrefix(own, "/") {
		e.out.Outputs = append(e.out.Outputs, own)
	}
	return true
}

func (e *definitionEditor) ownLog(d, log *etree.Element) {
	if !e.ownOutput(log, "file") {
		e.warn("the log of a %s is left out: its folder is not there", d.Tag)
		remove(d, log)
	}
}

// ownSocket: a socket that libvirt named it names again, one that the owner
// named gets the new VM's name; to connect somewhere, as a client, is kept.
func (e *definitionEditor) ownSocket(d, source *etree.Element) {
	path := ""
	if source != nil {
		path = source.SelectAttrValue("path", "")
	}
	switch {
	case path == "":
	case source.SelectAttrValue("mode", "bind") == "connect":
	case d.Tag == "channel" || strings.HasPrefix(path, channelFolder):
		remove(d, source)
	case e.options.FolderExists(filepath.Dir(path)):
		setAttr(source, "path", ownName(path, e.plan.Source.Name, e.plan.Name))
	default:
		e.toPty(d, "the folder of its socket is not there")
	}
}

// toPty makes a terminal of a line whose other end the new VM cannot have.
func (e *definitionEditor) toPty(d *etree.Element, why string) {
	if d.Tag == "channel" {
		e.warn("a channel is left without its other end: %s", why)
	} else {
		e.warn("a %s is made a pty: %s", d.Tag, why)
	}
	setAttr(d, "type", "pty")
	removeAll(d, "source", "protocol")
}

// ownName puts the new VM's name into a path in place of the source's, or
// before the extension if the source's is not in it.
func ownName(path, source, fresh string) string {
	dir, file := filepath.Split(path)
	if source != "" && strings.Contains(file, source) {
		return dir + strings.Replace(file, source, fresh, 1)
	}
	ext := filepath.Ext(file)
	return dir + strings.TrimSuffix(file, ext) + "-" + fresh + ext
}
