package inside

import (
	"context"
	"errors"
	"io"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/guest/wire"
	"golang.org/x/sys/unix"
)

// readPiece is how many bytes of a file are read at once.
const readPiece = 1 << 20

// read answers OpRead: bytes of a regular file, holes as zeros. What lies behind the
// end of the file is left out.
func (t *tree) read(ctx context.Context, r wire.ReadRequest, w io.Writer) error {
	fd, st, err := t.openFile(r.Path)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if r.Offset < 0 || r.Length < -1 {
		return backstay.Errorf(backstay.CodeUsage, "%d bytes at %d are no part of a file", r.Length, r.Offset)
	}
	end := max(st.Size, r.Offset)
	if r.Length >= 0 && r.Length < end-r.Offset {
		end = r.Offset + r.Length
	}
	at, err := copyRange(ctx, fd, extent{r.Offset, end}, func(_ int64, data []byte) error {
		_, err := w.Write(data)
		return err
	})
	var failed *readError
	switch {
	case errors.As(err, &failed):
		return backstay.Errorf(backstay.CodeVolumeUnread, "%s cannot be read at %d", r.Path, at).Because(failed.err)
	case err != nil:
		return err
	case at < end:
		return backstay.Errorf(backstay.CodeVolumeUnread, "%s ends at %d of the %d bytes that its inode says", r.Path, at, st.Size)
	}
	return nil
}

// extent is a part of a file, from one byte to another.
type extent struct{ from, to int64 }

// readError is an error of the file, in contrast to one of whoever takes its content.
type readError struct{ err error }

func (e *readError) Error() string { return e.err.Error() }

// piece is what was read of a file.
type piece struct {
	offset int64
	buf    []byte
	n      int
	err    error
}

// copyRange hands the bytes of a part of a file to put, reading ahead while put is at
// work. It returns where it came to: less than to if the file ends before.
func copyRange(ctx context.Context, fd int, part extent, put func(offset int64, data []byte) error) (int64, error) {
	if part.to-part.from <= readPiece {
		return copySmall(fd, part, put)
	}
	_ = unix.Fadvise(fd, part.from, part.to-part.from, unix.FADV_SEQUENTIAL) // a hint
	ctx, cancel := context.WithCancel(ctx)
	free := make(chan []byte, 3)
	for range cap(free) {
		free <- make([]byte, readPiece)
	}
	read := make(chan piece, cap(free))
	go readPieces(ctx, fd, part, free, read)
	// The reader has ended when its channel is closed: nothing reads from fd afterwards.
	defer func() {
		cancel()
		for range read {
		}
	}()
	at := part.from
	for p := range read {
		if p.n > 0 {
			if err := put(p.offset, p.buf[:p.n]); err != nil {
				return at, err
			}
			at = p.offset + int64(p.n)
		}
		if p.err != nil {
			return at, p.err
		}
		free <- p.buf
	}
	return at, ctx.Err()
}

// readPieces reads a part of a file piece by piece and closes read behind the last.
func readPieces(ctx context.Context, fd int, part extent, free <-chan []byte, read chan<- piece) {
	defer close(read)
	for at := part.from; at < part.to; {
		var buf []byte
		select {
		case buf = <-free:
		case <-ctx.Done():
			return
		}
		n, err := pread(fd, buf[:min(int64(len(buf)), part.to-at)], at)
		if err != nil {
			err = &readError{err}
		}
		read <- piece{offset: at, buf: buf, n: n, err: err} // as many fit as there are buffers
		if err != nil || n == 0 {
			return
		}
		at += int64(n)
	}
}

func copySmall(fd int, part extent, put func(int64, []byte) error) (int64, error) {
	buf := make([]byte, part.to-part.from)
	n, err := pread(fd, buf, part.from)
	if n > 0 {
		if err := put(part.from, buf[:n]); err != nil {
			return part.from, err
		}
	}
	if err != nil {
		return part.from + int64(n), &readError{err}
	}
	return part.from + int64(n), nil
}

// pread fills the buffer as far as the file goes.
func pread(fd int, buf []byte, at int64) (int, error) {
	n := 0
	for n < len(buf) {
		got, err := unix.Pread(fd, buf[n:], at+int64(n))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return n, err
		}
		if got == 0 {
			break
		}
		n += got
	}
	return n, nil
}
