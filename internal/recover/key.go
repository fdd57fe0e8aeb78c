package recover

import (
	"bytes"
	"errors"
	"io"

	"filippo.io/age"
	"filippo.io/age/armor"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/tier/vault"
)

// maxKeyFile bounds a key file, in bytes.
const maxKeyFile = 1 << 20

// Passphrase makes a key of the passphrase for which a vault's keys were wrapped.
func Passphrase(passphrase backstay.Secret) backstay.Secret { return vault.Passphrase(passphrase) }

// ReadKey makes a key of the content of a key file: lines AGE-SECRET-KEY-1… or
// AGE-PLUGIN-…, comments allowed. A file that is itself encrypted with a
// passphrase is decrypted with what ask returns, which is not called otherwise.
// No error repeats anything of the file (I10).
func ReadKey(r io.Reader, ask func() (backstay.Secret, error)) (backstay.Secret, error) {
	none := backstay.Secret{}
	data, err := io.ReadAll(io.LimitReader(r, maxKeyFile+1))
	if err != nil {
		return none, backstay.Errorf(backstay.CodeVaultKey, "the key file cannot be read").Because(err)
	}
	if len(data) > maxKeyFile {
		return none, backstay.Errorf(backstay.CodeVaultKey, "the key file is too long").Becausef("a key is a line or a few")
	}
	sealed := io.Reader(bytes.NewReader(data))
	switch {
	case bytes.HasPrefix(data, []byte("age-encryption.org/")):
	case bytes.HasPrefix(bytes.TrimSpace(data), []byte(armor.Header)):
		sealed = armor.NewReader(bytes.NewReader(bytes.TrimSpace(data)))
	default:
		return backstay.NewSecret(data), nil
	}
	passphrase, err := ask()
	if err != nil {
		return none, err
	}
	id, err := age.NewScryptIdentity(string(passphrase.Reveal()))
	if err == nil {
		var plain io.Reader
		if plain, err = age.Decrypt(sealed, id); err == nil {
			data, err = io.ReadAll(io.LimitReader(plain, maxKeyFile))
		}
	}
	var wrong *age.NoIdentityMatchError
	if errors.As(err, &wrong) {
		return none, backstay.Errorf(backstay.CodeVaultKey, "the passphrase does not open the key file").
			Becausef("it is another one, or the file is not encrypted with a passphrase")
	}
	if err != nil {
		return none, backstay.Errorf(backstay.CodeVaultKey, "the key file cannot be decrypted").Becausef("it is damaged, or the passphrase is empty")
	}
	return backstay.NewSecret(data), nil
}
