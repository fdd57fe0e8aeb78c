package vault

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/tier/vault/seal"
)

const (
	// headerObject is the first generation of the header, headerFolder holds the
	// later ones. A header is never changed (I1).
	headerObject = "vault.json"
	headerFolder = "headers/"
	keyFolder    = "keys/"
	formatName   = "backstay vault"
	// headerVersion is that of headers that this release writes; version 1 had
	// one generation, one epoch, and recipients without kind and purpose.
	headerVersion = 2
	firstEpoch    = 1
)

// header is a clear description of the vault, authenticated with a key that
// follows from the master key.
type header struct {
	Format     string              `json:"format"`
	Version    int                 `json:"version"`
	ID         string              `json:"id"`
	Name       backstay.VaultName  `json:"name"`
	Created    time.Time           `json:"created"`
	Redundancy backstay.Redundancy `json:"redundancy"`
	Epoch      uint32              `json:"epoch"`
	// Generation counts the headers; Previous is the BLAKE3 of the one before.
	Generation uint32 `json:"generation,omitempty"`
	Previous   string `json:"previous,omitempty"`
	// Chained tells that the vault has a chain, from its making on.
	Chained bool `json:"chained,omitempty"`
	// Recipients pins the wrapped objects: age does not say who wrapped.
	Recipients []recipient `json:"recipients"`
}

// recipient is one wrapped object and for whom it is. Kind, purpose and id are
// not in headers of version 1.
type recipient struct {
	Recipient string                    `json:"recipient,omitempty"`
	Object    string                    `json:"object"`
	Hash      string                    `json:"blake3"` // of the wrapped object, in hex
	Kind      backstay.RecipientKind    `json:"kind,omitempty"`
	Purpose   backstay.RecipientPurpose `json:"purpose,omitempty"`
	Label     string                    `json:"label,omitempty"`
	ID        string                    `json:"id,omitempty"`
}

// signed is the whole of a header object.
type signed struct {
	Vault json.RawMessage `json:"vault"`
	MAC   string          `json:"mac"` // keyed BLAKE3-256 of the bytes of vault, in hex
}

// writtenHeader is a header as an object has it. It may not have been authenticated yet.
type writtenHeader struct {
	header
	signed
	data []byte
}

func headerName(generation uint32) string {
	if generation == 1 {
		return headerObject
	}
	return fmt.Sprintf("%s%08d.json", headerFolder, generation)
}

// headerNames names the headers up to a generation: none is ever removed.
func headerNames(newest uint32) []string {
	var names []string
	for g := range newest {
		names = append(names, headerName(g+1))
	}
	return names
}

func encodeHeader(keys *seal.Keys, h header) (writtenHeader, error) {
	raw, err := json.Marshal(h)
	if err != nil {
		return writtenHeader{}, fmt.Errorf("encode vault header: %w", err)
	}
	mac := keys.HeaderMAC(raw)
	f := writtenHeader{header: h, signed: signed{Vault: raw, MAC: hex.EncodeToString(mac[:])}}
	data, err := json.Marshal(f.signed)
	f.data = append(data, '\n')
	return f, err
}

// parseHeader reads the header object of this name without authenticating it.
// Only the one form that encodeHeader writes is accepted.
func parseHeader(name string, data []byte) (writtenHeader, error) {
	f := writtenHeader{data: data}
	if err := json.Unmarshal(data, &f.signed); err != nil {
		return f, fmt.Errorf("vault header: %w: %w", seal.ErrWrong, err)
	}
	again, err := json.Marshal(f.signed)
	if err != nil || !bytes.Equal(append(again, '\n'), data) {
		return f, fmt.Errorf("vault header is not in its one form: %w", seal.ErrWrong)
	}
	if err := json.Unmarshal(f.Vault, &f.header); err != nil {
		return f, fmt.Errorf("vault header: %w: %w", seal.ErrWrong, err)
	}
	if f.Format != formatName {
		return f, fmt.Errorf("vault header is not one: %w", seal.ErrWrong)
	}
	switch f.Version {
	case 1:
		f.header = f.upgraded()
	case headerVersion:
	default:
		return f, fmt.Errorf("vault has format version %d, this release reads up to %d", f.Version, headerVersion)
	}
	if name != headerName(f.Generation) {
		return f, fmt.Errorf("vault header of generation %d is in the place of another: %w", f.Generation, seal.ErrWrong)
	}
	return f, nil
}

// upgraded says of a header of version 1 what later ones say themselves: its
// recipients were X25519 keys, the first that of the server if there are several.
func (h header) upgraded() header {
	h.Generation, h.Recipients = 1, slices.Clone(h.Recipients)
	for i := range h.Recipients {
		r := &h.Recipients[i]
		r.Kind, r.Purpose, r.ID = backstay.KindX25519, backstay.ForRecovery, recipientID(r.Object)
		if i == 0 && len(h.Recipients) > 1 {
			r.Purpose = backstay.ForServer
		}
	}
	return h
}

// recipientID is the id of a recipient: of the name of what was first wrapped for it.
func recipientID(object string) string {
	id := strings.TrimSuffix(strings.TrimPrefix(object, keyFolder), ".age")
	return id[:min(16, len(id))]
}

// authenticate checks a header with the vault's keys.
func (f writtenHeader) authenticate(keys *seal.Keys) error {
	mac, err := hex.DecodeString(f.MAC)
	if err != nil || len(mac) != 32 || !seal.Equal(keys.HeaderMAC(f.Vault), [32]byte(mac)) {
		return fmt.Errorf("vault header: %w", seal.ErrWrong)
	}
	return nil
}

// hash is what the next generation and the vault's chain refer to.
func (f writtenHeader) hash() [32]byte { return seal.Hash(f.data) }

// copyHeaders are the headers of one copy, newest first, and what was wrong
// with others.
type copyHeaders struct {
	found   []writtenHeader
	refused []writtenHeader // sound in form, and not accepted
	errs    []error         // of headers that cannot be read
	away    error           // why the copy as a whole said nothing
}

// readHeaders reads the headers of each copy, newest first, until accept takes
// one. accept may be called concurrently. Without accept all are read.
func readHeaders(ctx context.Context, copies []blob.Store, accept func(writtenHeader) error) []copyHeaders {
	out := make([]copyHeaders, len(copies))
	var wg sync.WaitGroup
	for i, c := range copies {
		wg.Go(func() { out[i] = readCopyHeaders(ctx, c, accept) })
	}
	wg.Wait()
	return out
}

func readCopyHeaders(ctx context.Context, c blob.Store, accept func(writtenHeader) error) copyHeaders {
	var out copyHeaders
	names := []string{headerObject}
	err := c.List(ctx, headerFolder, func(i blob.Info) error {
		names = append(names, i.Name)
		return nil
	})
	if err != nil {
		// Older headers than the newest would be taken for it.
		out.away = fmt.Errorf("list %s: %w", headerFolder, err)
		return out
	}
	for _, name := range slices.Backward(names) {
		data, err := c.Get(ctx, name, 0, -1)
		var f writtenHeader
		if err == nil {
			f, err = parseHeader(name, data)
		}
		if err == nil && accept != nil {
			if err = accept(f); err != nil {
				out.refused = append(out.refused, f)
			}
		}
		if err != nil {
			out.errs = append(out.errs, fmt.Errorf("%s: %w", name, err))
			if !damaged(err) && passed(err) == nil {
				out.away = err // a newer one than those that follow may be there
				return out
			}
			continue
		}
		out.found = append(out.found, f)
		if accept != nil {
			break
		}
	}
	return out
}

// state is what the copies say of the vault's header, with its keys at hand.
type state struct {
	newest   writtenHeader
	complete uint32 // the newest epoch whose header is in every copy that answered
	copies   []copyHeaders
}

// headerState finds the newest header that the keys authenticate, in any copy.
func headerState(ctx context.Context, copies []blob.Store, id string, keys *seal.Keys) (state, error) {
	s := state{copies: readHeaders(ctx, copies, func(f writtenHeader) error {
		if err := f.authenticate(keys); err != nil || f.ID != id {
			return backstay.Errorf(backstay.CodeVaultKey, "the key does not open the vault %s", f.Name).
				Becausef("the vault's header is not authenticated by it: another vault's key, another vault, or a changed header")
		}
		return nil
	})}
	var errs []error
	for _, c := range s.copies {
		errs = append(errs, c.errs...)
		if c.away != nil && len(c.errs) == 0 {
			errs = append(errs, c.away)
		}
		if len(c.found) == 0 {
			continue
		}
		f := c.found[0]
		if s.newest.data == nil || f.Epoch < s.complete {
			s.complete = f.Epoch
		}
		if f.Generation > s.newest.Generation {
			s.newest = f
		}
	}
	if s.newest.data == nil {
		return s, noVault(errs)
	}
	if keys.Newest() > s.newest.Epoch {
		return s, s.older(keys)
	}
	return s, nil
}

// older says why the newest header is older than the keys, which were unwrapped
// from one that is not there any more.
func (s state) older(keys *seal.Keys) error {
	for _, c := range s.copies {
		if c.away != nil {
			return backstay.Errorf(backstay.CodeVaultAway, "the newest header of the vault %s cannot be read", s.newest.Name).Because(c.away)
		}
	}
	return backstay.Errorf(backstay.CodeVaultRolledBack, "the vault %s has an older header than the one that its key came from", s.newest.Name).
		Becausef("its newest header is of epoch %d, the key at hand of epoch %d", s.newest.Epoch, keys.Newest())
}

// problems are what is wrong with the headers on the copies, in words.
func (s state) problems(unit func(int) string) []string {
	var out []string
	for i, c := range s.copies {
		switch {
		case c.away != nil:
			out = append(out, fmt.Sprintf("%s: %v", unit(i), c.away))
		case len(c.found) == 0 || c.found[0].Generation < s.newest.Generation:
			out = append(out, fmt.Sprintf("%s: has no sound %s", unit(i), headerName(s.newest.Generation)))
		case !bytes.Equal(c.found[0].data, s.newest.data):
			out = append(out, fmt.Sprintf("%s: has another %s", unit(i), headerName(s.newest.Generation)))
		}
		for _, err := range c.errs {
			out = append(out, fmt.Sprintf("%s: %v", unit(i), err))
		}
	}
	return out
}

// noVault says why no copy of the header could be used.
func noVault(errs []error) error {
	absent := 0
	for _, err := range errs {
		if errors.Is(err, blob.ErrNotExist) {
			absent++
		}
	}
	if absent == len(errs) {
		return backstay.Errorf(backstay.CodeUnknownVault, "there is no vault in this place").Because(errors.Join(errs...))
	}
	return readError(headerObject, errs...)
}
