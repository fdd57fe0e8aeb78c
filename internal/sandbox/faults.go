package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/blob"
)

// FaultsEnv names the environment variable with the folder of faults. A server
// or mover that the sandbox started looks there before each step of a job and
// each call to a storage unit:
//
//	hold-STEP      the job waits before the step for as long as the file is there
//	hold-frozen    a guest that is frozen stays so, before its disks are switched
//	hold-put       puts of packs wait
//	hold-after-puts  holds a number: so many puts of any object to any unit pass, the
//	               others wait
//	hold-get       gets of packs wait
//	hold-content   gets of packs wait if they bring much disk content
//	away           every get of a pack fails: the unit does not answer
//	corrupt-put    the next pack is changed on its way, in one copy; the file goes
//	full           every put fails: no room
//	read-only      every put fails: not writable
//	count-gets     every get adds a line with the bytes that it brought
//
// "at-NAME" appears beside a file when somebody waits at it or was hit by it.
const FaultsEnv = "BACKSTAY_SANDBOX_FAULTS"

// Faults is a folder of faults; the empty one has none. Its methods BeforeStep,
// Held and Unit are the hooks of a server or mover.
//
// They are given to it by cmd/sandbox rather than here, so that tests of what
// the server consists of can use the sandbox without importing themselves.
type Faults string

// EnvironmentFaults returns the faults of the world that started this process.
func EnvironmentFaults() Faults { return Faults(os.Getenv(FaultsEnv)) }

// BeforeStep waits while the step of a job is to be held.
func (f Faults) BeforeStep(ctx context.Context, _ backstay.Job, step string) {
	if f != "" {
		_ = f.hold(ctx, "hold-"+step)
	}
}

// Held waits while a guest is to stay frozen or paused.
func (f Faults) Held(ctx context.Context, _ backstay.VMID) {
	if f != "" {
		_ = f.hold(ctx, "hold-frozen")
	}
}

// Unit returns the storage unit with the faults.
func (f Faults) Unit(_ string, s blob.Store) blob.Store {
	if f == "" {
		return s
	}
	return &faultyUnit{s, f}
}

func (f Faults) planned(name string) bool {
	_, err := os.Stat(filepath.Join(string(f), name))
	return err == nil
}

// hit notes that a planned fault was met, so that a test can see that it was.
func (f Faults) hit(name string) {
	_ = os.WriteFile(filepath.Join(string(f), "at-"+name), nil, 0o600)
}

// take removes a planned fault that is to happen once; true for one caller.
func (f Faults) take(name string) bool {
	err := os.Rename(filepath.Join(string(f), name), filepath.Join(string(f), "at-"+name))
	return err == nil
}

// hold waits while the fault is planned.
func (f Faults) hold(ctx context.Context, name string) error {
	for f.planned(name) {
		f.hit(name)
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(20 * time.Millisecond):
		}
	}
	return nil
}

// faultyUnit is a storage unit that meets the planned faults.
type faultyUnit struct {
	blob.Store
	faults Faults
}

// muchContent is more than what a get of tables brings, in bytes.
const muchContent = 512 << 10

func isPack(name string) bool { return strings.HasPrefix(name, "packs/") }

// Put implements blob.Store.
func (u *faultyUnit) Put(ctx context.Context, name string, data []byte) error {
	switch {
	case u.faults.planned("full"):
		u.faults.hit("full")
		return fmt.Errorf("put %s: %w", name, blob.ErrFull)
	case u.faults.planned("read-only"):
		u.faults.hit("read-only")
		return fmt.Errorf("put %s: %w", name, blob.ErrReadOnly)
	}
	if !u.faults.counted() {
		if err := u.faults.hold(ctx, afterPuts); err != nil {
			return err
		}
	}
	if isPack(name) {
		if err := u.faults.hold(ctx, "hold-put"); err != nil {
			return err
		}
		if u.faults.take("corrupt-put") {
			changed := append([]byte(nil), data...)
			changed[len(changed)/3] ^= 0x20
			data = changed
		}
	}
	return u.Store.Put(ctx, name, data)
}

// Get implements blob.Store.
func (u *faultyUnit) Get(ctx context.Context, name string, offset, length int64) ([]byte, error) {
	if isPack(name) {
		if err := u.faults.hold(ctx, "hold-get"); err != nil {
			return nil, err
		}
		if u.faults.planned("away") {
			u.faults.hit("away")
			return nil, fmt.Errorf("get %s: %w", name, blob.ErrAway)
		}
	}
	if isPack(name) && length >= muchContent {
		if err := u.faults.hold(ctx, "hold-content"); err != nil {
			return nil, err
		}
	}
	data, err := u.Store.Get(ctx, name, offset, length)
	if err == nil {
		u.faults.got(len(data))
	}
	return data, err
}

// Describe implements blob.Describer.
func (u *faultyUnit) Describe(ctx context.Context) (blob.Place, error) {
	d, ok := u.Store.(blob.Describer)
	if !ok {
		return blob.Place{}, errors.New("the storage unit does not describe itself")
	}
	return d.Describe(ctx)
}

// Plan plans a fault.
func (f Faults) plan(name string) error {
	_ = os.Remove(filepath.Join(string(f), "at-"+name))
	return os.WriteFile(filepath.Join(string(f), name), nil, 0o600)
}

// lift takes a planned fault away; no error if it is not planned.
func (f Faults) lift(name string) error {
	err := os.Remove(filepath.Join(string(f), name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// wasHit tells whether somebody met the fault since it was planned.
func (f Faults) wasHit(name string) bool { return f.planned("at-" + name) }

// PlanFault plans a fault in the world's server and movers.
func (w *World) PlanFault(name string) error { return Faults(w.faultsFolder()).plan(name) }

// LiftFault takes it away.
func (w *World) LiftFault(name string) error { return Faults(w.faultsFolder()).lift(name) }

// AwaitFault waits until somebody met the fault.
func (w *World) AwaitFault(ctx context.Context, name string) error {
	for !Faults(w.faultsFolder()).wasHit(name) {
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for somebody to meet the fault %s: %w", name, context.Cause(ctx))
		case <-time.After(20 * time.Millisecond):
		}
	}
	return nil
}

func (w *World) faultsFolder() string { return filepath.Join(w.Dir, "faults") }
