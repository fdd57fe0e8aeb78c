package link

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// An answer is a row of frames: one byte of kind, four of length, big end first, and
// as many bytes as that says. The last one is an outcome; an answer without one was
// cut.
const (
	frameAlive   = 'a' // nothing: the other side is at work
	frameData    = 'd' // a piece of a stream
	frameOutcome = 'o' // how it ended
)

const frameHead = 5

var errCut = errors.New("the answer was cut")

func writeFrame(w io.Writer, kind byte, body []byte) error {
	head := make([]byte, frameHead, frameHead+len(body))
	head[0] = kind
	binary.BigEndian.PutUint32(head[1:], uint32(len(body)))
	_, err := w.Write(append(head, body...))
	return err
}

// readFrame returns the next frame. Its body grows with what comes, whatever length it
// claims.
func readFrame(in *bufio.Reader) (kind byte, body []byte, err error) {
	var head [frameHead]byte
	if _, err := io.ReadFull(in, head[:]); err != nil {
		return 0, nil, cut(err)
	}
	kind, size := head[0], int64(binary.BigEndian.Uint32(head[1:]))
	most := map[byte]int64{frameAlive: 0, frameData: maxData, frameOutcome: maxResult}
	if bound, ok := most[kind]; !ok || size > bound {
		return 0, nil, fmt.Errorf("a frame of kind %q with %d bytes", kind, size)
	}
	body, err = io.ReadAll(io.LimitReader(in, size))
	if err == nil && int64(len(body)) < size {
		err = errCut
	}
	return kind, body, cut(err)
}

func cut(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errCut
	}
	return err
}
