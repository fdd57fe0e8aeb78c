package main

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"lukechampine.com/blake3"

	"github.com/backstay/backstay/internal/tier/raw"
	"github.com/backstay/backstay/internal/tier/vault/chunk"
)

const (
	// sampleBytes is how much of an image the primitives are measured on.
	sampleBytes = 512 * mib
	// passes are made over the sample; the fastest counts.
	passes = 3
)

// sample picks windows of 1 MiB that are spread evenly over what of an image is
// no hole, up to limit bytes.
func sample(path string, limit int64) (windows []int64, data int64, err error) {
	var all []int64
	err = eachData(path, func(r dataRun) error {
		data += r.to - r.from
		for at := (r.from + mib - 1) / mib * mib; at+mib <= r.to; at += mib {
			all = append(all, at)
		}
		return nil
	})
	if err == nil && len(all) == 0 {
		err = fmt.Errorf("%s holds no run of 1 MiB", path)
	}
	step := max(1, float64(len(all))/float64(limit/mib))
	for i := 0.0; int(i) < len(all); i += step {
		windows = append(windows, all[int(i)])
	}
	return windows, data, err
}

// primitive is one step that is done to the i-th piece of the sample.
type primitive struct {
	name string
	fn   func(i int) error
}

func newGCM(key []byte) (cipher.AEAD, error) {
	blocks, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(blocks)
}

// measurePrimitives measures on all cores, on a sample of the image, what a first
// backup cannot do without: read, hash, compress, seal and write. The limit is
// what they allow one after the other on the cores there are.
func measurePrimitives(ctx context.Context, t task) (map[string]float64, error) {
	windows, data, err := sample(t.Image, sampleBytes)
	if err != nil {
		return nil, err
	}
	m, err := raw.Open(t.Image)
	if err != nil {
		return nil, err
	}
	defer func() { _ = m.Close() }()
	plain, packed := make([][]byte, len(windows)), make([][]byte, len(windows))
	for i := range plain {
		plain[i] = make([]byte, mib)
	}
	key := make([]byte, 32)
	_, _ = rand.Read(key) // never fails (crypto/rand)
	gcm, err := newGCM(key)
	if err != nil {
		return nil, err
	}
	steps := []primitive{
		{"read", func(i int) error { _, err := m.ReadAt(plain[i], windows[i]); return err }},
		{"hash", func(i int) error {
			h := blake3.New(32, key)
			_, err := h.Write(plain[i])
			h.Sum(nil)
			return err
		}},
		{"compress", func(i int) (err error) { packed[i], err = chunk.Encode(packed[i][:0], plain[i]); return }},
		{"seal", func(i int) error {
			var nonce [12]byte
			binary.BigEndian.PutUint64(nonce[4:], uint64(i))
			packed[i] = gcm.Seal(packed[i][:0], nonce[:], packed[i], nil)
			return nil
		}},
	}
	said := map[string]float64{"data": float64(data), "sample": float64(len(windows)) * mib}
	var perByte float64 // seconds for each byte of the image
	for _, s := range steps {
		took, err := fastest(ctx, len(windows), s.fn)
		if err != nil {
			return nil, err
		}
		said[s.name] = said["sample"] / took / mib
		perByte += took / said["sample"]
	}
	var stored int64
	for _, p := range packed {
		stored += int64(len(p)) - passes*int64(gcm.Overhead()) // each pass sealed what the one before had
	}
	took, err := writePacks(ctx, t.Out, packed)
	if err != nil {
		return nil, err
	}
	said["ratio"] = said["sample"] / float64(stored)
	said["write"] = float64(stored) / took / mib
	perByte += took / said["sample"]
	said["limit"] = perByte * float64(data)
	return said, nil
}

// fastest runs fn for each of n pieces on all cores, several times over, and
// returns the shortest time in seconds.
func fastest(ctx context.Context, n int, fn func(i int) error) (float64, error) {
	best := math.Inf(1)
	for range passes {
		var next atomic.Int64
		var wait sync.WaitGroup
		errs := make([]error, runtime.GOMAXPROCS(0))
		start := time.Now()
		for w := range errs {
			wait.Go(func() {
				for i := int(next.Add(1)) - 1; i < n && errs[w] == nil; i = int(next.Add(1)) - 1 {
					errs[w] = errors.Join(ctx.Err(), fn(i))
				}
			})
		}
		wait.Wait()
		best = min(best, time.Since(start).Seconds())
		if err := errors.Join(errs...); err != nil {
			return 0, err
		}
	}
	return best, nil
}

// writePacks writes everything in files of about 16 MiB, each of them synced, and
// returns the shortest time.
func writePacks(ctx context.Context, dir string, pieces [][]byte) (float64, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return 0, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	var packs [][]byte
	for _, p := range pieces {
		if n := len(packs); n == 0 || len(packs[n-1])+len(p) > 16*mib {
			packs = append(packs, make([]byte, 0, 16*mib))
		}
		packs[len(packs)-1] = append(packs[len(packs)-1], p...)
	}
	return fastest(ctx, len(packs), func(i int) error {
		f, err := os.CreateTemp(dir, "pack-")
		if err != nil {
			return err
		}
		_, err = f.Write(packs[i])
		return errors.Join(err, f.Sync(), f.Close())
	})
}
