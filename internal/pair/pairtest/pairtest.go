// Package pairtest is the conformance suite of pair.Holder, and a Holder in memory.
// Whatever holds, and whatever carries the calls, runs the suite. It says nothing of
// what a vault is made of: that is for the tests of what holds.
package pairtest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"slices"
	"testing"
	"testing/iotest"

	"lukechampine.com/blake3"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/pair"
)

// Subject is what the suite tries, with a vault that it may be offered.
type Subject struct {
	Holder pair.Holder
	// Offer is the vault's; Objects are all that the point needs, in an order in which
	// they may be put, and with their content.
	Offer    pair.Offer
	Objects  []Sample
	Point    backstay.PointID
	Manifest []byte
}

// Sample is one object.
type Sample struct {
	Name    string
	Content []byte
}

// Object is how the sample is announced.
func (s Sample) Object() pair.Object {
	return pair.Object{Name: s.Name, Size: int64(len(s.Content)), Sum: blake3.Sum256(s.Content)}
}

// Run runs the suite; make returns a subject that holds nothing yet.
func Run(t *testing.T, make func(t *testing.T) Subject) {
	for name, test := range map[string]func(*testing.T, Subject){
		"ThePointIsHeldWhole":                   whole,
		"WhatIsThereIsNotLacked":                lacks,
		"AnswersKeepTheOrderOfTheQuestion":      order,
		"WhatIsNotWhatWasSaidIsRefused":         sums,
		"NothingIsPutOverSomethingElse":         over,
		"APutThatIsCutLeavesNothing":            cutPut,
		"AllMayBeDoneAgain":                     again,
		"AnIncompletePointIsRefused":            incomplete,
		"AVaultThatWasNeverOfferedIsRefused":    strangers,
		"AnOlderVaultThanWasSeenIsRefused":      older,
		"WhatIsNotThereIsAnError":               missing,
		"AnErrorOfTheListsReaderEndsTheListing": listEnds,
		"CallsEndWithTheirContext":              contexts,
	} {
		t.Run(name, func(t *testing.T) { test(t, make(t)) })
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantCode(t *testing.T, err error, code backstay.Code) {
	t.Helper()
	if !backstay.IsCode(err, code) {
		t.Errorf("got %v, want %s", err, code)
	}
}

func (s Subject) objects() (all []pair.Object) {
	for _, o := range s.Objects {
		all = append(all, o.Object())
	}
	return all
}

func (s Subject) offer(t *testing.T) pair.Held {
	t.Helper()
	held, err := s.Holder.Offer(t.Context(), s.Offer)
	must(t, err)
	return held
}

func (s Subject) put(t *testing.T, o Sample) {
	t.Helper()
	must(t, s.Holder.Put(t.Context(), s.Offer.ID, o.Object(), bytes.NewReader(o.Content)))
}

func (s Subject) putAll(t *testing.T) {
	t.Helper()
	for _, o := range s.Objects {
		s.put(t, o)
	}
}

func (s Subject) complete(t *testing.T) {
	t.Helper()
	s.putAll(t)
	must(t, s.Holder.Complete(t.Context(), s.Offer.ID, s.Point, s.Manifest))
}

// read returns what is held, by name.
func (s Subject) read(t *testing.T) map[string][]byte {
	t.Helper()
	got := map[string][]byte{}
	var listed []pair.Object
	must(t, s.Holder.List(t.Context(), s.Offer.ID, func(o pair.Object) error {
		listed = append(listed, o)
		return nil
	}))
	for _, o := range listed {
		r, err := s.Holder.Get(t.Context(), s.Offer.ID, o.Name)
		must(t, err)
		content, err := io.ReadAll(r)
		must(t, errors.Join(err, r.Close()))
		if int64(len(content)) != o.Size || o.Sum != [32]byte{} && blake3.Sum256(content) != o.Sum {
			t.Errorf("%s is not what the list says", o.Name)
		}
		got[o.Name] = content
	}
	return got
}

func whole(t *testing.T, s Subject) {
	held := s.offer(t)
	if len(held.Available)+len(held.Gone) > 0 {
		t.Errorf("held at first: %+v", held)
	}
	s.complete(t)
	held = s.offer(t)
	if at, ok := held.Available[s.Point]; !ok || at.IsZero() || len(held.Available) != 1 {
		t.Errorf("available: %v", held.Available)
	}
	if held.Head != s.Offer.Head {
		t.Errorf("head %+v, offered %+v", held.Head, s.Offer.Head)
	}
	got := s.read(t)
	for _, o := range s.Objects {
		if !bytes.Equal(got[o.Name], o.Content) {
			t.Errorf("%s is held with %d bytes, and has %d", o.Name, len(got[o.Name]), len(o.Content))
		}
	}
	if !slices.ContainsFunc(slices.Collect(maps.Values(got)), func(b []byte) bool { return bytes.Equal(b, s.Manifest) }) {
		t.Error("the manifest is not held")
	}
	vaults, err := s.Holder.Vaults(t.Context())
	must(t, err)
	if len(vaults) != 1 || vaults[0].ID != s.Offer.ID || vaults[0].Name != s.Offer.Name {
		t.Errorf("vaults: %+v", vaults)
	}
}

func lacks(t *testing.T, s Subject) {
	s.offer(t)
	s.put(t, s.Objects[0])
	got, err := s.Holder.Lacks(t.Context(), s.Offer.ID, s.objects())
	must(t, err)
	if len(got) != len(s.Objects)-1 || slices.Contains(got, s.Objects[0].Name) {
		t.Errorf("lacks %v", got)
	}
	s.putAll(t)
	if got, err = s.Holder.Lacks(t.Context(), s.Offer.ID, s.objects()); err != nil || len(got) > 0 {
		t.Errorf("lacks %v, %v", got, err)
	}
	if got, err = s.Holder.Lacks(t.Context(), s.Offer.ID, nil); err != nil || len(got) > 0 {
		t.Errorf("lacks %v, %v of nothing", got, err)
	}
}

func order(t *testing.T, s Subject) {
	s.offer(t)
	asked := s.objects()
	slices.Reverse(asked)
	got, err := s.Holder.Lacks(t.Context(), s.Offer.ID, asked)
	must(t, err)
	for i := range got {
		if got[i] != asked[i].Name {
			t.Fatalf("got %v", got)
		}
	}
	if len(got) != len(asked) {
		t.Errorf("got %d of %d", len(got), len(asked))
	}
}

func sums(t *testing.T, s Subject) {
	s.offer(t)
	last := s.Objects[len(s.Objects)-1]
	flipped := bytes.Clone(last.Content)
	flipped[len(flipped)/2] ^= 1
	err := s.Holder.Put(t.Context(), s.Offer.ID, last.Object(), bytes.NewReader(flipped))
	wantCode(t, err, backstay.CodeReplicaRefused)
	if got := s.read(t); got[last.Name] != nil {
		t.Error("what was refused is held")
	}
	// The link stays usable after a refusal.
	s.putAll(t)
}

func over(t *testing.T, s Subject) {
	s.offer(t)
	s.putAll(t)
	last := s.Objects[len(s.Objects)-1]
	other := Sample{Name: last.Name, Content: append(bytes.Clone(last.Content), 'x')}
	err := s.Holder.Put(t.Context(), s.Offer.ID, other.Object(), bytes.NewReader(other.Content))
	wantCode(t, err, backstay.CodeReplicaRefused)
	if got := s.read(t); !bytes.Equal(got[last.Name], last.Content) {
		t.Error("an object was replaced")
	}
}

func cutPut(t *testing.T, s Subject) {
	s.offer(t)
	last := s.Objects[len(s.Objects)-1]
	broken := errors.New("the source broke")
	half := io.MultiReader(bytes.NewReader(last.Content[:len(last.Content)/2]), iotest.ErrReader(broken))
	if err := s.Holder.Put(t.Context(), s.Offer.ID, last.Object(), half); !errors.Is(err, broken) {
		t.Errorf("got %v, want the source's error", err)
	}
	short := bytes.NewReader(last.Content[:len(last.Content)-1])
	if err := s.Holder.Put(t.Context(), s.Offer.ID, last.Object(), short); err == nil {
		t.Error("a short object was taken")
	}
	if got := s.read(t); got[last.Name] != nil {
		t.Error("a part of an object is held")
	}
	s.putAll(t)
}

func again(t *testing.T, s Subject) {
	s.offer(t)
	s.complete(t)
	first := s.offer(t)
	s.complete(t)
	if held := s.offer(t); !maps.Equal(held.Available, first.Available) {
		t.Errorf("available %v, and then %v", first.Available, held.Available)
	}
}

func incomplete(t *testing.T, s Subject) {
	s.offer(t)
	err := s.Holder.Complete(t.Context(), s.Offer.ID, s.Point, s.Manifest)
	wantCode(t, err, backstay.CodeReplicaRefused)
	if held := s.offer(t); len(held.Available) > 0 {
		t.Errorf("available: %v", held.Available)
	}
	s.complete(t)
}

func strangers(t *testing.T, s Subject) {
	const other = "00000000-0000-4000-8000-000000000001"
	first := s.Objects[0]
	wantCode(t, s.Holder.Put(t.Context(), other, first.Object(), bytes.NewReader(first.Content)), backstay.CodeUnknownVault)
	_, err := s.Holder.Lacks(t.Context(), other, s.objects())
	wantCode(t, err, backstay.CodeUnknownVault)
	wantCode(t, s.Holder.Complete(t.Context(), other, s.Point, s.Manifest), backstay.CodeUnknownVault)
	wantCode(t, s.Holder.List(t.Context(), other, func(pair.Object) error { return nil }), backstay.CodeUnknownVault)
	_, err = s.Holder.Get(t.Context(), other, first.Name)
	wantCode(t, err, backstay.CodeUnknownVault)
}

func older(t *testing.T, s Subject) {
	s.offer(t)
	newer := s.Offer
	newer.Head.Seq++
	_, err := s.Holder.Offer(t.Context(), newer)
	must(t, err)
	_, err = s.Holder.Offer(t.Context(), s.Offer)
	wantCode(t, err, backstay.CodeVaultRolledBack)
}

func missing(t *testing.T, s Subject) {
	s.offer(t)
	if r, err := s.Holder.Get(t.Context(), s.Offer.ID, s.Objects[0].Name); err == nil {
		_, err = io.ReadAll(r)
		if r.Close(); err == nil {
			t.Error("what is not there was read")
		}
	}
	must(t, s.Holder.List(t.Context(), s.Offer.ID, func(o pair.Object) error {
		t.Errorf("%s is listed", o.Name)
		return nil
	}))
}

func listEnds(t *testing.T, s Subject) {
	s.offer(t)
	s.putAll(t)
	enough, calls := errors.New("enough"), 0
	err := s.Holder.List(t.Context(), s.Offer.ID, func(pair.Object) error {
		calls++
		return enough
	})
	if !errors.Is(err, enough) || calls != 1 {
		t.Errorf("got %v after %d objects", err, calls)
	}
}

func contexts(t *testing.T, s Subject) {
	s.offer(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	first := s.Objects[0]
	_, offered := s.Holder.Offer(ctx, s.Offer)
	_, lacked := s.Holder.Lacks(ctx, s.Offer.ID, s.objects())
	put := s.Holder.Put(ctx, s.Offer.ID, first.Object(), bytes.NewReader(first.Content))
	for _, err := range []error{offered, lacked, put, s.Holder.Complete(ctx, s.Offer.ID, s.Point, s.Manifest)} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	}
}

// Vault returns a subject for Holders that do not look into objects, such as Fake.
func Vault(h pair.Holder) Subject {
	return Subject{
		Holder: h, Point: "01K9ZQ4T5V0000000000000001", Manifest: []byte("a manifest"),
		Offer: pair.Offer{ID: "11111111-1111-4111-8111-111111111111", Name: "default", Head: backstay.VaultHead{Seq: 3}},
		Objects: []Sample{
			{"header", []byte("h")}, {"packs/aa/" + "aa01", bytes.Repeat([]byte("pack"), 700_000)},
			{"packs/bb/" + "bb02", bytes.Repeat([]byte("another pack"), 10_000)}, {"indexes/01", []byte("an index")},
		},
	}
}
