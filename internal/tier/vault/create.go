package vault

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"filippo.io/age"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/tier/vault/seal"
)

const (
	headerObject = "vault.json"
	formatName   = "backstay vault"
	// firstEpoch is the epoch of the data key of a new vault.
	firstEpoch = 1
)

// header is vault.json: a clear description, authenticated with a key that
// follows from the master key.
type header struct {
	Format     string              `json:"format"`
	Version    int                 `json:"version"`
	ID         string              `json:"id"`
	Name       backstay.VaultName  `json:"name"`
	Created    time.Time           `json:"created"`
	Redundancy backstay.Redundancy `json:"redundancy"`
	Epoch      uint32              `json:"epoch"`
	// Recipients pins the wrapped objects: age does not say who wrapped.
	Recipients []recipient `json:"recipients"`
}

type recipient struct {
	Recipient string `json:"recipient"`
	Object    string `json:"object"`
	Hash      string `json:"blake3"` // of the wrapped object, in hex
}

// signed is the whole of vault.json.
type signed struct {
	Vault json.RawMessage `json:"vault"`
	MAC   string          `json:"mac"` // keyed BLAKE3-256 of the bytes of vault, in hex
}

// wrapped is what is encrypted to each recipient.
type wrapped struct {
	Vault  string `json:"vault"`
	Master []byte `json:"master"`
}

// keyObject names the object that is wrapped for a recipient. The name tells
// nobody that one recipient can open two vaults.
func keyObject(vaultID, recipient string) string {
	sum := seal.Hash([]byte("backstay recipient 1 "), []byte(vaultID), []byte(" "), []byte(recipient))
	return "keys/" + hex.EncodeToString(sum[:16]) + ".age"
}

// NewIdentity makes a fresh age identity ("AGE-SECRET-KEY-1…") and its recipient
// ("age1…").
func NewIdentity() (identity backstay.Secret, recipient string, err error) {
	id, err := age.GenerateX25519Identity()
	if err != nil {
		return backstay.Secret{}, "", fmt.Errorf("make identity: %w", err)
	}
	return backstay.NewSecret([]byte(id.String())), id.Recipient().String(), nil
}

// Create makes a vault in an empty store and returns its master key. The wrapped
// keys are written first and the header last, put-if-absent: a vault that was
// half made is none, and making it again with the same options works.
// CodeExists if there is a vault already.
func Create(ctx context.Context, s blob.Store, o CreateOptions) (backstay.Secret, error) {
	none := backstay.Secret{}
	if len(o.Recipients) == 0 {
		return none, backstay.Errorf(backstay.CodeUsage, "a vault needs at least one recipient").
			Becausef("without one nobody could ever open it").Do("name a recovery key's recipient")
	}
	if _, err := s.Stat(ctx, headerObject); err == nil {
		return none, backstay.Errorf(backstay.CodeExists, "there is a vault in this place already").
			Becausef("its storage units hold the header of one").Do("choose empty storage units")
	} else if !errors.Is(err, blob.ErrNotExist) {
		return none, readError(headerObject, err)
	}
	value := make([]byte, seal.MasterSize)
	_, _ = rand.Read(value) // never fails (crypto/rand)
	master := backstay.NewSecret(value)
	keys, err := seal.NewKeys(o.ID, master)
	if err != nil {
		return none, backstay.Errorf(backstay.CodeUsage, "the vault cannot be made").Because(err)
	}
	h := header{Format: formatName, Version: seal.Version, ID: o.ID, Name: o.Name, Created: o.Created.UTC().Round(0),
		Redundancy: o.Redundancy, Epoch: firstEpoch}
	for _, text := range o.Recipients {
		r, err := wrap(ctx, s, wrapping{vault: o.ID, recipient: text, master: master})
		if err != nil {
			return none, err
		}
		h.Recipients = append(h.Recipients, r)
	}
	data, err := encodeHeader(keys, h)
	if err != nil {
		return none, err
	}
	err = s.Put(ctx, headerObject, data)
	if errors.Is(err, blob.ErrExist) {
		return none, backstay.Errorf(backstay.CodeExists, "another vault was made in this place meanwhile").Because(err).Do("choose empty storage units")
	}
	if err != nil {
		return none, writeError(headerObject, err)
	}
	return master, proveCreated(ctx, s, h, data)
}

type wrapping struct {
	vault, recipient string
	master           backstay.Secret
}

// wrap puts the master key, encrypted to one recipient.
func wrap(ctx context.Context, s blob.Store, w wrapping) (recipient, error) {
	to, err := age.ParseX25519Recipient(w.recipient)
	if err != nil {
		return recipient{}, backstay.Errorf(backstay.CodeUsage, "%q is not an age recipient", w.recipient).Because(err)
	}
	plain, err := json.Marshal(wrapped{Vault: w.vault, Master: w.master.Reveal()})
	if err != nil {
		return recipient{}, fmt.Errorf("wrap key: %w", err)
	}
	var out bytes.Buffer
	enc, err := age.Encrypt(&out, to)
	if err != nil {
		return recipient{}, fmt.Errorf("wrap key: %w", err)
	}
	_, err = enc.Write(plain)
	if err := errors.Join(err, enc.Close()); err != nil {
		return recipient{}, fmt.Errorf("wrap key: %w", err)
	}
	object := keyObject(w.vault, w.recipient)
	err = s.Put(ctx, object, out.Bytes())
	if errors.Is(err, blob.ErrExist) {
		// Left by a creation of this very vault that died before its header: what
		// was wrapped then was never used for anything.
		if err = s.Delete(ctx, object); err == nil {
			err = s.Put(ctx, object, out.Bytes())
		}
	}
	if err != nil {
		return recipient{}, writeError(object, err)
	}
	sum := seal.Hash(out.Bytes())
	return recipient{Recipient: w.recipient, Object: object, Hash: hex.EncodeToString(sum[:])}, nil
}

// proveCreated reads everything back from every copy: a key that is not there
// when it is needed is worse than no vault.
func proveCreated(ctx context.Context, s blob.Store, h header, data []byte) error {
	for i, c := range copiesOf(s) {
		got, err := c.Get(ctx, headerObject, 0, -1)
		if err != nil || !bytes.Equal(got, data) {
			return validateError(ctx, c, i, headerObject, err)
		}
		for _, r := range h.Recipients {
			got, err := c.Get(ctx, r.Object, 0, -1)
			sum := seal.Hash(got)
			if err != nil || hex.EncodeToString(sum[:]) != r.Hash {
				return validateError(ctx, c, i, r.Object, err)
			}
		}
	}
	return nil
}

func encodeHeader(keys *seal.Keys, h header) ([]byte, error) {
	raw, err := json.Marshal(h)
	if err != nil {
		return nil, fmt.Errorf("encode vault header: %w", err)
	}
	mac := keys.HeaderMAC(raw)
	data, err := json.Marshal(signed{Vault: raw, MAC: hex.EncodeToString(mac[:])})
	return append(data, '\n'), err
}

// parseHeader reads vault.json without authenticating it. Only the one form that
// encodeHeader writes is accepted.
func parseHeader(data []byte) (header, signed, error) {
	var h header
	var s signed
	if err := json.Unmarshal(data, &s); err != nil {
		return h, s, fmt.Errorf("vault header: %w: %w", seal.ErrWrong, err)
	}
	again, err := json.Marshal(s)
	if err != nil || !bytes.Equal(append(again, '\n'), data) {
		return h, s, fmt.Errorf("vault header is not in its one form: %w", seal.ErrWrong)
	}
	if err := json.Unmarshal(s.Vault, &h); err != nil {
		return h, s, fmt.Errorf("vault header: %w: %w", seal.ErrWrong, err)
	}
	if h.Format != formatName {
		return h, s, fmt.Errorf("vault header is not one: %w", seal.ErrWrong)
	}
	if h.Version != seal.Version {
		return h, s, fmt.Errorf("vault has format version %d, this release reads %d", h.Version, seal.Version)
	}
	return h, s, nil
}

// authenticate checks a header with the vault's keys.
func (s signed) authenticate(keys *seal.Keys) error {
	mac, err := hex.DecodeString(s.MAC)
	if err != nil || len(mac) != 32 || !seal.Equal(keys.HeaderMAC(s.Vault), [32]byte(mac)) {
		return fmt.Errorf("vault header: %w", seal.ErrWrong)
	}
	return nil
}

// Unwrap opens a vault's master key with an age identity ("AGE-SECRET-KEY-1…",
// comment lines allowed). CodeUnknownVault if the store holds no vault,
// CodeVaultKey if the identity cannot open this one.
func Unwrap(ctx context.Context, s blob.Store, identity backstay.Secret) (id string, master backstay.Secret, err error) {
	none := backstay.Secret{}
	ids, err := age.ParseIdentities(bytes.NewReader(identity.Reveal()))
	if err != nil {
		// The cause is left out: it could repeat a part of the key (I10).
		return "", none, backstay.Errorf(backstay.CodeVaultKey, "the identity is not an age identity")
	}
	var errs []error
	for _, c := range copiesOf(s) {
		data, err := c.Get(ctx, headerObject, 0, -1)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		h, sig, err := parseHeader(data)
		if err == nil {
			var value backstay.Secret
			if value, err = unwrapFrom(ctx, c, h, ids); err == nil {
				if err = authenticated(h.ID, value, sig); err == nil {
					return h.ID, value, nil
				}
			}
		}
		errs = append(errs, err)
	}
	return "", none, noVault(errs)
}

func authenticated(id string, master backstay.Secret, sig signed) error {
	keys, err := seal.NewKeys(id, master)
	if err != nil {
		return fmt.Errorf("%w: %w", seal.ErrWrong, err)
	}
	return sig.authenticate(keys)
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

// unwrapFrom tries the identities on one copy.
func unwrapFrom(ctx context.Context, c blob.Store, h header, ids []age.Identity) (backstay.Secret, error) {
	var errs []error
	for _, id := range ids {
		x, ok := id.(*age.X25519Identity)
		if !ok {
			continue
		}
		sealed, err := c.Get(ctx, keyObject(h.ID, x.Recipient().String()), 0, -1)
		if errors.Is(err, blob.ErrNotExist) {
			continue
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		var w wrapped
		r, err := age.Decrypt(bytes.NewReader(sealed), x)
		if err == nil {
			err = json.NewDecoder(io.LimitReader(r, 64<<10)).Decode(&w)
		}
		if err != nil || w.Vault != h.ID {
			errs = append(errs, fmt.Errorf("wrapped key: %w", seal.ErrWrong))
			continue
		}
		return backstay.NewSecret(w.Master), nil
	}
	if len(errs) > 0 {
		return backstay.Secret{}, errors.Join(errs...)
	}
	return backstay.Secret{}, backstay.Errorf(backstay.CodeVaultKey, "the identity cannot open the vault %s", h.Name).
		Becausef("the vault's key is not wrapped for it")
}
