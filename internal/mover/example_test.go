package mover_test

import (
	"context"
	"fmt"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/mover"
	"github.com/backstay/backstay/internal/mover/movertest"
)

// A point in the snapshot tier takes two calls: everything slow, then the instant.
func ExampleSnapshots() {
	ctx := context.Background()
	var m mover.Mover = movertest.NewFake([]byte("key"))
	vms, err := m.VMs(ctx)
	if err != nil {
		panic(err)
	}
	_, err = m.Prepare(ctx, mover.PrepareRequest{Point: "P", VM: vms[0].ID, Disks: []backstay.DiskTarget{"vda", "vdb"}})
	fmt.Println(err)
	taken, err := m.Take(ctx, mover.TakeRequest{Point: "P", VM: vms[0].ID})
	fmt.Println(taken.Point, len(taken.Disks), err)
	// Output:
	// <nil>
	// P 2 <nil>
}
