// Package keyringtest is the conformance suite of the keyring port.
package keyringtest

import (
	"bytes"
	"errors"
	"fmt"
	"sync"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/keyring"
)

// Run runs the suite. open returns the same, at first empty, keyring each time.
func Run(t *testing.T, open func() keyring.Keyring) {
	k := open()
	if _, err := k.Key(t.Context(), "host-key"); !errors.Is(err, keyring.ErrNoKey) {
		t.Errorf("a key that was never made: %v", err)
	}
	broken := errors.New("no entropy")
	_, err := k.Create(t.Context(), "host-key", func() (backstay.Secret, error) { return backstay.Secret{}, broken })
	if !errors.Is(err, broken) {
		t.Errorf("a key that could not be made: %v", err)
	}
	var wg sync.WaitGroup
	got := make([]backstay.Secret, 8)
	for i := range got {
		wg.Go(func() {
			var err error
			got[i], err = open().Create(t.Context(), "host-key", func() (backstay.Secret, error) {
				return backstay.NewSecret(fmt.Appendf(nil, "secret %d", i)), nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for i := range got {
		if !bytes.Equal(got[i].Reveal(), got[0].Reveal()) {
			t.Errorf("two callers got different keys")
		}
	}
	again, err := open().Key(t.Context(), "host-key")
	if err != nil || !bytes.Equal(again.Reveal(), got[0].Reveal()) {
		t.Errorf("the key is not the same later: %v", err)
	}
	for _, name := range []string{"", "../x", "a/b", "A", "x.y"} {
		if _, err := k.Key(t.Context(), name); err == nil || errors.Is(err, keyring.ErrNoKey) {
			t.Errorf("key name %q: %v", name, err)
		}
	}
}
