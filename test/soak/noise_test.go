//go:build integration

package soak

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"sync"
)

var (
	noiseMu   sync.Mutex
	noiseSums = map[[2]int64]string{}
)

// noiseSum is the SHA-256 of what `ticker fill` writes with a seed. It is computed
// here anew: what the guest reads back proves nothing by itself.
func noiseSum(seed, size int64) string {
	noiseMu.Lock()
	defer noiseMu.Unlock()
	if sum, ok := noiseSums[[2]int64{seed, size}]; ok {
		return sum
	}
	x := uint64(seed)*0x9e3779b97f4a7c15 | 1
	digest := sha256.New()
	buf := make([]byte, 1<<20)
	for done := int64(0); done < size; done += int64(len(buf)) {
		for i := 0; i < len(buf); i += 8 {
			x ^= x << 13
			x ^= x >> 7
			x ^= x << 17
			binary.LittleEndian.PutUint64(buf[i:], x)
		}
		digest.Write(buf[:min(int64(len(buf)), size-done)])
	}
	sum := hex.EncodeToString(digest.Sum(nil))
	noiseSums[[2]int64{seed, size}] = sum
	return sum
}
