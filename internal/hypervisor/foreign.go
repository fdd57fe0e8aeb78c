package hypervisor

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
)

// imageHead is how much of a file FileFormat and SelfContained look at, in bytes.
const imageHead = 64 << 10

// ErrElsewhere: an image file names other files that hold part of its content.
// Whoever wrote the image chose them, and they could be any file of the host.
var ErrElsewhere = errors.New("the image names other files, and none of them is opened on its word")

// FileFormat tells by its first bytes what an image file is: qcow2, vmdk, vhdx,
// luks, or "" for anything else, a raw disk among them. It is no proof: a guest
// can write such bytes onto its raw disk. Only for a file that somebody names who
// vouches for it, and never for a disk of a VM.
func FileFormat(path string) (string, error) {
	b, err := head(path)
	if err != nil {
		return "", err
	}
	for _, f := range []struct{ magic, format string }{
		{"QFI\xfb", "qcow2"}, {"KDMV", "vmdk"}, {"# Disk DescriptorFile", "vmdk"}, {"vhdxfile", "vhdx"}, {"LUKS\xba\xbe", "luks"},
	} {
		if bytes.HasPrefix(b, []byte(f.magic)) {
			return f.format, nil
		}
	}
	return "", nil
}

// SelfContained fails with ErrElsewhere for an image that is not all in its own
// file: a backing file, an external data file, extents that a descriptor names.
// It reads the header itself, since QEMU's tools open what a header names while
// they look at it.
func SelfContained(path, format string) error {
	b, err := head(path)
	if err != nil {
		return err
	}
	switch format {
	case "qcow2":
		err = selfContainedQcow2(b)
	case "vmdk":
		err = selfContainedVMDK(b)
	case "vhdx":
		// A file with a parent is not opened by QEMU at all.
		if !bytes.HasPrefix(b, []byte("vhdxfile")) {
			err = errors.New("not a VHDX image")
		}
	}
	if err != nil {
		return fmt.Errorf("image %s: %w", path, err)
	}
	return nil
}

func head(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read image header: %w", err)
	}
	defer func() { _ = f.Close() }()
	b := make([]byte, imageHead)
	n, err := io.ReadFull(f, b)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, fmt.Errorf("read image header: %w", err)
	}
	return b[:n], nil
}

// selfContainedQcow2 knows the header as QEMU's docs/interop/qcow2.txt has it.
func selfContainedQcow2(b []byte) error {
	be := binary.BigEndian
	switch {
	case len(b) < 72 || !bytes.HasPrefix(b, []byte("QFI\xfb")):
		return errors.New("not a qcow2 image")
	case be.Uint64(b[8:]) != 0:
		return fmt.Errorf("it stands on a backing file: %w", ErrElsewhere)
	case be.Uint32(b[4:]) >= 3 && len(b) >= 80 && be.Uint64(b[72:])&(1<<2) != 0:
		return fmt.Errorf("its data lies in another file: %w", ErrElsewhere)
	}
	return nil
}

// vmdkDescriptor is where QEMU looks for a parent in a sparse VMDK file: at this
// byte, for this many bytes.
const vmdkDescriptor, vmdkDescriptorSize = 512, 20 * 512

// selfContainedVMDK lets through what holds its content in its own grains. A text
// descriptor, alone or in a file without capacity, lists extents by name.
func selfContainedVMDK(b []byte) error {
	le := binary.LittleEndian
	switch {
	case bytes.HasPrefix(b, []byte("# Disk DescriptorFile")):
		return fmt.Errorf("it is a descriptor, and its content lies elsewhere: %w", ErrElsewhere)
	case len(b) < vmdkDescriptor || !bytes.HasPrefix(b, []byte("KDMV")):
		return errors.New("not a sparse VMDK image")
	case le.Uint64(b[12:]) == 0:
		return fmt.Errorf("its descriptor lists where its content lies: %w", ErrElsewhere)
	}
	descriptor := b[vmdkDescriptor:min(len(b), vmdkDescriptor+vmdkDescriptorSize)]
	if bytes.Contains(descriptor, []byte("parentFileNameHint")) {
		return fmt.Errorf("it stands on a parent: %w", ErrElsewhere)
	}
	return nil
}
