package libvirt

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"syscall"

	"github.com/digitalocean/go-libvirt"

	"github.com/backstay/backstay/internal/hypervisor"
)

// known is one of the port's errors with libvirt's words.
type knownError struct {
	kind  error
	cause error
}

func (e *knownError) Error() string {
	return e.kind.Error() + ": " + strings.TrimSpace(e.cause.Error())
}
func (e *knownError) Unwrap() []error { return []error{e.kind, e.cause} }

// translate says in the port's errors what libvirt answered.
func translate(err error) error {
	if err == nil || errors.Is(err, hypervisor.ErrNoVM) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	var answer libvirt.Error
	if !errors.As(err, &answer) {
		if lost(err) {
			return &knownError{hypervisor.ErrAway, err}
		}
		return err
	}
	switch {
	case answer.Code == uint32(libvirt.ErrNoDomain):
		return &knownError{hypervisor.ErrNoVM, err}
	case answer.Code == uint32(libvirt.ErrDomExist), alreadyThere(answer.Message):
		return &knownError{hypervisor.ErrExists, err}
	case strings.Contains(answer.Message, "Failed to get") && strings.Contains(answer.Message, " lock"):
		return &knownError{hypervisor.ErrLocked, err}
	}
	return err
}

func alreadyThere(words string) bool {
	return strings.Contains(words, "domain '") &&
		(strings.Contains(words, "already exists with uuid") || strings.Contains(words, "is already defined with uuid"))
}

// lost tells an error of the connection from one of the call.
func lost(err error) bool {
	var op *net.OpError
	return errors.Is(err, libvirt.ErrInterrupted) || errors.Is(err, syscall.EINVAL) || errors.Is(err, io.EOF) ||
		errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) || errors.As(err, &op)
}

// isCode tells whether libvirt answered with one of the codes.
func isCode(err error, codes ...libvirt.ErrorNumber) bool {
	var answer libvirt.Error
	if !errors.As(err, &answer) {
		return false
	}
	for _, code := range codes {
		if answer.Code == uint32(code) {
			return true
		}
	}
	return false
}
