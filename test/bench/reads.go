package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
	"github.com/backstay/backstay/internal/hypervisor/qemu"
	"github.com/backstay/backstay/internal/nbd"
	"github.com/backstay/backstay/internal/tier"
	"github.com/backstay/backstay/internal/tier/vault"
)

const (
	// coldReadCount is how many first reads are made, each of a vault that was
	// just opened.
	coldReadCount = 24
	// warmRegion is the working set of the warm reads.
	warmRegion = 64 * mib
	// readTime is how long each rate of reads is measured.
	readTime = 2 * time.Second
)

// dataBlocks returns the offsets of blocks of a disk that are no zeros.
func dataBlocks(m tier.Image) ([]int64, error) {
	extents, err := m.Extents(0, m.Size())
	if err != nil {
		return nil, err
	}
	var at []int64
	for _, e := range extents {
		for o := (e.Offset + block - 1) / block * block; !e.Zero && o+block <= e.End(); o += block {
			at = append(at, o)
		}
	}
	if len(at) == 0 {
		return nil, errors.New("the disk holds no data")
	}
	return at, nil
}

// coldReads counts what the first read out of a point asks of the store: the vault
// is open and another of its points was opened, and nothing of this one is known.
func coldReads(ctx context.Context, t task) (map[string]float64, error) {
	bv, v, _, err := t.open(ctx)
	if err != nil {
		return nil, err
	}
	blocks, err := pointBlocks(ctx, v, bv.Points[t.Point])
	if err != nil {
		return nil, err
	}
	r := rand.New(rand.NewPCG(7, 7))
	said := map[string]float64{}
	for range coldReadCount {
		_, v, meter, err := t.open(ctx)
		if err != nil {
			return nil, err
		}
		if _, err := v.OpenPoint(ctx, bv.Points[t.Parent]); err != nil {
			return nil, err
		}
		kinds, requests, bytes, start := meter.byKind(), meter.requests(), meter.readBytes.Load(), time.Now()
		p, err := v.OpenPoint(ctx, bv.Points[t.Point])
		if err != nil {
			return nil, err
		}
		m, err := p.Disk(ctx, "vda")
		if err != nil {
			return nil, err
		}
		if _, err := m.ReadAt(make([]byte, block), blocks[r.IntN(len(blocks))]); err != nil {
			return nil, err
		}
		took := time.Since(start).Seconds()
		n, size := float64(meter.requests()-requests), float64(meter.readBytes.Load()-bytes)
		said["requests"], said["bytes"] = max(said["requests"], n), max(said["bytes"], size)
		said["seconds"] += took / coldReadCount
		for kind, n := range meter.byKind() {
			said["of "+kind] = max(said["of "+kind], float64(n-kinds[kind]))
		}
	}
	return said, nil
}

// region picks the stretch of 64 MiB with the most data, so that both servers
// have the same working set.
func region(blocks []int64) (from, to int64) {
	counts := map[int64]int{}
	best := int64(0)
	for _, o := range blocks {
		if counts[o/warmRegion]++; counts[o/warmRegion] > counts[best] {
			best = o / warmRegion
		}
	}
	return best * warmRegion, (best + 1) * warmRegion
}

// rates measures random reads of 4 KiB at queue depths 1 and 16.
func rates(ctx context.Context, c *nbd.Client, name string, blocks []int64) (map[string]float64, error) {
	said := map[string]float64{}
	for _, depth := range []int{1, 16} {
		n, err := rate(ctx, c, depth, blocks)
		if err != nil {
			return nil, err
		}
		said[fmt.Sprintf("%s%d", name, depth)] = n
	}
	return said, nil
}

func rate(ctx context.Context, c *nbd.Client, depth int, blocks []int64) (float64, error) {
	counts, errs := make([]int, depth), make([]error, depth)
	start := time.Now()
	var wait sync.WaitGroup
	for i := range depth {
		wait.Go(func() {
			r := rand.New(rand.NewPCG(uint64(i), 3))
			buf := make([]byte, block)
			for time.Since(start) < readTime && errs[i] == nil {
				_, err := c.ReadAt(buf, blocks[r.IntN(len(blocks))])
				errs[i] = errors.Join(ctx.Err(), err)
				counts[i]++
			}
		})
	}
	wait.Wait()
	sum := 0
	for _, n := range counts {
		sum += n
	}
	return float64(sum) / time.Since(start).Seconds(), errors.Join(errs...)
}

// warmReads serves a disk of a point by NBD and reads it: blocks of one region
// that was read before, then blocks from anywhere.
func warmReads(ctx context.Context, t task) (map[string]float64, error) {
	bv, v, meter, err := t.open(ctx, vault.CacheBytes(vault.ServingCache))
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	p, err := v.OpenPoint(ctx, bv.Points[t.Point])
	if err != nil {
		return nil, err
	}
	m, err := p.Disk(ctx, "vda")
	if err != nil {
		return nil, err
	}
	blocks, err := dataBlocks(m)
	if err != nil {
		return nil, err
	}
	socket := filepath.Join(t.Out, "bench.sock")
	l, err := nbd.ListenUnix(socket)
	if err != nil {
		return nil, err
	}
	served := make(chan error, 1)
	go func() { served <- nbd.Serve(ctx, l, nbd.Export{Name: "disk", Size: m.Size(), Content: m}) }()
	c, err := nbd.Dial(ctx, socket, "disk", nbd.Options{})
	if err != nil {
		stop()
		return nil, errors.Join(err, <-served)
	}
	said, err := warmAndUncached(ctx, c, blocks, meter)
	err = errors.Join(err, c.Close())
	stop()
	return said, errors.Join(err, <-served)
}

func warmAndUncached(ctx context.Context, c *nbd.Client, blocks []int64, meter *metered) (map[string]float64, error) {
	said, err := warmRates(ctx, c, blocks)
	if err != nil || meter == nil {
		return said, err
	}
	requests := meter.requests()
	uncached, err := rates(ctx, c, "uncached", blocks)
	if err != nil {
		return nil, err
	}
	said["uncached1"], said["uncached16"] = uncached["uncached1"], uncached["uncached16"]
	reads := (uncached["uncached1"] + uncached["uncached16"]) * readTime.Seconds()
	said["requestsPerRead"] = float64(meter.requests()-requests) / reads
	return said, nil
}

// warmRates reads the region once, and then measures reads of it.
func warmRates(ctx context.Context, c *nbd.Client, blocks []int64) (map[string]float64, error) {
	from, to := region(blocks)
	var inside []int64
	for _, o := range blocks {
		if o >= from && o < to {
			inside = append(inside, o)
		}
	}
	buf := make([]byte, mib)
	for at := from; at < min(to, c.Size()); at += mib {
		if _, err := c.ReadAt(buf[:min(mib, c.Size()-at)], at); err != nil {
			return nil, err
		}
	}
	said, err := rates(ctx, c, "warm", inside)
	if said != nil {
		said["set"] = float64(len(inside)) * block
	}
	return said, err
}

// warmReadsQEMU does the same with qemu-nbd on a local qcow2 of the same disk.
func warmReadsQEMU(ctx context.Context, t task) (map[string]float64, error) {
	bv, v, _, err := t.open(ctx)
	if err != nil {
		return nil, err
	}
	blocks, err := pointBlocks(ctx, v, bv.Points[t.Point])
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(t.Image); err != nil {
		return nil, err
	}
	m, err := exported(ctx, qemu.New(qemu.Options{}), t.Image, hypervisor.ExportOptions{Format: "qcow2"})
	if err != nil {
		return nil, err
	}
	said, err := warmRates(ctx, m.Client, blocks)
	return said, errors.Join(err, m.Close())
}

func pointBlocks(ctx context.Context, v *vault.Vault, id backstay.PointID) ([]int64, error) {
	p, err := v.OpenPoint(ctx, id)
	if err != nil {
		return nil, err
	}
	m, err := p.Disk(ctx, "vda")
	if err != nil {
		return nil, err
	}
	return dataBlocks(m)
}
