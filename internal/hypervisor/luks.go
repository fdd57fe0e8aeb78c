package hypervisor

import (
	"bytes"
	"os"
)

// StartsWithLUKS tells whether what lies at a path begins as a LUKS volume does: on
// a raw disk that is the guest's own.
func StartsWithLUKS(path string) bool {
	if !IsPath(path) {
		return false
	}
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer func() { _ = f.Close() }()
	b := make([]byte, 6)
	n, _ := f.ReadAt(b, 0)
	return n == len(b) && bytes.Equal(b, []byte("LUKS\xba\xbe"))
}
