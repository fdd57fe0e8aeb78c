package hypervisor

import backstay "github.com/backstay/backstay"

// Image names one disk image, and says how it must be opened. Nothing of it is
// ever probed: a guest could forge a header on its raw disk.
type Image struct {
	// Location is the absolute path of a file or block device, or the URI of an
	// NBD export (nbd://HOST:PORT/NAME, nbd+unix:///NAME?socket=PATH).
	Location string
	// Format is qcow2, raw, or luks: raw content in a LUKS container.
	Format string
	// Secret is the UUID of the libvirt secret that opens the image, and all
	// images below it that are encrypted; "" if none of them is. The secret's
	// value is never part of a request (I10).
	Secret string
}

// Plain is an image that is not encrypted.
func Plain(location, format string) Image { return Image{Location: location, Format: format} }

// ImageOf is a disk's active layer.
func ImageOf(d backstay.Disk) Image {
	i := Image{Location: d.Source, Format: d.Format, Secret: d.Secret}
	if i.Format == "raw" && i.Secret != "" {
		i.Format = "luks"
	}
	return i
}

// Overlay is the request for an overlay. It is encrypted, with the same secret,
// if its backing image names one: an overlay of an encrypted image would
// otherwise hold in the clear what the guest writes.
type Overlay struct {
	// Path is the file that is made, mode 0600.
	Path string
	// Backing is the image that the overlay stands on. It may be in use.
	Backing Image
	// Size is the guest-visible size in bytes; 0 means that of Backing.
	Size int64
	// Coarse makes it without sub-clusters: QEMU before 8.2 ends with a failed
	// assertion when it copies in what such an image stands on (CopyIn).
	Coarse bool
}

// Source is what a disk of a definition is put on.
type Source struct {
	Image
	// Element is the disk's element as the definition had it when it used this
	// image, "" if not known: kind, driver, source and recorded chain are taken
	// from it as they are, so that the owner finds them again (I15).
	Element string
}
