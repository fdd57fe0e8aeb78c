// Package direct reads and writes large stretches of files past the page cache
// (O_DIRECT): what a backup moves once would only push out of the host's memory
// what its guests use, and what is read back to be proved comes from the device
// and not from memory.
//
// It is an optimisation with a fall-back: where the file system or the buffer does
// not allow it, the same is done through the page cache. It makes nothing durable;
// that takes a sync all the same.
package direct

import (
	"errors"
	"io"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Align is to what offsets, lengths and memory must be aligned, in bytes: enough
// for every device in use.
const Align = 4096

// Worthwhile is from what length on it is worth going past the page cache, in bytes.
const Worthwhile = 1 << 20

// Buffer returns n bytes of memory at an aligned address.
func Buffer(n int64) []byte {
	b := make([]byte, n+Align)
	skip := -int(address(b)) & (Align - 1)
	return b[skip : int64(skip)+n : int64(skip)+n]
}

func address(b []byte) uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(b))) }

func aligned(b []byte, offset int64) bool {
	return address(b)%Align == 0 && offset%Align == 0 && len(b) > 0
}

// set turns O_DIRECT on or off and tells whether that could be done.
func set(f *os.File, on bool) bool {
	conn, err := f.SyscallConn()
	if err != nil {
		return false
	}
	ok := false
	_ = conn.Control(func(fd uintptr) {
		flags, err := unix.FcntlInt(fd, unix.F_GETFL, 0)
		if err != nil {
			return
		}
		want := flags &^ unix.O_DIRECT
		if on {
			want |= unix.O_DIRECT
		}
		_, err = unix.FcntlInt(fd, unix.F_SETFL, want)
		ok = err == nil
	})
	return ok
}

// WriteAt writes b at offset, the whole blocks of it past the page cache if that
// is worthwhile and possible. Nobody else may use the file meanwhile. Errors are
// those of the file's own WriteAt.
func WriteAt(f *os.File, b []byte, offset int64) error {
	whole := b[:len(b)/Align*Align]
	if len(whole) < Worthwhile || !aligned(whole, offset) || !set(f, true) {
		_, err := f.WriteAt(b, offset)
		return err
	}
	_, err := f.WriteAt(whole, offset)
	if !set(f, false) {
		return errors.Join(err, errors.New("O_DIRECT cannot be turned off"))
	}
	if errors.Is(err, unix.EINVAL) { // other alignment than any we know of
		whole, err = nil, nil
	}
	if err == nil && len(whole) < len(b) {
		_, err = f.WriteAt(b[len(whole):], offset+int64(len(whole)))
	}
	return err
}

// ReadAt returns length bytes at offset, past the page cache if that is worthwhile
// and possible. Nobody else may use the file meanwhile. A file that ends before is
// io.ErrUnexpectedEOF.
func ReadAt(f *os.File, offset, length int64) ([]byte, error) {
	if length >= Worthwhile && set(f, true) {
		from, to := offset/Align*Align, (offset+length+Align-1)/Align*Align
		b := Buffer(to - from)
		// Behind the file's last block a read ends short, and one of the rest is refused.
		n, _ := f.ReadAt(b, from)
		if !set(f, false) {
			return nil, errors.New("O_DIRECT cannot be turned off")
		}
		if int64(n) >= offset+length-from {
			return b[offset-from:][:length:length], nil
		}
	}
	b := make([]byte, length)
	if _, err := f.ReadAt(b, offset); err != nil && length > 0 {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	return b, nil
}

// Writer writes a file from several goroutines at a time: large stretches past
// the page cache, by a file description of their own, and the rest through it.
// What two calls write must not share a block.
type Writer struct {
	file   *os.File
	direct *os.File // nil where that is not possible
}

// NewWriter returns a writer of an opened file. It does not own the file.
func NewWriter(f *os.File) *Writer {
	w := &Writer{file: f}
	d, err := os.OpenFile(f.Name(), os.O_WRONLY|unix.O_DIRECT, 0)
	if err != nil {
		return w
	}
	// The name must still be that of the file.
	mine, err := f.Stat()
	its, err2 := d.Stat()
	if errors.Join(err, err2) != nil || !os.SameFile(mine, its) {
		_ = d.Close()
		return w
	}
	w.direct = d
	return w
}

// WriteAt implements io.WriterAt.
func (w *Writer) WriteAt(b []byte, offset int64) (int, error) {
	whole := b[:len(b)/Align*Align]
	if w.direct == nil || len(whole) < directFrom || !aligned(whole, offset) {
		return w.file.WriteAt(b, offset)
	}
	n, err := w.direct.WriteAt(whole, offset)
	if errors.Is(err, unix.EINVAL) {
		return w.file.WriteAt(b, offset)
	}
	if err == nil && n < len(b) {
		var m int
		m, err = w.file.WriteAt(b[n:], offset+int64(n))
		n += m
	}
	return n, err
}

// directFrom is from what length on a Writer goes past the page cache: a device
// takes a few times as long for a request as the page cache, so not for little.
const directFrom = 256 << 10

// Close closes what NewWriter opened, not the file.
func (w *Writer) Close() error {
	if w.direct == nil {
		return nil
	}
	return w.direct.Close()
}
