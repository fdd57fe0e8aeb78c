package qemu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/backstay/backstay/internal/hypervisor"
)

// secretID is the name by which an image's key goes in a tool's arguments.
const secretID = "key"

// secretArgs let a tool read the key from its fourth file: a value in its
// arguments or environment could be read by every user of the host.
var secretArgs = []string{"--object", "secret,id=" + secretID + ",file=/dev/fd/3"}

// errNoKeys: somebody names a secret, and the adapter was given nobody to ask.
var errNoKeys = errors.New("it is encrypted, and nobody was named who knows its key")

// keyFile returns a pipe from which the value of a secret can be read once; nil
// for an image that is not encrypted. A value fits a pipe's buffer, so nobody
// has to wait for the reader.
func (im *Images) keyFile(ctx context.Context, uuid string) (*os.File, error) {
	if uuid == "" {
		return nil, nil
	}
	if im.secrets == nil {
		return nil, errNoKeys
	}
	value, err := im.secrets.Secret(ctx, uuid)
	if err != nil {
		return nil, fmt.Errorf("get its key: %w", err)
	}
	if n := len(value.Reveal()); n == 0 || n > 4096 {
		return nil, fmt.Errorf("get its key: secret %s has %d bytes: %w", uuid, n, hypervisor.ErrNoSecret)
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("hand over its key: %w", err)
	}
	_, err = w.Write(value.Reveal())
	if err := errors.Join(err, w.Close()); err != nil {
		_ = r.Close() // the write's error says it
		return nil, fmt.Errorf("hand over its key: %w", err)
	}
	return r, nil
}

// runKeyed runs qemu-img to its end, with the key of a secret if one is named,
// and returns its standard output.
func (im *Images) runKeyed(ctx context.Context, secret string, args ...string) ([]byte, error) {
	var out bytes.Buffer
	err := im.runShowing(ctx, secret, &out, args...)
	return out.Bytes(), err
}

// How encrypted images are made. What encrypts them is a random key of the
// image's own; little time for deriving what wraps it keeps snapshots quick.
const (
	encryptedQcow2 = "encrypt.format=luks,encrypt.key-secret=" + secretID + ",encrypt.iter-time=10"
	encryptedRaw   = "key-secret=" + secretID + ",iter-time=10"
)

// keyTries is how often making an encrypted image is tried.
const keyTries = 30

// again repeats what QEMU gives up for a reason that passes: it measures how fast
// this machine derives keys, and cannot on a busy one.
func again(fn func() error) error {
	for try := 1; ; try++ {
		err := fn()
		if err == nil || try == keyTries || !strings.Contains(err.Error(), "accurate CPU usage") {
			return err
		}
	}
}

// CreateEncrypted makes an empty image that a secret opens, durably; see Create.
func (im *Images) CreateEncrypted(ctx context.Context, image hypervisor.Image, size int64) error {
	if image.Secret == "" || image.Format != "qcow2" && image.Format != "luks" {
		return fmt.Errorf("create image %s: an encrypted image is qcow2 or luks, and has a secret", image.Location)
	}
	if size <= 0 || size%512 != 0 {
		return fmt.Errorf("create image %s: size %d is not a positive multiple of 512", image.Location, size)
	}
	return im.create(image.Location, func() error {
		return again(func() error {
			_, err := im.runKeyed(ctx, image.Secret, "create", "-q", "-f", image.Format, "-o", encryption(image.Format),
				fileName(image.Location), strconv.FormatInt(size, 10))
			return err
		})
	})
}

func encryption(format string) string {
	if format == "luks" {
		return encryptedRaw
	}
	return encryptedQcow2
}
