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
)

// What a unit is to a vault stands in the catalogue, and nowhere else. Whoever
// changes it does so through changeUnits, after which whatever opens the vault uses
// the units as they are now. What opened it before goes on with those that it has:
// the chain and put-if-absent keep two writers with different units apart.

// changeUnits changes what a vault's units are to it, or its redundancy, and lets
// everything that opens the vault from now on know. The order of the units never
// changes, and new ones come last: the first that two writers share decides between
// them.
func (v *vaults) changeUnits(ctx context.Context, name backstay.VaultName, change func(*backstay.Vault) error) (backstay.Vault, error) {
	var before, after backstay.Vault
	var refused error
	err := v.change(ctx, name, func(entry *backstay.Vault) bool {
		changed := *entry
		changed.Units = slices.Clone(entry.Units)
		if refused = change(&changed); refused != nil {
			return false
		}
		count(&changed)
		before, after = *entry, changed
		*entry = changed
		return true
	})
	v.forget(name)
	same := slices.EqualFunc(before.Units, after.Units, func(a, b backstay.StorageUnit) bool { return a.URL == b.URL && a.Standing == b.Standing })
	if refused != nil || err != nil || same {
		return after, errors.Join(refused, err)
	}
	return after, v.catalog.Health.ChangeVaultHealth(ctx, name, func(h *backstay.VaultHealth) error {
		moveHealth(h, before.Units, after.Units)
		return nil
	})
}

const (
	// lostTries is how often a unit is asked before it is recorded as lost (I5).
	lostTries = 4
	// askFor is how long it has to answer each time.
	askFor = 5 * time.Second
)

// lostPause lies between two tries. Tests are less patient.
var lostPause = 1500 * time.Millisecond

// recordLost asks every written unit of a vault, and records as lost those that do
// not answer in a few tries, as long as one that has everything answers. It
// returns the vault as it is then, and what to tell people of each that was
// recorded.
func (v *vaults) recordLost(ctx context.Context, name backstay.VaultName) (backstay.Vault, []string, error) {
	entry, err := v.entry(ctx, name)
	if err != nil {
		return entry, nil, err
	}
	away := v.away(ctx, entry.Written())
	if len(away) == 0 || ctx.Err() != nil {
		return entry, nil, ctx.Err()
	}
	whole := slices.DeleteFunc(entry.Whole(), func(url string) bool { return away[url] != nil })
	if len(whole) == 0 {
		return entry, nil, nil // nothing to go on with, and nothing is known to be lost
	}
	var told []string
	now := v.now().UTC()
	entry, err = v.changeUnits(ctx, name, func(entry *backstay.Vault) error {
		told = nil
		for i, u := range entry.Units {
			cause := away[u.URL]
			if cause == nil || !u.Standing.Written() {
				continue
			}
			entry.Units[i].Standing, entry.Units[i].Since, entry.Units[i].Why = backstay.Behind, &now, oneLine(cause)
			entry.Units[i].State = "unreachable"
			told = append(told, fmt.Sprintf("storage unit %s of vault %s does not answer and is recorded as lost: %s", u.URL, name, oneLine(cause)))
		}
		if len(entry.Whole()) == 0 {
			return backstay.Errorf(backstay.CodeVaultAway, "no storage unit of vault %s that has everything is left", name)
		}
		return nil
	})
	if err != nil {
		return entry, nil, err
	}
	return entry, told, nil
}

// lostMeanwhile is recordLost for whoever was in the middle of a write that failed.
func (v *vaults) lostMeanwhile(ctx context.Context, name backstay.VaultName) ([]string, error) {
	_, told, err := v.recordLost(ctx, name)
	if v.onLost != nil && len(told) > 0 {
		v.onLost(told)
	}
	return told, err
}

func oneLine(err error) string { return strings.Join(strings.Fields(err.Error()), " ") }

// away asks units, all at once, and returns why those that never answered did not.
func (u units) away(ctx context.Context, urls []string) map[string]error {
	var mu sync.Mutex
	away := map[string]error{}
	var wg sync.WaitGroup
	for _, url := range urls {
		wg.Go(func() {
			if err := u.askFor(ctx, url); err != nil {
				mu.Lock()
				away[url] = err
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return away
}

// askFor asks a unit for its header until it answers. That it lacks the header, or
// refuses to be written, is an answer.
func (u units) askFor(ctx context.Context, url string) error {
	var last error
	for try := range lostTries {
		if try > 0 {
			select {
			case <-ctx.Done():
				return nil // nobody can tell
			case <-time.After(lostPause):
			}
		}
		if last = u.ask(ctx, url); last == nil {
			return nil
		}
	}
	if ctx.Err() != nil {
		return nil
	}
	return last
}

func (u units) ask(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, askFor)
	defer cancel()
	s, err := u.unit(ctx, url)
	if err != nil {
		return err
	}
	if _, err = s.Stat(ctx, "vault.json"); errors.Is(err, blob.ErrNotExist) {
		return nil
	}
	return err
}

// unitsLost enters into the log and the audit log that units were recorded as lost.
func (r *region) unitsLost(told []string) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for _, what := range told {
		r.log.Warn("a storage unit is recorded as lost", "what", what)
		entry := backstay.AuditEntry{Time: utcNow(), User: scheduler, Action: "record a storage unit as lost", Target: what, Outcome: "ok"}
		if err := r.catalog.Audit.Append(ctx, entry); err != nil {
			r.log.Error("audit entry lost", "error", err, "action", entry.Action)
		}
	}
}
