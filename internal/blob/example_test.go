package blob_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/blob/mem"
)

func ExampleStore() {
	ctx := context.Background()
	var store blob.Store = mem.New()
	fmt.Println(store.Put(ctx, "points/one", []byte("sealed")))
	fmt.Println(errors.Is(store.Put(ctx, "points/one", []byte("other")), blob.ErrExist))
	part, err := store.Get(ctx, "points/one", 2, 3)
	fmt.Println(string(part), err)
	err = store.List(ctx, "points/", func(i blob.Info) error {
		fmt.Println(i.Name, i.Size)
		return nil
	})
	fmt.Println(err)
	// Output:
	// <nil>
	// true
	// ale <nil>
	// points/one 6
	// <nil>
}
