package pack

import (
	"fmt"

	"github.com/backstay/backstay/internal/tier/vault/seal"
)

// Encoded authenticates one sealed chunk and returns its packed form as it is,
// for another pack: what moves a chunk neither compresses nor names it anew.
func Encoded(box *seal.Box, e Entry, sealed []byte) ([]byte, error) {
	encoded, err := box.Open(nil, uint64(e.Ordinal), sealed, bound(e))
	if err != nil {
		return nil, fmt.Errorf("open chunk %s: %w", e.Name, err)
	}
	return encoded, nil
}

// SizeOf returns the size of a pack with so many chunks, of so many bytes as
// they are sealed, all in bytes.
func SizeOf(chunks int, sealed int64) int64 {
	return seal.HeadSize + sealed + int64(chunks)*(clearEntry+nameEntry) + seal.Overhead + footerSize
}
