package vault

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/tier/vault/chain"
	"github.com/backstay/backstay/internal/tier/vault/pack"
	"github.com/backstay/backstay/internal/tier/vault/point"
)

// scrubAhead is how many objects are looked at at once: each takes up to two
// packs' size of memory.
const scrubAhead = 2

// maxDamages is how many damages a scrub collects before it ends early, so that
// they are repaired and do not fill the memory.
const maxDamages = 10_000

// What is found of objects, in the product's words.
type (
	// CopyState says what was found of one object in one copy.
	CopyState = backstay.CopyState
	// Damage is an object that is not sound in every copy.
	Damage = backstay.Damage
	// CopyReport counts what a scrub found in one copy.
	CopyReport = backstay.CopyCount
)

// The states. Unreadable says nothing of the object (I5).
const (
	CopySound      = backstay.CopySound
	CopyMissing    = backstay.CopyMissing
	CopyDamaged    = backstay.CopyDamaged
	CopyUnreadable = backstay.CopyUnreadable
)

// ScrubReport is what a scrub found.
type ScrubReport struct {
	Copies  []CopyReport `json:"copies"`
	Damages []Damage     `json:"damages"`
	// Objects is the number of names that were looked at, Bytes what was read of
	// all copies.
	Objects int64 `json:"objects"`
	Bytes   int64 `json:"bytes"`
	// Unproved is how many of them no copy could show sound, and some copy could
	// not be read: nothing is known of them.
	Unproved int64 `json:"unproved"`
	// Next is where the next scrub goes on; "" if the end was reached.
	Next string `json:"next"`
}

// ScrubOptions describe a scrub. The zero value looks at everything.
type ScrubOptions struct {
	// From is the Next of an earlier scrub.
	From string
	// Budget ends the scrub once this many bytes were read; 0 for none.
	Budget int64
	// Points limits the scrub to what these points need, without the packs that
	// the points in Known need. From and Budget hold for it too.
	Points, Known []backstay.PointID
	// Expect are points that must be there: a manifest that is in no copy is lost,
	// and not dropped. Points are expected too.
	Expect []backstay.PointID
	// Suspects were found by an earlier part of the same round. They are looked
	// at again and are part of the report if they are still wrong.
	Suspects []Damage
	// Pace is called after each read with its length; it may wait.
	Pace func(ctx context.Context, bytes int) error
	// Progress is called from one goroutine now and then with the report so far,
	// which it must not keep; what is in it may turn out to be sound.
	// An error ends the scrub.
	Progress func(ScrubReport) error
}

// scrubber looks at the copies of a vault's objects one by one.
type scrubber struct {
	copies []blob.Store
	// check says whether the bytes of an object are right: nil, errNoWord, or
	// why not.
	check func(name string, data []byte) error
	// needsOf reads out of the bytes of a manifest which packs its point needs, and its root.
	needsOf func(id backstay.PointID, data []byte) ([]pack.ID, chain.Hash, error)
	// readMoves reads where the chunks of repacked packs are, and which points the
	// chain has; nil if there is no chain.
	readMoves func(context.Context) (*moves, map[backstay.PointID]chain.Hash, error)
	// lead, of a replica, returns which packs hold what a manifest refers to; nil: the
	// moves tell.
	lead func(context.Context) (func(point [16]byte, packs []pack.ID) []pack.ID, error)
	// certain are objects that must be there whatever the listings say.
	certain []string
	// header returns the bytes of the vault's newest header under its name; nil
	// of any other object, and without keys.
	header func(object string) []byte
	// superseded tells whether a wrapped key is not pinned any more, because the
	// vault's keys were changed since the scrub began; nil without keys.
	superseded func(ctx context.Context, object string) bool
	o          ScrubOptions
	needed     []pack.ID // of all points, sorted
	moves      *moves
	leads      func(point [16]byte, packs []pack.ID) []pack.ID // what lead returned
	// live are the points that the chain has; nil if nobody can tell.
	live map[backstay.PointID]chain.Hash
}

// Scrub looks at every object of the vault in every copy. One sound copy of each
// goes through the decoder, which decrypts, decompresses and names every chunk
// anew; the others must be the same bytes. A copy is only condemned after it
// read wrongly and alike three times (I5). Memory is bounded but for 16 bytes for
// each pack. The report is also good if an error ended the scrub; CodeVaultAway
// if no copy could be listed.
func (v *Vault) Scrub(ctx context.Context, o ScrubOptions) (ScrubReport, error) {
	return v.scrubber(o).run(ctx)
}

func (v *Vault) scrubber(o ScrubOptions) *scrubber {
	s := &scrubber{copies: v.copies, o: o, check: v.check, certain: v.certain()}
	s.header = func(object string) []byte {
		if object != headerName(v.opened.newest.Generation) {
			return nil
		}
		return v.opened.newest.data
	}
	s.readMoves = func(ctx context.Context) (*moves, map[backstay.PointID]chain.Hash, error) {
		if !v.chained() {
			return newMoves(), nil, nil
		}
		st, err := v.chain.Read(ctx)
		if err != nil {
			return nil, nil, err
		}
		m, err := readMoves(ctx, v.copies, st, v.decodeMoves)
		return m, st.Live, err
	}
	s.needsOf = func(id backstay.PointID, data []byte) ([]pack.ID, chain.Hash, error) {
		h, err := point.DecodeHeader(v.keys, id, data)
		return h.Packs, chain.Hash(h.Root), err
	}
	s.superseded = v.superseded
	if v.replica {
		if r, err := NewReplica(v.store, v.header.ID); err == nil {
			s.lead = r.lead
		}
	}
	return s
}

// ScrubKeyless is Scrub for whoever has no key: it finds every accident by the
// hashes that all objects carry in the clear. Against intent only the keys help.
func ScrubKeyless(ctx context.Context, s blob.Store, vaultID string, o ScrubOptions) (ScrubReport, error) {
	k, err := newKeyless(ctx, s, vaultID)
	if err != nil {
		return ScrubReport{}, err
	}
	return k.scrubber(o).run(ctx)
}

func (s *scrubber) run(ctx context.Context) (ScrubReport, error) {
	report := ScrubReport{Copies: make([]CopyReport, len(s.copies)), Damages: slices.Clone(s.o.Suspects), Next: s.o.From}
	for _, id := range slices.Concat(s.o.Expect, s.o.Points) {
		s.certain = append(s.certain, point.Object(id))
	}
	var err error
	if len(s.o.Points) > 0 {
		err = s.walkPoints(ctx, &report)
	} else if err = s.findNeeded(ctx); err == nil {
		err = s.walk(ctx, &report)
	}
	if err != nil && !errors.Is(err, errBudget) {
		return report, err
	}
	return report, s.assess(ctx, &report)
}

// errBudget ends a walk early.
var errBudget = errors.New("the budget of the scrub is used up")

// folders are where objects of a vault are, in the order of names. Packs are
// listed in 256 parts, so that a listing never takes much memory.
func folders() []string {
	all := []string{"chain/", filesFolder, "headers/", "indexes/", "keys/", "moved/"}
	for i := range 256 {
		all = append(all, fmt.Sprintf("packs/%02x/", i))
	}
	return append(all, "points/", "trash/", headerObject)
}

// walk looks at everything behind the cursor, folder after folder.
func (s *scrubber) walk(ctx context.Context, report *ScrubReport) error {
	for _, folder := range folders() {
		if folder < s.o.From && !strings.HasPrefix(s.o.From, folder) {
			continue
		}
		l, err := s.list(ctx, folder)
		if err != nil {
			return err
		}
		if err := s.visit(ctx, l, report); err != nil {
			return err
		}
	}
	report.Next = ""
	return nil
}

// listing is what the copies say that a folder holds.
type listing struct {
	names []string         // sorted
	away  []error          // for each copy why it could not be listed
	sizes map[string]int64 // the largest of all copies, of what is listed
}

// list joins the listings of all copies. A copy whose listing fails is not
// asked for the folder's objects: they are unreadable there. A listing is only
// where names come from; whether an object is there, only reading it tells (I6).
func (s *scrubber) list(ctx context.Context, folder string) (listing, error) {
	names := map[string]bool{}
	l := listing{away: make([]error, len(s.copies)), sizes: map[string]int64{}}
	failed := 0
	for i, c := range s.copies {
		l.away[i] = c.List(ctx, folder, func(info blob.Info) error {
			names[info.Name] = true
			l.sizes[info.Name] = max(l.sizes[info.Name], info.Size)
			return nil
		})
		if ctx.Err() != nil {
			return l, fmt.Errorf("scrub: %w", context.Cause(ctx))
		}
		if l.away[i] != nil {
			failed++
		}
	}
	if failed == len(s.copies) {
		return l, readError("the list of "+folder, l.away...)
	}
	for _, name := range s.certain {
		if strings.HasPrefix(name, folder) {
			names[name] = true
		}
	}
	for id := range s.live {
		if folder == "points/" {
			names[point.Object(id)] = true
		}
	}
	if strings.HasPrefix(folder, "packs/") {
		for _, id := range s.neededBelow(folder) {
			names[id.Object()] = true
		}
	}
	l.names = slices.Sorted(maps.Keys(names))
	return l, nil
}

// neededBelow returns the needed packs of a folder such as packs/3f/.
func (s *scrubber) neededBelow(folder string) []pack.ID {
	from, _ := slices.BinarySearchFunc(s.needed, folder, func(id pack.ID, f string) int { return strings.Compare(id.Object(), f) })
	to := from
	for to < len(s.needed) && strings.HasPrefix(s.needed[to].Object(), folder) {
		to++
	}
	return s.needed[from:to]
}

// walkPoints looks at what some points need, in the order of names.
func (s *scrubber) walkPoints(ctx context.Context, report *ScrubReport) error {
	known := map[pack.ID]bool{}
	for _, id := range s.o.Known {
		packs, err := s.manifest(ctx, id)
		if err != nil && !damaged(err) {
			return readError(point.Object(id), err)
		}
		for _, p := range packs {
			known[p] = true
		}
	}
	names := map[string]bool{}
	for _, id := range s.o.Points {
		names[point.Object(id)] = true
		packs, err := s.manifest(ctx, id)
		if err != nil && !damaged(err) {
			return readError(point.Object(id), err)
		}
		s.needed = append(s.needed, packs...)
		for _, p := range packs {
			if !known[p] {
				names[p.Object()] = true
			}
		}
	}
	s.sortNeeded()
	l := listing{names: slices.Sorted(maps.Keys(names)), away: make([]error, len(s.copies))}
	if err := s.visit(ctx, l, report); err != nil {
		return err
	}
	report.Next = ""
	return nil
}

// visit looks at the names behind the cursor, a few at a time, and moves the
// cursor behind them.
func (s *scrubber) visit(ctx context.Context, l listing, report *ScrubReport) error {
	at, found := slices.BinarySearch(l.names, s.o.From)
	if found {
		at++
	}
	for names := range slices.Chunk(l.names[at:], scrubAhead) {
		looks := make([]look, len(names))
		g, gctx := errgroup.WithContext(ctx)
		for i, name := range names {
			g.Go(func() (err error) {
				looks[i], err = s.look(gctx, name, l.away)
				return err
			})
		}
		if err := g.Wait(); err != nil {
			return err
		}
		for _, k := range looks {
			k.addTo(report)
		}
		report.Next = names[len(names)-1]
		if s.o.Progress != nil {
			if err := s.o.Progress(*report); err != nil {
				return err
			}
		}
		if s.o.Budget > 0 && report.Bytes >= s.o.Budget || len(report.Damages) >= maxDamages {
			return errBudget
		}
	}
	return nil
}

func (k *look) addTo(report *ScrubReport) {
	report.Objects++
	report.Bytes += k.read
	for i, size := range k.sizes {
		if size >= 0 {
			report.Copies[i].Objects++
			report.Copies[i].Bytes += size
		}
	}
	if !slices.Contains(k.Copies, CopySound) && !k.Lost() {
		report.Unproved++
	}
	if !k.Repairable() {
		// What could not be read is counted and not kept: with a copy away it is
		// everything.
		k.Count(report.Copies)
		return
	}
	report.Damages = slices.DeleteFunc(report.Damages, func(d Damage) bool { return d.Object == k.Object })
	report.Damages = append(report.Damages, k.Damage)
}

// assess looks at the suspects once more: what was being put or removed
// meanwhile is left out, and so are packs that no point needs and that are only
// missing in some copies, as transfers that failed leave them. What is lost is
// told with the points that need it.
func (s *scrubber) assess(ctx context.Context, report *ScrubReport) error {
	suspects := report.Damages
	if len(suspects) == 0 {
		return nil
	}
	report.Damages = nil
	s.moves = nil // what was dropped and repacked meanwhile
	if err := s.findMoves(ctx); err != nil {
		report.Damages = suspects
		return err
	}
	lost := map[pack.ID]int{}
	for n, d := range suspects {
		k, err := s.look(ctx, d.Object, make([]error, len(s.copies)))
		if err != nil {
			report.Damages = append(report.Damages, suspects[n:]...)
			return err
		}
		if !k.Repairable() || s.excused(ctx, k) {
			if !k.gone() && !k.Repairable() {
				k.Count(report.Copies)
			}
			continue
		}
		k.Count(report.Copies)
		if id, isPack := packOf(d.Object); isPack && k.Lost() {
			lost[id] = len(report.Damages)
		} else if k.Lost() && strings.HasPrefix(d.Object, "points/") {
			k.Points = []backstay.PointID{backstay.PointID(strings.TrimPrefix(d.Object, "points/"))}
		}
		report.Damages = append(report.Damages, k.Damage)
	}
	if len(lost) == 0 {
		return nil
	}
	return s.manifests(ctx, func(id backstay.PointID, packs []pack.ID) {
		for _, p := range packs {
			if at, ok := lost[p]; ok {
				report.Damages[at].Points = append(report.Damages[at].Points, id)
			}
		}
	})
}

// excused tells whether an object is missing for a good reason: nobody needs it,
// or it was removed.
func (s *scrubber) excused(ctx context.Context, k look) bool {
	if strings.HasPrefix(k.Object, keyFolder) && s.superseded != nil && s.superseded(ctx, k.Object) {
		return true
	}
	if id, ok := packOf(k.Object); ok {
		_, needed := slices.BinarySearchFunc(s.needed, id, comparePacks)
		return !needed && !slices.Contains(k.Copies, CopyDamaged)
	}
	if id, ok := strings.CutPrefix(k.Object, "points/"); ok && s.live != nil {
		return s.leftover(backstay.PointID(id))
	}
	return k.gone() && !slices.Contains(s.certain, k.Object)
}

// leftover tells a manifest that the chain does not know, of a point that was
// dropped or whose commit broke off, from a point.
func (s *scrubber) leftover(id backstay.PointID) bool {
	_, live := s.live[id]
	return s.live != nil && !live
}

// packOf returns the pack of an object's name.
func packOf(object string) (pack.ID, bool) {
	id, err := pack.ParseID(object[strings.LastIndexByte(object, '/')+1:])
	return id, err == nil && id.Object() == object
}

// Census counts the objects and bytes of each copy as its listing has them, and
// reads none. A copy that cannot be listed counts nothing; CodeVaultAway if none can.
func (v *Vault) Census(ctx context.Context) ([]CopyReport, error) { return census(ctx, v.copies) }

func census(ctx context.Context, copies []blob.Store) ([]CopyReport, error) {
	counts, errs := make([]CopyReport, len(copies)), make([]error, len(copies))
	failed := 0
	for i, c := range copies {
		errs[i] = c.List(ctx, "", func(info blob.Info) error {
			counts[i].Objects++
			counts[i].Bytes += info.Size
			return nil
		})
		if errs[i] != nil {
			counts[i] = CopyReport{}
			failed++
		}
	}
	if failed == len(copies) {
		return nil, readError("the list of objects", errs...)
	}
	return counts, nil
}
