package nbd

import (
	"bytes"
	"sync"
)

// The two sizes of buffers that are kept for the next request.
const (
	smallBuffer = headRoom + 64<<10
	largeBuffer = headRoom + pieceBytes
)

var (
	smallBuffers = sync.Pool{New: func() any { return new([smallBuffer]byte) }}
	largeBuffers = sync.Pool{New: func() any { return new([largeBuffer]byte) }}
)

// newBuffer returns n bytes with any content.
func newBuffer(n int) []byte {
	switch {
	case n <= smallBuffer:
		return smallBuffers.Get().(*[smallBuffer]byte)[:n]
	case n <= largeBuffer:
		return largeBuffers.Get().(*[largeBuffer]byte)[:n]
	}
	return make([]byte, n)
}

// freeBuffer gives back what newBuffer returned.
func freeBuffer(b []byte) {
	switch cap(b) {
	case smallBuffer:
		smallBuffers.Put((*[smallBuffer]byte)(b[:smallBuffer]))
	case largeBuffer:
		largeBuffers.Put((*[largeBuffer]byte)(b[:largeBuffer]))
	}
}

// allZero tells whether there is nothing but zeros. Data shows early.
func allZero(b []byte) bool {
	for len(b) > 0 {
		n := min(len(b), len(zeroBlock))
		if !bytes.Equal(b[:n], zeroBlock[:n]) {
			return false
		}
		b = b[n:]
	}
	return true
}
