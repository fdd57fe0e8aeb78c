package pack

import (
	"encoding/binary"

	"github.com/backstay/backstay/internal/tier/vault/seal"
)

// Assemble puts a pack together from copies none of which is whole: the
// directory from one in which it is sound, each chunk from one whose bytes have
// the hash that the directory says. It needs no key, and proves nothing: the
// result is to be verified like any pack.
func Assemble(copies [][]byte) ([]byte, bool) {
	for _, data := range copies {
		for _, head := range copies {
			if out, ok := assemble(data, head, copies); ok {
				return out, true
			}
		}
	}
	return nil, false
}

// assemble takes the directory of one copy, and the head of one.
func assemble(data, head []byte, copies [][]byte) ([]byte, bool) {
	if len(data) < seal.HeadSize+footerSize+seal.Overhead || len(data) > Target || len(head) < seal.HeadSize {
		return nil, false
	}
	footer := data[len(data)-footerSize:]
	at := int(binary.BigEndian.Uint32(footer))
	if at < seal.HeadSize || at > len(data)-footerSize {
		return nil, false
	}
	l, err := parse(head[:seal.HeadSize], data[at:len(data)-footerSize], footer)
	if err != nil {
		return nil, false
	}
	out := append(append([]byte(nil), head[:seal.HeadSize]...), data[seal.HeadSize:]...)
	for i := range l.count {
		offset, length := l.place(i)
		want, found := [32]byte(l.clear[i*clearEntry+8:(i+1)*clearEntry]), false
		for _, c := range copies {
			if int64(len(c)) >= int64(offset)+int64(length) && seal.Hash(c[offset:offset+length]) == want {
				copy(out[offset:], c[offset:offset+length])
				found = true
				break
			}
		}
		if !found {
			return nil, false
		}
	}
	return out, true
}
