package guesttest

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/binary"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/crypto/xts"
)

// RecoveryKey opens the images that BitLocker makes: eight numbers that 11 divides.
const RecoveryKey = "000011-110000-220000-330000-440000-550000-660000-719994"

// The layout of the images: three copies of the metadata, and behind the first one
// the sectors that the volume began with.
const (
	fveSize   = 64 << 10
	fveHeader = 8192
)

// BitLocker makes of an image one that is encrypted as Windows does it, with
// XTS-AES-128 and a recovery key. What it writes is what Microsoft's format says as
// far as cryptsetup reads it; no Windows has seen it. The content must be zeros in
// three places of 72 KiB.
func BitLocker(t testing.TB, plain string) string {
	t.Helper()
	data, err := os.ReadFile(plain)
	if err != nil {
		t.Fatal(err)
	}
	places := freePlaces(data)
	if len(places) < 3 {
		t.Fatal("the image has no room for the metadata")
	}
	key := pattern(32, 7)
	c, err := xts.NewCipher(aes.NewCipher, key)
	if err != nil {
		t.Fatal(err)
	}
	header := bytes.Clone(data[:fveHeader])
	for at := 0; at < len(data); at += 512 {
		c.Encrypt(data[at:at+512], data[at:at+512], uint64(at/512))
	}
	moved := places[0] + fveSize
	for at := 0; at < fveHeader; at += 512 {
		c.Encrypt(data[moved+at:moved+at+512], header[at:at+512], uint64((moved+at)/512))
	}
	meta := metadata(t, key, places, len(data))
	for _, p := range places {
		copy(data[p:], make([]byte, fveSize))
		copy(data[p:], meta)
	}
	first := make([]byte, 512)
	copy(first, "\xeb\x58\x90-FVE-FS-")
	binary.LittleEndian.PutUint16(first[11:], 512)
	copy(first[160:], "\x3b\xd6\x67\x49\x29\x2e\xd8\x4a\x83\x99\xf6\xa3\x39\xe3\xd0\x01")
	for i, p := range places {
		binary.LittleEndian.PutUint64(first[176+8*i:], uint64(p))
	}
	copy(first[510:], "\x55\xaa")
	copy(data, first)
	path := filepath.Join(t.TempDir(), "bitlocker")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// freePlaces finds three places of zeros.
func freePlaces(data []byte) []int {
	var places []int
	zeros := make([]byte, fveSize+fveHeader)
	for at := len(data) / 4; at+len(zeros) < len(data) && len(places) < 3; at += 1 << 20 {
		if bytes.Equal(data[at:at+len(zeros)], zeros) {
			places = append(places, at)
		}
	}
	return places
}

// pattern makes bytes that stand for random ones.
func pattern(n int, seed byte) []byte {
	sum := sha256.Sum256([]byte{seed})
	return bytes.Repeat(sum[:], 2)[:n]
}

// metadata is one block of it: a header, and entries for the two keys and for the
// place of the moved sectors.
func metadata(t testing.TB, key []byte, places []int, size int) []byte {
	t.Helper()
	master, salt := pattern(32, 8), pattern(16, 9)
	vmk := append([]byte("recovery-key-id-"), make([]byte, 10)...)
	vmk = binary.LittleEndian.AppendUint16(vmk, 0x0800) // protected by a recovery key
	vmk = append(vmk, entry(0, 3, append([]byte{0, 0x10, 0, 0}, salt...))...)
	vmk = append(vmk, entry(0, 5, wrapped(t, stretched(t, RecoveryKey, salt), master, 1))...)
	place := binary.LittleEndian.AppendUint64(nil, uint64(places[0]+fveSize))
	place = binary.LittleEndian.AppendUint64(place, fveHeader)
	entries := append(entry(2, 8, vmk), entry(3, 5, wrapped(t, master, key, 2))...)
	entries = append(entries, entry(15, 15, place)...)

	le := binary.LittleEndian
	b := []byte("-FVE-FS-")
	for _, n := range []uint16{64, 2, 4, 4} { // size, version, state now and next: encrypted
		b = le.AppendUint16(b, n)
	}
	b = le.AppendUint64(b, uint64(size))
	b = le.AppendUint32(b, 0)
	b = le.AppendUint32(b, fveHeader/512)
	for _, p := range append(places, places[0]+fveSize) {
		b = le.AppendUint64(b, uint64(p))
	}
	for _, n := range []uint32{uint32(48 + len(entries)), 1, 48, uint32(48 + len(entries))} {
		b = le.AppendUint32(b, n)
	}
	b = append(b, "identifier-of-it"...)
	b = le.AppendUint32(b, 3)      // the next nonce
	b = le.AppendUint32(b, 0x8004) // XTS-AES-128
	b = le.AppendUint64(b, 132000000000000000)
	return append(b, entries...)
}

// entry is size, type, value and version, and the rest.
func entry(typ, value uint16, data []byte) []byte {
	b := binary.LittleEndian.AppendUint16(nil, uint16(8+len(data)))
	for _, n := range []uint16{typ, value, 1} {
		b = binary.LittleEndian.AppendUint16(b, n)
	}
	return append(b, data...)
}

// stretched makes a key of a recovery key: 2²⁰ rounds of SHA-256.
func stretched(t testing.TB, recovery string, salt []byte) []byte {
	t.Helper()
	var half []byte
	for part := range strings.SplitSeq(recovery, "-") {
		n, err := strconv.Atoi(part)
		if err != nil || n%11 != 0 || n/11 > 65535 {
			t.Fatalf("%s is no recovery key", recovery)
		}
		half = binary.LittleEndian.AppendUint16(half, uint16(n/11))
	}
	first := sha256.Sum256(half)
	var state [88]byte // the last hash, the first, the salt, a counter
	copy(state[32:], first[:])
	copy(state[64:], salt)
	for i := range uint64(1 << 20) {
		binary.LittleEndian.PutUint64(state[80:], i)
		sum := sha256.Sum256(state[:])
		copy(state[:], sum[:])
	}
	return bytes.Clone(state[:32])
}

// wrapped seals a key with another one: nonce, tag, and the key with its size
// before it, by AES-CCM.
func wrapped(t testing.TB, with, key []byte, number byte) []byte {
	t.Helper()
	block, err := aes.NewCipher(with)
	if err != nil {
		t.Fatal(err)
	}
	plain := entry(0, 1, append([]byte{4, 0x80, 0, 0}, key...))
	nonce := append(make([]byte, 11), number)
	tag, sealed := ccm(block, nonce, plain)
	return append(append(nonce, tag...), sealed...)
}

// ccm is AES-CCM with a nonce of 12 bytes and a tag of 16; RFC 3610.
func ccm(block cipher.Block, nonce, plain []byte) (tag, sealed []byte) {
	counter := func(n byte) []byte { return append(append([]byte{2}, nonce...), 0, 0, n) }
	mac := append(append([]byte{0x3a}, nonce...), 0, byte(len(plain)>>8), byte(len(plain)))
	block.Encrypt(mac, mac)
	for at := 0; at < len(plain); at += 16 {
		part := make([]byte, 16)
		copy(part, plain[at:])
		for i := range mac {
			mac[i] ^= part[i]
		}
		block.Encrypt(mac, mac)
	}
	sealed = make([]byte, len(plain))
	cipher.NewCTR(block, counter(1)).XORKeyStream(sealed, plain)
	tag = make([]byte, 16)
	cipher.NewCTR(block, counter(0)).XORKeyStream(tag, mac)
	return tag, sealed
}
