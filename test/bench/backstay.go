package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
)

// backstay measures the table's row of this project, with one copy.
func (b *bench) backstay(ctx context.Context) error {
	dir := b.path("vault1")
	if b.want("first") || !b.hasPoint(dir, "first") {
		if err := b.create(ctx, dir, 1); err != nil {
			return err
		}
		if err := b.task(ctx, "backstay/first", task{Op: "backup", Vault: dir, Point: "first", Image: b.path("base.raw")}); err != nil {
			return err
		}
	}
	if b.want("second") || !b.hasPoint(dir, "second") {
		if err := b.withoutMap(ctx, dir); err != nil {
			return err
		}
		err := b.task(ctx, "backstay/second", task{Op: "backup", Vault: dir, Point: "second", Parent: "first", Overlay: b.path("overlay.qcow2")})
		if err != nil {
			return err
		}
	}
	if !b.want("restore") {
		return nil
	}
	return errors.Join(b.restored(ctx, "backstay/restore", dir, "second", b.path("changed.raw")),
		b.restored(ctx, "backstay/restore-first", dir, "first", b.path("base.raw")))
}

// withoutMap backs the change up with a full compare, in a copy of the vault that
// has the first point only.
func (b *bench) withoutMap(ctx context.Context, dir string) error {
	if err := warm(ctx, b.path("changed.raw")); err != nil {
		return err
	}
	if b.hasPoint(dir, "second") { // from an earlier run: it would have everything
		return b.freshSecond(ctx, dir)
	}
	other := b.path("vault1-nomap")
	if err := os.RemoveAll(other); err != nil {
		return err
	}
	if err := cloneTree(dir, other); err != nil {
		return err
	}
	err := b.task(ctx, "backstay/second-nomap", task{Op: "backup", Vault: other, Point: "second", Parent: "first", Image: b.path("changed.raw")})
	return errors.Join(err, os.RemoveAll(other))
}

// freshSecond takes the vault back to its first point.
func (b *bench) freshSecond(ctx context.Context, dir string) error {
	if err := b.create(ctx, dir, 1); err != nil {
		return err
	}
	if _, err := b.quiet(ctx, task{Op: "backup", Vault: dir, Point: "first", Image: b.path("base.raw")}); err != nil {
		return err
	}
	return b.withoutMap(ctx, dir)
}

func (b *bench) create(ctx context.Context, dir string, copies int) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	_, err := b.quiet(ctx, task{Op: "create", Vault: dir, Copies: copies})
	return err
}

func (b *bench) hasPoint(dir, name string) bool {
	v, err := loadVault(dir)
	return err == nil && v.Points[name] != ""
}

func (b *bench) restored(ctx context.Context, name, dir, point, want string) error {
	out := b.path("restored.raw")
	if err := b.task(ctx, name, task{Op: "restore", Vault: dir, Point: point, Out: out}); err != nil {
		return err
	}
	return b.check(ctx, want, out)
}

// threeCopies is the same row with three copies, as a vault has by default.
func (b *bench) threeCopies(ctx context.Context) error {
	dir := b.path("vault3")
	if err := b.create(ctx, dir, 3); err != nil {
		return err
	}
	if err := warm(ctx, b.path("base.raw")); err != nil {
		return err
	}
	if err := b.task(ctx, "three/first", task{Op: "backup", Vault: dir, Point: "first", Image: b.path("base.raw")}); err != nil {
		return err
	}
	err := b.task(ctx, "three/second", task{Op: "backup", Vault: dir, Point: "second", Parent: "first", Overlay: b.path("overlay.qcow2")})
	if err != nil {
		return err
	}
	return errors.Join(b.restored(ctx, "three/restore", dir, "second", b.path("changed.raw")), os.RemoveAll(dir))
}

// ensure makes the vault with the first two points if an earlier run left none.
func (b *bench) ensure(ctx context.Context) (string, error) {
	dir := b.path("vault1")
	if b.hasPoint(dir, "second") {
		return dir, nil
	}
	b.logf("making the first two points")
	if err := b.create(ctx, dir, 1); err != nil {
		return dir, err
	}
	if _, err := b.quiet(ctx, task{Op: "backup", Vault: dir, Point: "first", Image: b.path("base.raw")}); err != nil {
		return dir, err
	}
	_, err := b.quiet(ctx, task{Op: "backup", Vault: dir, Point: "second", Parent: "first", Overlay: b.path("overlay.qcow2")})
	return dir, err
}

// chain is how far the increments have come, beside their image.
type chain struct{ Done int }

// increments makes further changes, each backed up with its map, and compares
// restoring the last point with restoring a first one of the same state.
func (b *bench) increments(ctx context.Context) error {
	from, err := b.ensure(ctx)
	if err != nil {
		return err
	}
	dir, image := b.path("vault-chain"), b.path("chain.raw")
	state, err := b.chainState(ctx, from, dir, image)
	if err != nil {
		return err
	}
	sum := figure{Said: map[string]float64{}}
	for ; state.Done < b.o.increment; state.Done++ {
		if err := b.increment(ctx, dir, image, state.Done, &sum); err != nil {
			return err
		}
	}
	if sum.Said["points"] > 0 {
		if err := b.record("backstay/increments", sum); err != nil {
			return err
		}
	}
	last := fmt.Sprintf("increment-%d", b.o.increment)
	if err := warm(ctx, image); err != nil {
		return err
	}
	if err := b.restored(ctx, "backstay/restore-increments", dir, last, image); err != nil {
		return err
	}
	fresh := b.path("vault-fresh")
	if err := b.create(ctx, fresh, 1); err != nil {
		return err
	}
	if err := b.task(ctx, "backstay/first-increments", task{Op: "backup", Vault: fresh, Point: "first", Image: image}); err != nil {
		return err
	}
	return errors.Join(b.restored(ctx, "backstay/restore-fresh", fresh, "first", image), os.RemoveAll(fresh), os.RemoveAll(dir),
		os.Remove(image), os.Remove(b.path("chain.json")))
}

// chainState takes up what an interrupted run left, or starts over.
func (b *bench) chainState(ctx context.Context, from, dir, image string) (chain, error) {
	var c chain
	data, err := os.ReadFile(b.path("chain.json"))
	if err == nil && json.Unmarshal(data, &c) == nil && b.hasPoint(dir, pointName(c.Done)) {
		return c, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return c, err
	}
	if err := os.RemoveAll(dir); err != nil {
		return c, err
	}
	if err := cloneTree(from, dir); err != nil {
		return c, err
	}
	return chain{}, tool(ctx, "cp", "--sparse=always", b.path("changed.raw"), image)
}

func pointName(done int) string {
	if done == 0 {
		return "second"
	}
	return fmt.Sprintf("increment-%d", done)
}

func (b *bench) increment(ctx context.Context, dir, image string, done int, sum *figure) error {
	ranges := b.path("chain-ranges.json")
	// A change that is under way belongs to no point: an interruption starts over.
	if err := os.Remove(b.path("chain.json")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	changed, err := b.quiet(ctx, b.change(image, ranges, done+2))
	if err != nil {
		return fmt.Errorf("make change %d: %w", done+2, err)
	}
	f, err := b.quiet(ctx, task{Op: "backup", Vault: dir, Point: pointName(done + 1), Parent: pointName(done), Image: image, Ranges: ranges})
	if err != nil {
		return err
	}
	b.logf("increment %2d: %.2f s, %d MiB changed, %d MiB added", done+1, f.Wall, int64(changed.Said["4k"])/mib, f.Added/mib)
	sum.Wall, sum.CPU, sum.RSS = sum.Wall+f.Wall, sum.CPU+f.CPU, max(sum.RSS, f.RSS)
	sum.Stored, sum.Added = f.Stored, sum.Added+f.Added
	sum.Said["points"]++
	sum.Said["changed"] += changed.Said["4k"]
	sum.Said["puts"] += f.Said["puts"]
	sum.Said["gets"] += f.Said["gets"]
	data, err := json.Marshal(chain{Done: done + 1})
	if err != nil {
		return err
	}
	return os.WriteFile(b.path("chain.json"), data, 0o644)
}

// reads measures what a live restore does: reads of 4 KiB out of a point.
func (b *bench) reads(ctx context.Context) error {
	dir, err := b.ensure(ctx)
	if err != nil {
		return err
	}
	if err := b.task(ctx, "backstay/cold", task{Op: "cold", Vault: dir, Point: "second", Parent: "first"}); err != nil {
		return err
	}
	qcow := b.path("local.qcow2")
	if err := tool(ctx, "qemu-img", "convert", "-f", "raw", "-O", "qcow2", b.path("changed.raw"), qcow); err != nil {
		return err
	}
	if err := b.task(ctx, "qemu/warm", task{Op: "warm-qemu", Vault: dir, Point: "second", Image: qcow}); err != nil {
		return err
	}
	err = b.task(ctx, "backstay/warm", task{Op: "warm", Vault: dir, Point: "second", Out: b.o.dir})
	return errors.Join(err, os.Remove(qcow))
}

func (b *bench) plan(ctx context.Context) error {
	dir := b.path("plan")
	err := b.task(ctx, "backstay/plan", task{Op: "plan", Out: dir})
	return errors.Join(err, os.RemoveAll(dir))
}

// index measures the index at growing numbers of chunks: 100 million at last, or
// what becomes a smaller image.
func (b *bench) index(ctx context.Context) error {
	dir := b.path("index")
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	whole := min(indexChunks, indexChunks*b.o.gib/8)
	have := int64(0)
	for _, n := range []int64{whole / 100, whole / 10, whole} {
		name := fmt.Sprintf("index/%d", n)
		if err := b.task(ctx, name+"/make", task{Op: "index-make", Out: dir, Step: int(have), Bytes: n}); err != nil {
			return err
		}
		if err := b.task(ctx, name+"/open", task{Op: "index-open", Out: dir, Bytes: n}); err != nil {
			return err
		}
		have = n
	}
	b.results.Figures["index"] = figure{Said: map[string]float64{"chunks": float64(whole)}}
	return errors.Join(b.results.save(), os.RemoveAll(dir))
}

func (b *bench) sweepAll(ctx context.Context) error {
	f, err := worker(ctx, b.o.dir, task{Op: "sweep", Image: b.path("base.raw"), Overlay: b.path("changed.raw"), Ranges: b.path("ranges.json")})
	if err != nil {
		return err
	}
	f.Note = fmt.Sprintf("one of %d cores", runtime.NumCPU())
	return b.results.put("sweep", f, false)
}
