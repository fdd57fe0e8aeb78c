package recover_test

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"filippo.io/age"
	"filippo.io/age/armor"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/recover"
)

// sealed encrypts a key file with a passphrase, as `age -p` does.
func sealed(t *testing.T, text, passphrase string, armored bool) []byte {
	t.Helper()
	to, err := age.NewScryptRecipient(passphrase)
	if err != nil {
		t.Fatal(err)
	}
	to.SetWorkFactor(10)
	var out bytes.Buffer
	var w io.WriteCloser = nopCloser{&out}
	if armored {
		w = armor.NewWriter(&out)
	}
	enc, err := age.Encrypt(w, to)
	if err == nil {
		_, err = io.WriteString(enc, text)
	}
	if err := errors.Join(err, enc.Close(), w.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

func TestAKeyFileIsTakenAsItIsOrDecrypted(t *testing.T) {
	const text = "# mine\nAGE-SECRET-KEY-HUNTER2\n"
	never := func() (backstay.Secret, error) {
		t.Error("a passphrase was asked for")
		return backstay.Secret{}, nil
	}
	if key, err := recover.ReadKey(strings.NewReader(text), never); err != nil || string(key.Reveal()) != text {
		t.Errorf("a plain file: %v", err)
	}
	for _, armored := range []bool{false, true} {
		file := sealed(t, text, "correct horse", armored)
		say := func(passphrase string) func() (backstay.Secret, error) {
			return func() (backstay.Secret, error) { return backstay.NewSecret([]byte(passphrase)), nil }
		}
		if key, err := recover.ReadKey(bytes.NewReader(file), say("correct horse")); err != nil || string(key.Reveal()) != text {
			t.Errorf("armored %v: %v", armored, err)
		}
		_, err := recover.ReadKey(bytes.NewReader(file), say("battery staple"))
		wantCode(t, err, backstay.CodeVaultKey, "passphrase does not open")
		_, err = recover.ReadKey(bytes.NewReader(file), say(""))
		wantCode(t, err, backstay.CodeVaultKey)
		_, err = recover.ReadKey(bytes.NewReader(file[:len(file)-9]), say("correct horse"))
		wantCode(t, err, backstay.CodeVaultKey)
		gone := errors.New("nobody is there")
		if _, err = recover.ReadKey(bytes.NewReader(file), func() (backstay.Secret, error) { return backstay.Secret{}, gone }); !errors.Is(err, gone) {
			t.Errorf("without a passphrase: %v", err)
		}
	}
	_, err := recover.ReadKey(bytes.NewReader(make([]byte, 2<<20)), never)
	wantCode(t, err, backstay.CodeVaultKey, "too long")
}
