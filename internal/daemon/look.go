package daemon

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/tier/vault"
)

// CheckVault looks at every storage unit now and keeps what it found (I13).
func (v *vaults) CheckVault(ctx context.Context, name backstay.VaultName) (backstay.Vault, error) {
	entry, err := v.entry(ctx, name)
	if err != nil {
		return entry, err
	}
	seen := v.check(ctx, entry)
	opened, err := v.open(ctx, name)
	if err == nil {
		for _, url := range v.strangers(ctx, name, opened) {
			i := slices.IndexFunc(seen.Units, func(u backstay.StorageUnit) bool { return u.URL == url })
			if i >= 0 {
				seen.Units[i].State = otherVault
			}
		}
		err = errors.Join(v.witness(ctx, name, opened), opened.Close())
	}
	problem := ""
	if backstay.IsCode(err, backstay.CodeVaultRolledBack) || backstay.IsCode(err, backstay.CodeDamaged) {
		problem = err.Error()
	}
	err = v.change(ctx, name, func(now *backstay.Vault) bool {
		keepSeen(now, seen)
		now.Note = strings.TrimPrefix(strings.TrimSuffix(now.Note+"; "+problem, "; "), "; ")
		seen = *now
		return true
	})
	return seen, err
}

// keepSeen notes in a vault's row what a look at its units found, and nothing else:
// what they are to the vault may have changed meanwhile.
func keepSeen(now *backstay.Vault, seen backstay.Vault) {
	for i, u := range now.Units {
		for _, s := range seen.Units {
			if s.URL == u.URL {
				now.Units[i].State, now.Units[i].Device = s.State, s.Device
			}
		}
	}
	now.Checked = seen.Checked
	count(now)
}

// check asks each unit for its state and device.
func (v *vaults) check(ctx context.Context, entry backstay.Vault) backstay.Vault {
	var wg sync.WaitGroup
	entry.Units = slices.Clone(entry.Units)
	for i := range entry.Units {
		wg.Go(func() { entry.Units[i].State, entry.Units[i].Device = v.look(ctx, entry.Units[i].URL) })
	}
	wg.Wait()
	now := v.now().UTC()
	entry.Checked = &now
	count(&entry)
	return entry
}

// The states of units that answer and are no copy of the vault (I13): one holds
// another vault, one lacks even this one's header.
const otherVault, noCopy = "other-vault", backstay.NoCopy

// answers tells whether a unit of this state can be read.
func answers(state string) bool { return state == "ok" || state == "read-only" || state == "full" }

// count sums up the states of a vault's units. Copies counts those that answered and
// have everything, FailureDomains their different devices (architecture decision 12).
func count(entry *backstay.Vault) {
	devices := map[string]bool{}
	var notes []string
	entry.Copies = 0
	away, declared := 0, false
	for _, u := range entry.Units {
		switch {
		case u.State == otherVault:
			notes = append(notes, u.URL+" holds another vault")
		case !u.Standing.Whole():
			notes = append(notes, notWhole(u))
		case u.State == noCopy:
			notes = append(notes, u.URL+" holds no copy: verify the vault, and it is repaired")
		case answers(u.State):
			entry.Copies++
			devices[u.Device] = true
			declared = declared || u.Redundant
		default:
			away++
		}
	}
	entry.FailureDomains = len(devices)
	if away > 0 {
		notes = append(notes, fmt.Sprintf("%d of %d copies cannot be reached", away, max(len(entry.Units), 1)))
	}
	if entry.FailureDomains < entry.Copies {
		notes = append(notes, fmt.Sprintf("the %d copies are on %d device(s): the loss of one device can take several copies", entry.Copies, entry.FailureDomains))
	}
	if declared && entry.Copies < entry.Redundancy.Copies() {
		notes = append(notes, "one copy is here, on a storage unit that was declared to keep several by itself: nothing here can check that")
	}
	entry.Note = strings.Join(notes, "; ")
}

// notWhole says of a unit that has not everything what it is short of, and why.
func notWhole(u backstay.StorageUnit) string {
	since := ""
	if u.Since != nil {
		since = " since " + u.Since.UTC().Format(time.RFC3339)
	}
	if u.Standing == backstay.Joining {
		return u.URL + " is being filled" + since
	}
	why := ""
	if u.Why != "" {
		why = ": " + u.Why
	}
	return u.URL + " is recorded as lost" + since + why
}

// probeRoom is what a unit must have left to count as not full, in bytes.
const probeRoom = 64 << 20

// lookFor is how long a unit has to answer when its state is asked for.
const lookFor = 20 * time.Second

// look says what state a unit is in, and on which device it is.
func (u units) look(ctx context.Context, url string) (state, device string) {
	state, place := u.lookAt(ctx, url)
	return state, place.Device
}

func (u units) lookAt(ctx context.Context, url string) (string, blob.Place) {
	ctx, cancel := context.WithTimeout(ctx, lookFor)
	defer cancel()
	s, err := u.unit(ctx, url)
	if err != nil {
		return "unreachable", blob.Place{Available: -1}
	}
	return unitState(ctx, s)
}

func unitState(ctx context.Context, s blob.Store) (string, blob.Place) {
	unknown := blob.Place{Available: -1}
	_, err := s.Stat(ctx, "vault.json")
	if err != nil && !errors.Is(err, blob.ErrNotExist) {
		return "unreachable", unknown
	}
	empty := err != nil
	d, ok := s.(blob.Describer)
	if !ok {
		return "ok", unknown
	}
	place, err := d.Describe(ctx)
	switch {
	case err != nil:
		return "unreachable", unknown
	case empty:
		return noCopy, place
	case place.Available >= 0 && place.Available < probeRoom:
		return "full", place
	}
	return "ok", place
}

// strangers are the URLs of the units that hold another vault than the opened one.
func (v *vaults) strangers(ctx context.Context, name backstay.VaultName, opened *vault.Vault) []string {
	a, err := v.access(ctx, name)
	if err != nil {
		return nil
	}
	var urls []string
	for _, i := range opened.Strangers(ctx) {
		if i < len(a.Units) {
			urls = append(urls, a.Units[i])
		}
	}
	return urls
}
