package sandbox

import (
	"bytes"
	"context"
	"errors"
	"os"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/blob/mem"
)

// planned returns a world of which only the folder of faults exists.
func planned(t *testing.T) *World {
	t.Helper()
	w := &World{Dir: t.TempDir()}
	if err := os.Mkdir(w.faultsFolder(), 0o700); err != nil {
		t.Fatal(err)
	}
	return w
}

func TestAHeldStepWaitsUntilItIsReleased(t *testing.T) {
	w := planned(t)
	before := Faults(w.faultsFolder()).BeforeStep
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := w.PlanFault("hold-take"); err != nil {
		t.Fatal(err)
	}
	before(ctx, backstay.Job{}, "another")
	done := make(chan struct{})
	go func() {
		before(ctx, backstay.Job{}, "take")
		close(done)
	}()
	if err := w.AwaitFault(ctx, "hold-take"); err != nil {
		t.Fatal(err)
	}
	select {
	case <-done:
		t.Fatal("the step went on while it was held")
	default:
	}
	if err := w.LiftFault("hold-take"); err != nil {
		t.Fatal(err)
	}
	<-done
	if ctx.Err() != nil {
		t.Error("the step went on because of the deadline, not of the release")
	}
}

func TestACorruptedPutHitsOneObjectAndIsNoticed(t *testing.T) {
	w := planned(t)
	ctx := context.Background()
	unit := Faults(w.faultsFolder()).Unit("file:///copy1", mem.New())
	if err := w.PlanFault("corrupt-put"); err != nil {
		t.Fatal(err)
	}
	damaged := 0
	for _, name := range []string{"packs/a", "packs/b"} {
		if err := unit.Put(ctx, name, []byte("sound")); err != nil {
			t.Fatal(err)
		}
		got, err := unit.Get(ctx, name, 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, []byte("sound")) {
			damaged++
		}
	}
	if damaged != 1 {
		t.Errorf("%d objects are damaged, not one", damaged)
	}
	if err := w.AwaitFault(ctx, "corrupt-put"); err != nil {
		t.Error(err)
	}
}

func TestGetsAreCountedWhileTheyAreToBe(t *testing.T) {
	w := planned(t)
	unit := Faults(w.faultsFolder()).Unit("file:///copy1", mem.New())
	if err := unit.Put(t.Context(), "a", make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	get := func(offset, length int64) {
		t.Helper()
		if _, err := unit.Get(t.Context(), "a", offset, length); err != nil {
			t.Fatal(err)
		}
	}
	get(0, -1)
	if err := w.CountGets(); err != nil {
		t.Fatal(err)
	}
	get(0, -1)
	get(10, 7)
	if requests, size, err := w.Gets(); err != nil || requests != 2 || size != 1007 {
		t.Errorf("%d gets of %d bytes, %v", requests, size, err)
	}
	if _, _, err := w.Gets(); err == nil {
		t.Error("gets are told that were not counted")
	}
}

func TestSoManyPutsPassAndNoMore(t *testing.T) {
	w := planned(t)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	one, two := mem.New(), mem.New()
	faults := Faults(w.faultsFolder())
	if err := w.HoldAfterPuts(3); err != nil {
		t.Fatal(err)
	}
	put := func(unit blob.Store, name string) error { return unit.Put(ctx, name, []byte(name)) }
	first, second := faults.Unit("1", one), faults.Unit("2", two)
	if err := errors.Join(put(first, "points/a"), put(second, "points/a"), put(first, "packs/b")); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- put(second, "packs/b") }()
	if err := w.AwaitFault(ctx, afterPuts); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-done:
		t.Fatalf("a fourth put passed: %v", err)
	default:
	}
	if err := w.LiftFault(afterPuts); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := put(first, "packs/c"); err != nil {
		t.Error(err)
	}
}
