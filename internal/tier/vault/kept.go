package vault

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"filippo.io/age"

	backstay "github.com/backstay/backstay"
)

// maxEscrow bounds a value that is escrowed, in bytes.
const maxEscrow = 64 << 10

// Escrow encrypts a value to recipients, each of which alone can open it. Those
// that cannot be used here, such as one whose age plugin is not installed, are left
// out and named in the error beside what came of the others; nil if none is left.
// about says what the value is of, and must be said again to open it.
func Escrow(value backstay.Secret, about string, recipients []string) (sealed []byte, err error) {
	var to []age.Recipient
	var problems []error
	for _, text := range recipients {
		r, kind, err := parseRecipient(text)
		if err == nil {
			_, err = escrow(value, about, r) // alone: a plugin may be missing
		}
		if err != nil {
			problems = append(problems, fmt.Errorf("a recipient of kind %s: %w", kind, err))
			continue
		}
		to = append(to, r)
	}
	if len(to) == 0 {
		return nil, errors.Join(append(problems, errors.New("there is no recovery recipient with a public key"))...)
	}
	sealed, err = escrow(value, about, to...)
	return sealed, errors.Join(append(problems, err)...)
}

func escrow(value backstay.Secret, about string, to ...age.Recipient) ([]byte, error) {
	var out bytes.Buffer
	w, err := age.Encrypt(&out, to...)
	if err != nil {
		return nil, err
	}
	_, err = w.Write(append([]byte(about+"\x00"), value.Reveal()...))
	if err := errors.Join(err, w.Close()); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// OpenEscrow is Escrow's inverse, with an identity as Unwrap takes it.
// CodeVaultKey if it opens nothing of this.
func OpenEscrow(sealed []byte, about string, identity backstay.Secret) (backstay.Secret, error) {
	none := backstay.Secret{}
	ids, err := parseIdentities(identity)
	if err != nil {
		return none, err
	}
	var errs []error
	for _, id := range ids {
		r, err := age.Decrypt(bytes.NewReader(sealed), id)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		data, err := io.ReadAll(io.LimitReader(r, maxEscrow))
		if err != nil {
			return none, backstay.Errorf(backstay.CodeDamaged, "what was kept for the recovery key is damaged").Because(err)
		}
		value, ok := bytes.CutPrefix(data, []byte(about+"\x00"))
		if !ok {
			return none, backstay.Errorf(backstay.CodeDamaged, "what was kept for the recovery key is of something else").
				Becausef("it is bound to another secret")
		}
		return backstay.NewSecret(value), nil
	}
	return none, backstay.Errorf(backstay.CodeVaultKey, "the key does not open what was kept for the recovery key").
		Because(errors.Join(errs...)).Do("give a recovery key that the vault had when the point was taken")
}
