package qemu

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/backstay/backstay/internal/hypervisor"
)

// networkPatience bounds a tool that opens an image on the network: a server
// that takes no further client lets it wait for ever.
const networkPatience = 20 * time.Second

// node is an image as QEMU's block layer wants it: every driver and file spelt
// out, so that nothing is probed.
type node struct {
	Driver    string   `json:"driver"`
	File      fileNode `json:"file"`
	KeySecret string   `json:"key-secret,omitempty"` // of luks
	Encrypt   *encrypt `json:"encrypt,omitempty"`    // of qcow2
	Backing   any      `json:"backing,omitempty"`    // *node, or null for none
}

type encrypt struct {
	Format    string `json:"format"`
	KeySecret string `json:"key-secret"`
}

type fileNode struct {
	Driver   string  `json:"driver"`
	Filename string  `json:"filename,omitempty"`
	Server   *server `json:"server,omitempty"`
	Export   string  `json:"export,omitempty"`
}

type server struct {
	Type string `json:"type"`
	Host string `json:"host,omitempty"`
	Port string `json:"port,omitempty"`
	Path string `json:"path,omitempty"`
}

// null is a backing file that is cut off.
var null = json.RawMessage("null")

// fileOf is the lower half of a node: where its bytes are.
func fileOf(location string) (fileNode, error) {
	if n, ok := hypervisor.ParseNBD(location); ok {
		if n.Socket != "" {
			return fileNode{Driver: "nbd", Server: &server{Type: "unix", Path: n.Socket}, Export: n.Export}, nil
		}
		return fileNode{Driver: "nbd", Server: &server{Type: "inet", Host: n.Host, Port: n.Port}, Export: n.Export}, nil
	}
	abs, err := filepath.Abs(location)
	if err != nil {
		return fileNode{}, err
	}
	if isDevice(abs) {
		return fileNode{Driver: "host_device", Filename: abs}, nil
	}
	return fileNode{Driver: "file", Filename: abs}, nil
}

func isDevice(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode()&os.ModeDevice != 0
}

// nodeOf describes one image without what lies below it.
func nodeOf(location, format string, encrypted bool) (*node, error) {
	file, err := fileOf(location)
	if err != nil {
		return nil, err
	}
	n := &node{Driver: format, File: file}
	switch {
	case format == "luks":
		n.KeySecret = secretID
	case encrypted:
		n.Encrypt = &encrypt{Format: "luks", KeySecret: secretID}
	}
	return n, nil
}

func (n *node) String() string {
	b, _ := json.Marshal(n) // strings only: cannot fail
	return "json:" + string(b)
}

// alone describes an image with what lies below it cut off.
func alone(image hypervisor.Image) (*node, error) {
	n, err := nodeOf(image.Location, image.Format, image.Secret != "")
	if err == nil && (image.Format == "qcow2" || image.Format == "vmdk") {
		n.Backing = null
	}
	return n, err
}

// whole describes an image and all that lies below it, with each one's format as
// the one above records it. Images below that are encrypted are opened with the
// same key.
func (im *Images) whole(ctx context.Context, image hypervisor.Image) (*node, []imageInfo, error) {
	chain, err := im.checkChain(ctx, image)
	if err != nil {
		return nil, nil, err
	}
	location, format := image.Location, image.Format
	var top, above *node
	for i, layer := range chain {
		n, err := nodeOf(location, format, layer.Encrypted)
		if err != nil {
			return nil, nil, err
		}
		switch {
		case above == nil:
			top = n
		case n.File.Driver == "nbd" && !layer.Encrypted:
			// QEMU takes no description of an export beside the name that the header
			// has of it; the header of the layer above says the same.
			return top, chain, nil
		default:
			above.Backing = n
		}
		above = n
		if i+1 < len(chain) {
			location, format = absoluteBacking(location, layer), layer.BackingFormat
		}
	}
	if above.Driver == "qcow2" {
		above.Backing = null
	}
	return top, chain, nil
}

// fileName is a location as QEMU's tools must get it: without the prefix, a
// file's name with a colon would be read as a protocol, and one with a dash as an
// option. A device must not have it, or QEMU would take it for a file.
func fileName(location string) string {
	if _, ok := hypervisor.ParseNBD(location); ok {
		return location
	}
	if abs, err := filepath.Abs(location); err == nil {
		location = abs
	}
	if isDevice(location) {
		return location
	}
	return "file:" + location
}

// exists fails for a file that is not there, in words by which callers decide.
func exists(location string) error {
	if _, ok := hypervisor.ParseNBD(location); ok {
		return nil
	}
	_, err := os.Stat(location)
	return err
}

// bounded gives ctx an end where the image is on the network.
func bounded(ctx context.Context, location string) (context.Context, context.CancelFunc) {
	if _, ok := hypervisor.ParseNBD(location); ok {
		return context.WithTimeout(ctx, networkPatience)
	}
	return ctx, func() {}
}

// formats are those that a VM's disk may have; foreign ones only carry a disk from
// and to other hypervisors: a single file each, in which everything lies.
var (
	formats = []string{"qcow2", "raw", "luks"}
	foreign = []string{"vmdk", "vhdx"}
)

// carried refuses formats that are neither a VM's nor foreign.
func carried(format string) error {
	if slices.Contains(foreign, format) {
		return nil
	}
	if known(format) != nil {
		return fmt.Errorf("format %q is not one of qcow2, raw, luks, vmdk and vhdx", format)
	}
	return nil
}

func known(format string) error {
	if !slices.Contains(formats, format) {
		return fmt.Errorf("format %q is not one of qcow2, raw and luks", format)
	}
	return nil
}
