package server_test

import (
	"context"
	"fmt"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/api"
	"github.com/backstay/backstay/internal/server/servertest"
)

// TestPointsOfAVMThatIsGoneGoToTheOneThatItsOwnerNames, and of no other.
func TestPointsOfAVMThatIsGoneGoToTheOneThatItsOwnerNames(t *testing.T) {
	w := start(t)
	body := `{"policy":"daily","vault":"default","adopt":"local/web01"}`
	refused(t, w, "PUT", "/v1/vms/db01/protection", body, 409, backstay.CodeConflict)
	ctx := context.Background()
	before, err := w.Catalog.Points.ListPoints(ctx, servertest.Web)
	if err != nil || len(before) == 0 {
		t.Fatal(len(before), err)
	}
	vms, err := w.Catalog.VMs.ListVMs(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var left []backstay.VM
	for _, vm := range vms {
		if vm.Host == "local" && vm.ID != servertest.Web {
			left = append(left, vm)
		}
	}
	if err := w.Catalog.VMs.ReplaceVMs(ctx, "local", left); err != nil {
		t.Fatal(err)
	}
	got := as[api.ProtectResponse](t, w, backstay.Owner, "PUT", "/v1/vms/db01/protection", body)
	if fmt.Sprint(got.Item.Adopted) != fmt.Sprint([]backstay.VMID{servertest.Web}) {
		t.Errorf("adopted %v", got.Item.Adopted)
	}
	after, err := w.Catalog.Points.ListPoints(ctx, servertest.DB)
	if err != nil || len(after) < len(before) {
		t.Errorf("%d of %d points came over, %v", len(after), len(before), err)
	}
	if _, err := w.Catalog.Items.Item(ctx, servertest.Web); err == nil {
		t.Error("the old item is still there")
	}
	// What was adopted stays so when the protection changes.
	got = as[api.ProtectResponse](t, w, backstay.Operator, "PUT", "/v1/vms/db01/protection", `{"policy":"daily","vault":"default"}`)
	if len(got.Item.Adopted) != 1 {
		t.Errorf("adopted afterwards %v", got.Item.Adopted)
	}
}
