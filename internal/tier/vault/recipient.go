package vault

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"

	"filippo.io/age"
	"filippo.io/age/plugin"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/tier/vault/seal"
)

const (
	// workFactor is the logarithm of the cost of a passphrase: 128 MiB of memory
	// and about half a second for each guess. maxWorkFactor bounds what a changed
	// object can make a reader do.
	workFactor    = 17
	maxWorkFactor = 18
	// minPassphrase is the least length of a passphrase, in bytes.
	minPassphrase = 12
	// passphraseMark makes an identity of a passphrase.
	passphraseMark = "passphrase\n"
)

// scryptCost is workFactor, but for tests, which make many.
var scryptCost = workFactor

// NewRecipient is a recipient that a vault shall have: a public key as age
// writes it, or a passphrase.
type NewRecipient struct {
	Recipient  string
	Passphrase backstay.Secret
	Purpose    backstay.RecipientPurpose
	Label      string
}

// Recipients returns recipients of one purpose.
func Recipients(purpose backstay.RecipientPurpose, texts ...string) []NewRecipient {
	var out []NewRecipient
	for _, text := range texts {
		out = append(out, NewRecipient{Recipient: text, Purpose: purpose})
	}
	return out
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

// Recipient returns the public side of an identity, to which keys are wrapped.
func Recipient(identity backstay.Secret) (string, error) {
	ids, err := parseIdentities(identity)
	if err == nil && len(ids) == 1 && ids[0].recipient != "" {
		return ids[0].recipient, nil
	}
	return "", backstay.Errorf(backstay.CodeVaultKey, "the identity cannot be read").Becausef("it is not one age identity")
}

// Passphrase makes of a passphrase what Unwrap takes as an identity.
func Passphrase(passphrase backstay.Secret) backstay.Secret {
	return backstay.NewSecret(append([]byte(passphraseMark), passphrase.Reveal()...))
}

// KindOf tells the kind of a recipient by its text. CodeUsage if it is none.
func KindOf(text string) (backstay.RecipientKind, error) {
	_, kind, err := parseRecipient(text)
	return kind, err
}

func parseRecipient(text string) (age.Recipient, backstay.RecipientKind, error) {
	if r, err := age.ParseX25519Recipient(text); err == nil {
		return r, backstay.KindX25519, nil
	}
	if r, err := age.ParseHybridRecipient(text); err == nil {
		return r, backstay.KindHybrid, nil
	}
	if r, err := plugin.NewRecipient(text, &plugin.ClientUI{}); err == nil && !strings.HasPrefix(text, "age1pq1") {
		return r, backstay.KindPlugin, nil
	}
	// The text is left out: it may be a secret key that was given by mistake (I10).
	return nil, "", backstay.Errorf(backstay.CodeUsage, "this is not an age recipient").
		Becausef("a recipient is the public side of a key, such as age1…").
		Do("print it with `age-keygen -y KEYFILE`")
}

// check refuses what no vault may have.
func (r NewRecipient) check() error {
	switch r.Purpose {
	case backstay.ForServer, backstay.ForRecovery, backstay.ForPerson:
	default:
		return backstay.Errorf(backstay.CodeUsage, "a recipient has no purpose %q", r.Purpose).Do("say server, recovery or person")
	}
	if len(r.Label) > 100 || strings.ContainsFunc(r.Label, func(c rune) bool { return c < ' ' }) {
		return backstay.Errorf(backstay.CodeUsage, "this is not a label").
			Becausef("a recipient's label is at most 100 bytes of text in one line").Do("give a shorter one, such as the name of who has the key")
	}
	if r.Recipient != "" {
		_, err := KindOf(r.Recipient)
		return err
	}
	if len(r.Passphrase.Reveal()) < minPassphrase {
		return backstay.Errorf(backstay.CodeUsage, "the passphrase is too short").
			Becausef("whoever gets hold of a storage unit can try passphrases for ever").
			Do("use %d characters or more, best six random words", minPassphrase)
	}
	return nil
}

// wrap encrypts a keyset to one recipient.
func (r NewRecipient) wrap(keyset backstay.Secret) ([]byte, backstay.RecipientKind, error) {
	to, kind, err := r.age()
	if err != nil {
		return nil, kind, err
	}
	var out bytes.Buffer
	enc, err := age.Encrypt(&out, to)
	if err == nil {
		_, err = enc.Write(keyset.Reveal())
		err = errors.Join(err, enc.Close())
	}
	if err != nil {
		return nil, kind, backstay.Errorf(backstay.CodeVaultKey, "the vault's keys cannot be wrapped for a recipient of kind %s", kind).
			Because(err).Do("see that the recipient's age plugin is installed on the server, or leave the recipient out")
	}
	return out.Bytes(), kind, nil
}

func (r NewRecipient) age() (age.Recipient, backstay.RecipientKind, error) {
	if r.Recipient != "" {
		return parseRecipient(r.Recipient)
	}
	s, err := age.NewScryptRecipient(string(r.Passphrase.Reveal()))
	if err != nil {
		return nil, backstay.KindPassphrase, backstay.Errorf(backstay.CodeUsage, "the passphrase is empty")
	}
	s.SetWorkFactor(scryptCost)
	return s, backstay.KindPassphrase, nil
}

// keyObject names a wrapped object by its content, which is another one each
// time that it is wrapped: nobody sees that one recipient opens two vaults.
func keyObject(content [32]byte) string { return "keys/" + hex.EncodeToString(content[:16]) + ".age" }

// identity is one key with which something may be unwrapped.
type identity struct {
	age.Identity
	kind      backstay.RecipientKind
	recipient string // the public side, of a key whose public side is known
	plugin    string // the plugin's name
}

// parseIdentities reads what a key file may hold: one identity on each line,
// comments between them; or a passphrase (see Passphrase). Its errors repeat
// nothing of the text (I10).
func parseIdentities(secret backstay.Secret) ([]identity, error) {
	text := string(secret.Reveal())
	if rest, ok := strings.CutPrefix(text, passphraseMark); ok {
		s, err := age.NewScryptIdentity(rest)
		if err != nil {
			return nil, backstay.Errorf(backstay.CodeVaultKey, "the passphrase is empty")
		}
		s.SetMaxWorkFactor(maxWorkFactor)
		return []identity{{Identity: s, kind: backstay.KindPassphrase}}, nil
	}
	var out []identity
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		id, err := parseIdentity(line)
		if err != nil {
			return nil, backstay.Errorf(backstay.CodeVaultKey, "the identity is not an age identity").
				Becausef("a line of it is no secret key and no comment")
		}
		out = append(out, id)
	}
	if len(out) == 0 {
		return nil, backstay.Errorf(backstay.CodeVaultKey, "the identity is empty")
	}
	return out, nil
}

func parseIdentity(line string) (identity, error) {
	if p, err := plugin.NewIdentity(line, &plugin.ClientUI{}); err == nil {
		return identity{Identity: p, kind: backstay.KindPlugin, plugin: p.Name()}, nil
	}
	ids, err := age.ParseIdentities(strings.NewReader(line))
	if err != nil {
		return identity{}, err
	}
	switch id := ids[0].(type) {
	case *age.X25519Identity:
		return identity{Identity: id, kind: backstay.KindX25519, recipient: id.Recipient().String()}, nil
	case *age.HybridIdentity:
		return identity{Identity: id, kind: backstay.KindHybrid, recipient: id.Recipient().String()}, nil
	default:
		return identity{}, fmt.Errorf("identity of an unknown kind")
	}
}

// mayOpen tells whether it is worth trying the identity on what is wrapped for r.
func (id identity) mayOpen(r recipient) bool {
	switch {
	case r.Kind != id.kind:
		return false
	case id.kind == backstay.KindPlugin:
		name, _, err := plugin.ParseRecipient(r.Recipient)
		return err == nil && name == id.plugin
	default:
		return r.Recipient == id.recipient
	}
}

// maxKeyset bounds what is read out of a wrapped object, in bytes.
const maxKeyset = 1 << 20

// unwrap decrypts a wrapped object. errNotFor if it was made for another key.
func (id identity) unwrap(sealed []byte) (backstay.Secret, error) {
	none := backstay.Secret{}
	r, err := age.Decrypt(bytes.NewReader(sealed), id)
	var missing *plugin.NotFoundError
	switch {
	case errors.As(err, &missing):
		return none, backstay.Errorf(backstay.CodeVaultKey, "the identity cannot be used here").Because(missing).
			Do("install the age plugin %q where this runs", missing.Name)
	case err != nil && (id.kind == backstay.KindPassphrase || id.kind == backstay.KindPlugin):
		return none, fmt.Errorf("%w: %w", errNotFor, err)
	case err != nil:
		return none, fmt.Errorf("wrapped key: %w", seal.ErrWrong)
	}
	data, err := io.ReadAll(io.LimitReader(r, maxKeyset))
	if err != nil {
		return none, fmt.Errorf("wrapped key: %w", seal.ErrWrong)
	}
	return backstay.NewSecret(data), nil
}

// errNotFor: something was wrapped for another key than the one at hand.
var errNotFor = errors.New("wrapped for another key")
