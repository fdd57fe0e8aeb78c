package hypervisor

import (
	"encoding/json"
	"net"
	"net/url"
	"path/filepath"
	"strings"
)

// NBDPort is the port of an NBD server that no location names.
const NBDPort = "10809"

// NBD is an export of an NBD server: Socket or Host and Port.
type NBD struct {
	Host, Port, Socket string
	Export             string
}

// String returns the export's location as Location writes it.
func (n NBD) String() string {
	export := (&url.URL{Path: "/" + n.Export}).EscapedPath()
	if n.Socket != "" {
		// libvirt decodes nothing of the query: a plain path must stay as it is.
		return "nbd+unix://" + export + "?socket=" + (&url.URL{Path: n.Socket}).EscapedPath()
	}
	port := n.Port
	if port == "" {
		port = NBDPort
	}
	return "nbd://" + net.JoinHostPort(n.Host, port) + export
}

// ParseNBD reads the location of an NBD export, also in the form in which QEMU
// and libvirt write one into an image's header.
func ParseNBD(location string) (n NBD, ok bool) {
	if text, found := strings.CutPrefix(location, "json:"); found {
		return parseNode(text)
	}
	u, err := url.Parse(location)
	if err != nil {
		return n, false
	}
	n.Export = strings.TrimPrefix(u.Path, "/")
	switch u.Scheme {
	case "nbd", "nbd+tcp":
		n.Host, n.Port = u.Hostname(), u.Port()
		if n.Port == "" {
			n.Port = NBDPort
		}
		return n, n.Host != ""
	case "nbd+unix":
		n.Socket = u.Query().Get("socket")
		return n, n.Socket != ""
	}
	return n, false
}

// nbdNode is QEMU's description of an NBD export, alone or below a raw format;
// libvirt leaves the format out.
type nbdNode struct {
	Driver string
	File   json.RawMessage
	Export string
	Server struct{ Type, Host, Port, Path string }
}

func parseNode(text string) (NBD, bool) {
	var node nbdNode
	if err := json.Unmarshal([]byte(text), &node); err != nil {
		return NBD{}, false
	}
	if (node.Driver == "raw" || node.Driver == "") && len(node.File) > 0 {
		return parseNode(string(node.File))
	}
	n := NBD{Export: node.Export}
	switch {
	case node.Driver != "nbd":
		return n, false
	case node.Server.Type == "inet":
		n.Host, n.Port = node.Server.Host, node.Server.Port
		return n, n.Host != "" && n.Port != ""
	case node.Server.Type == "unix":
		n.Socket = node.Server.Path
		return n, n.Socket != ""
	}
	return n, false
}

// Location writes a location in one way, so that two of the same image are the
// same text: a path is cleaned, an NBD export becomes its URI. What it does not
// know stays as it is.
func Location(name string) string {
	if filepath.IsAbs(name) {
		return filepath.Clean(name)
	}
	if n, ok := ParseNBD(name); ok {
		return n.String()
	}
	return name
}

// IsPath tells whether a location is a file or device of the host.
func IsPath(location string) bool { return filepath.IsAbs(location) }
