package recover

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/blob/replica"
	"github.com/backstay/backstay/internal/blob/unit"
	"github.com/backstay/backstay/internal/tier/vault"
)

// UnitState says what became of a storage unit that was given.
type UnitState string

// The states. Only what is in use counts as a copy.
const (
	UnitInUse UnitState = "in-use"
	UnitAway  UnitState = "away"
	UnitEmpty UnitState = "empty"
	UnitOther UnitState = "other-vault"
)

// Unit is a storage unit as it was given.
type Unit struct {
	URL   string
	Store blob.Store
}

// UnitReport is a storage unit as it was found.
type UnitReport struct {
	URL   string    `json:"url"`
	State UnitState `json:"state"`
	// Why says why the unit is not used, or what is odd about it.
	Why string `json:"why"`
	// Points is the number of manifests that the unit holds; Lacks of how many it
	// lacks although another unit in use has them.
	Points int `json:"points"`
	Lacks  int `json:"lacks"`
}

// Vault is a vault opened for recovery.
type Vault struct {
	vault  *vault.Vault
	name   backstay.VaultName
	id     string
	keyset backstay.Secret
	want   int // copies that its redundancy demands; 0 if not known
	units  []UnitReport
	used   []blob.Store
}

// readOnly is a store that cannot be written to: whatever the code above it
// does, recovery leaves the units as they are.
type readOnly struct{ blob.Store }

func (s readOnly) Put(context.Context, string, []byte) error {
	return fmt.Errorf("recover writes nothing: %w", blob.ErrReadOnly)
}

func (s readOnly) Delete(context.Context, string) error {
	return fmt.Errorf("recover removes nothing: %w", blob.ErrReadOnly)
}

// Describe passes the question on.
func (s readOnly) Describe(ctx context.Context) (blob.Place, error) {
	if d, ok := s.Store.(blob.Describer); ok {
		return d.Describe(ctx)
	}
	return blob.Place{Available: -1}, nil
}

// signs tell a folder that holds a copy from one at which nothing is mounted. The
// storage unit's own mark is not asked for: whoever copied a bucket into a folder,
// or a folder without its hidden files, has a copy all the same.
var signs = []string{"vault.json", "headers", "points", "packs"}

// OpenURLs is Open of the storage units at these URLs. CodeUsage if a URL is none,
// or is given twice.
func OpenURLs(ctx context.Context, urls []string, key backstay.Secret, options ...vault.OpenOption) (*Vault, error) {
	var units []Unit
	for _, raw := range urls {
		clean, err := unit.Clean(raw)
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(units, func(u Unit) bool { return u.URL == clean }) {
			return nil, backstay.Errorf(backstay.CodeUsage, "the storage unit %s is given twice", clean).
				Becausef("it would count as two copies").Do("give each storage unit once")
		}
		s, err := unit.Options{Signs: signs}.Open(ctx, clean)
		if err != nil {
			return nil, err
		}
		units = append(units, Unit{URL: clean, Store: s})
	}
	return Open(ctx, units, key, options...)
}

// found is a unit with what its header claims.
type found struct {
	Unit
	report UnitReport
	claim  claim
	marked bool // it has a header that names a vault
}

// claim is what is read of a header before it can be authenticated. It decides
// nothing but which units are tried together.
type claim struct {
	ID         string              `json:"id"`
	Name       backstay.VaultName  `json:"name"`
	Redundancy backstay.Redundancy `json:"redundancy"`
}

// AsReplica opens what another region pushed, and was held there: its points are
// those whose manifests are there, whatever the vault's chain says of them.
func AsReplica() vault.OpenOption { return vault.AsReplica() }

// Open opens the vault of which the units hold copies, with an identity as
// vault.Unwrap takes it. Units that are away, empty, or hold another vault are
// left out and reported. CodeVaultAway if no unit can be reached, CodeUnknownVault
// if none holds a vault, CodeVaultKey if the key opens none of what they hold,
// CodeConflict if it opens two.
func Open(ctx context.Context, units []Unit, key backstay.Secret, options ...vault.OpenOption) (*Vault, error) {
	if len(units) == 0 {
		return nil, backstay.Errorf(backstay.CodeUsage, "no storage unit is named").
			Becausef("without a server only you know where the copies are").Do("say --unit URL, once for each copy that is left")
	}
	all := make([]*found, len(units))
	for i, u := range units {
		u.Store = readOnly{u.Store}
		all[i] = look(ctx, u)
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
	group, o, err := choose(ctx, all, key)
	if err != nil {
		return nil, err
	}
	v := &Vault{id: o.id, keyset: o.keyset, used: stores(group)}
	if v.vault, err = vault.Open(ctx, replica.New(v.used...), o.id, o.keyset, append(options, vault.CacheBytes(vault.ServingCache))...); err != nil {
		return nil, err
	}
	v.name = v.vault.Name()
	for _, f := range group {
		f.report.State = UnitInUse
		if f.marked {
			v.want = f.claim.Redundancy.Copies()
		}
	}
	for _, f := range all {
		if f.report.State == "" {
			f.report.State, f.report.Why = UnitOther, fmt.Sprintf("it holds the vault %s (%s)", f.claim.Name, f.claim.ID)
		}
	}
	compare(ctx, group)
	for _, f := range all {
		v.units = append(v.units, f.report)
	}
	return v, nil
}

// Close lets go of what the vault holds open.
func (v *Vault) Close() error { return v.vault.Close() }

// Name returns the vault's name.
func (v *Vault) Name() backstay.VaultName { return v.name }

// ID returns the vault's UUID.
func (v *Vault) ID() string { return v.id }

// Units returns what was found of each unit, in the order in which they were given.
func (v *Vault) Units() []UnitReport { return slices.Clone(v.units) }

// look reads what a unit says that it holds.
func look(ctx context.Context, u Unit) *found {
	f := &found{Unit: u, report: UnitReport{URL: u.URL}}
	data, err := u.Store.Get(ctx, "vault.json", 0, -1)
	switch {
	case err == nil:
		var header struct {
			Vault claim `json:"vault"`
		}
		if json.Unmarshal(data, &header) == nil && header.Vault.ID != "" {
			f.claim, f.marked = header.Vault, true
		} else {
			f.report.Why = "its vault.json is damaged"
		}
	case errors.Is(err, blob.ErrNotExist):
		holds, err := holdsObjects(ctx, u.Store)
		switch {
		case err != nil:
			f.report.State, f.report.Why = UnitAway, err.Error()
		case !holds:
			f.report.State, f.report.Why = UnitEmpty, "it holds nothing of a vault"
		default:
			f.report.Why = "its vault.json is gone"
		}
	default:
		f.report.State, f.report.Why = UnitAway, err.Error()
	}
	return f
}

// errEnough ends a listing.
var errEnough = errors.New("enough")

func holdsObjects(ctx context.Context, s blob.Store) (bool, error) {
	err := s.List(ctx, "", func(blob.Info) error { return errEnough })
	if errors.Is(err, errEnough) {
		return true, nil
	}
	return false, err
}

// opened is what the key opened.
type opened struct {
	id     string
	keyset backstay.Secret
}

// choose returns the units of the one vault that the key opens. Units whose
// header is gone or damaged are tried with each: what they hold is bound to its
// vault, so they can serve nothing of another one (I4).
func choose(ctx context.Context, all []*found, key backstay.Secret) ([]*found, opened, error) {
	groups := map[string][]*found{}
	var order, without []string
	for _, f := range all {
		switch {
		case f.report.State != "":
			without = append(without, fmt.Sprintf("%s: %s", f.URL, f.report.Why))
		case f.marked && groups[f.claim.ID] == nil:
			order = append(order, f.claim.ID)
			fallthrough
		default:
			groups[f.claim.ID] = append(groups[f.claim.ID], f)
		}
	}
	headless := groups[""]
	if len(order) == 0 && len(headless) > 0 {
		order = []string{""}
	}
	if len(order) == 0 {
		return nil, opened{}, noUnit(all, without)
	}
	var best []*found
	var o opened
	var errs []error
	for _, claimed := range order {
		group := groups[claimed]
		if claimed != "" {
			group = slices.Concat(group, headless)
		}
		id, keyset, err := vault.Unwrap(ctx, replica.New(stores(group)...), key)
		switch {
		case err != nil:
			errs = append(errs, err)
		case best != nil:
			return nil, opened{}, backstay.Errorf(backstay.CodeConflict, "the storage units hold two vaults that this key opens").
				Becausef("%s and %s", o.id, id).Do("give the units of one vault")
		default:
			best, o = group, opened{id, keyset}
		}
	}
	if best == nil {
		return nil, opened{}, notOpened(errs, all)
	}
	return best, o, nil
}

func stores(group []*found) []blob.Store {
	var out []blob.Store
	for _, f := range group {
		out = append(out, f.Store)
	}
	return out
}

// noUnit says why there is nothing to open.
func noUnit(all []*found, why []string) error {
	for _, f := range all {
		if f.report.State == UnitAway {
			return backstay.Errorf(backstay.CodeVaultAway, "no vault can be reached in the storage units").
				Becausef("%s", strings.Join(why, "; ")).Do("mount or connect a storage unit that holds a copy, and see that it may be read")
		}
	}
	return backstay.Errorf(backstay.CodeUnknownVault, "there is no vault in the storage units").
		Becausef("%s", strings.Join(why, "; ")).Do("give the storage units that the vault had: folders with vault.json, buckets or containers")
}

// notOpened says why the key opened nothing. Of several vaults each is named.
func notOpened(errs []error, all []*found) error {
	if len(errs) == 1 {
		return errs[0]
	}
	for _, err := range errs {
		if !backstay.IsCode(err, backstay.CodeVaultKey) {
			return err
		}
	}
	var names []string
	for _, f := range all {
		if f.marked {
			names = append(names, fmt.Sprintf("%s holds %s", f.URL, f.claim.Name))
		}
	}
	return backstay.Errorf(backstay.CodeVaultKey, "the key opens none of the vaults that the storage units hold").
		Becausef("%s", strings.Join(names, ", "))
}

// compare counts what each unit lacks that another one has. A unit that cannot be
// listed is still read from.
func compare(ctx context.Context, group []*found) {
	union := map[string]bool{}
	held := make([]map[string]bool, len(group))
	for i, f := range group {
		held[i] = map[string]bool{}
		err := f.Store.List(ctx, "points/", func(info blob.Info) error {
			held[i][info.Name], union[info.Name] = true, true
			return nil
		})
		if err != nil {
			f.report.Why, held[i] = "it cannot be listed: "+err.Error(), nil
		}
	}
	for i, f := range group {
		if held[i] == nil {
			continue
		}
		f.report.Points, f.report.Lacks = len(held[i]), len(union)-len(held[i])
		if f.report.Lacks > 0 && f.report.Why == "" {
			f.report.Why = fmt.Sprintf("it is older, or was damaged: it lacks %d of %d points", f.report.Lacks, len(union))
		}
	}
}

// Warnings says what is not as it should be, in sentences: units that are not
// used, units that are behind, headers that could not be used, fewer copies than
// the vault was made for.
func (v *Vault) Warnings(ctx context.Context) []string {
	var out []string
	for _, u := range v.units {
		switch {
		case u.State != UnitInUse:
			out = append(out, fmt.Sprintf("storage unit %s is not used (%s): %s", u.URL, u.State, u.Why))
		case u.Why != "":
			out = append(out, fmt.Sprintf("storage unit %s: %s", u.URL, u.Why))
		}
	}
	if len(v.used) < v.want {
		out = append(out, fmt.Sprintf("%d of the %d copies of the vault %s are at hand", len(v.used), v.want, v.name))
	}
	return append(out, v.vault.Problems(ctx)...)
}
