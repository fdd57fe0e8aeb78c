package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"strconv"
	"syscall"
	"time"
)

// The marks of order: a number goes to one of several places far enough apart
// that each is in a cluster of its own.
const (
	orderSlots  = 16
	orderStride = 256 << 10
)

// order writes 1, 2, 3 … to the first file, waits until that is durable, and then
// the same to the second. At any instant the second has what the first has, or
// one less. It goes on from what it finds.
func order(paths []string) error {
	if len(paths) != 2 {
		return errUsage
	}
	var files [2]*os.File
	var last uint64
	for i, path := range paths {
		file, err := direct(path)
		if err != nil {
			return err
		}
		defer file.Close()
		newest, err := newestMark(file)
		if err != nil {
			return err
		}
		files[i], last = file, max(last, newest)
	}
	buf, err := aligned(block)
	if err != nil {
		return err
	}
	for n := last + 1; ; n++ {
		binary.BigEndian.PutUint64(buf, n)
		copy(buf[8:], fmt.Sprintf("mark %d\n", n))
		for _, file := range files {
			if _, err := file.WriteAt(buf, int64(n%orderSlots)*orderStride); err != nil {
				return err
			}
			if err := syscall.Fdatasync(int(file.Fd())); err != nil {
				return err
			}
		}
	}
}

func newestMark(file *os.File) (uint64, error) {
	buf, err := aligned(block)
	if err != nil {
		return 0, err
	}
	var newest uint64
	for i := range int64(orderSlots) {
		if _, err := file.ReadAt(buf, i*orderStride); err != nil {
			return 0, err
		}
		newest = max(newest, binary.BigEndian.Uint64(buf))
	}
	return newest, nil
}

// direct opens a file or device past the guest's page cache.
func direct(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_DIRECT, 0o644)
}

// aligned returns memory for direct reads and writes.
func aligned(size int) ([]byte, error) {
	return syscall.Mmap(-1, 0, size, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
}

// noise is content that nothing compresses, the same for the same seed.
type noise uint64

func (n *noise) next() uint64 {
	x := uint64(*n)
	x ^= x << 13
	x ^= x >> 7
	x ^= x << 17
	*n = noise(x)
	return x
}

func (n *noise) fill(buf []byte) {
	for i := 0; i+8 <= len(buf); i += 8 {
		binary.LittleEndian.PutUint64(buf[i:], n.next())
	}
}

func newNoise(seed int64) noise { return noise(uint64(seed)*0x9e3779b97f4a7c15 | 1) }

func numbers(words ...string) ([]int64, error) {
	var all []int64
	for _, word := range words {
		n, err := strconv.ParseInt(word, 10, 64)
		if err != nil {
			return nil, err
		}
		all = append(all, n)
	}
	return all, nil
}

func fill(args []string) error {
	if len(args) != 4 {
		return errUsage
	}
	n, err := numbers(args[1:]...)
	if err != nil {
		return err
	}
	file, err := direct(args[0])
	if err != nil {
		return err
	}
	defer file.Close()
	buf, err := aligned(1 << 20)
	if err != nil {
		return err
	}
	seed := newNoise(n[2])
	for at := n[0]; at < n[0]+n[1]; at += int64(len(buf)) {
		part := buf[:min(int64(len(buf)), n[0]+n[1]-at)]
		seed.fill(part)
		if _, err := file.WriteAt(part, at); err != nil {
			return err
		}
	}
	return syscall.Fdatasync(int(file.Fd()))
}

// write tells how many bytes a second can be written, past the guest's cache,
// in a region of a file or device.
func write(args []string) error {
	if len(args) < 4 {
		return errUsage
	}
	size := int64(block)
	if args[0] == "sequential" {
		size = 256 << 10
	}
	n, err := numbers(args[2])
	if err != nil {
		return err
	}
	seconds, err := strconv.ParseFloat(args[3], 64)
	if err != nil {
		return err
	}
	if len(args) > 4 {
		if size, err = strconv.ParseInt(args[4], 10, 64); err != nil {
			return err
		}
	}
	file, err := direct(args[1])
	if err != nil {
		return err
	}
	defer file.Close()
	buf, err := aligned(int(size))
	if err != nil {
		return err
	}
	random := newNoise(time.Now().UnixNano())
	random.fill(buf)
	begin, written, at := time.Now(), int64(0), int64(0)
	for time.Since(begin).Seconds() < seconds {
		if args[0] == "random" {
			at = int64(random.next()%uint64(n[0]/size)) * size
		}
		if _, err := file.WriteAt(buf, at); err != nil {
			return err
		}
		written += size
		at = (at + size) % (n[0] / size * size)
	}
	if err := syscall.Fdatasync(int(file.Fd())); err != nil {
		return err
	}
	fmt.Printf("%.0f\n", float64(written)/time.Since(begin).Seconds())
	return nil
}

// scatter writes 4 KiB at random places and prints how many different ones.
func scatter(args []string) error {
	if len(args) != 4 {
		return errUsage
	}
	n, err := numbers(args[1:]...)
	if err != nil {
		return err
	}
	file, err := direct(args[0])
	if err != nil {
		return err
	}
	defer file.Close()
	buf, err := aligned(block)
	if err != nil {
		return err
	}
	random, hit := newNoise(n[2]), map[int64]bool{}
	for range n[1] {
		at := int64(random.next() % uint64(n[0]/block))
		random.fill(buf[:64])
		if _, err := file.WriteAt(buf, at*block); err != nil {
			return err
		}
		hit[at] = true
	}
	fmt.Println(len(hit))
	return syscall.Fdatasync(int(file.Fd()))
}

// sum reads past the cache of a device by dropping it before.
func sum(paths []string) error {
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0o644); err != nil {
		return err
	}
	for _, path := range paths {
		file, err := os.Open(path)
		if err != nil {
			return err
		}
		digest := sha256.New()
		_, err = io.CopyBuffer(struct{ io.Writer }{digest}, struct{ io.Reader }{file}, bytes.Repeat([]byte{0}, 1<<20))
		file.Close()
		if err != nil {
			return err
		}
		fmt.Printf("%x\n", digest.Sum(nil))
	}
	return nil
}
