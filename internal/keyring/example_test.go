package keyring_test

import (
	"context"
	"errors"
	"fmt"
	"os"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/keyring"
	"github.com/backstay/backstay/internal/keyring/file"
)

func ExampleKeyring() {
	dir, err := os.MkdirTemp("", "keyring")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	ctx := context.Background()
	var keys keyring.Keyring = file.New(dir)
	_, err = keys.Key(ctx, "host-key")
	fmt.Println(errors.Is(err, keyring.ErrNoKey))
	key, err := keys.Create(ctx, "host-key", func() (backstay.Secret, error) {
		return backstay.NewSecret([]byte("thirty-two bytes, in real life")), nil
	})
	fmt.Println(key, len(key.Reveal()), err)
	// Output:
	// true
	// ***** 30 <nil>
}
