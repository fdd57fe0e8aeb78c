package api_test

import (
	"fmt"
	"testing"

	"github.com/backstay/backstay/api"
)

func ExamplePath() {
	fmt.Println(api.Path(api.PathVM, "east/web01"))
	fmt.Println(api.Path(api.PathPointVerify, "web01@2026-11-22T10:00:00Z"))
	// Output:
	// /v1/vms/east%2Fweb01
	// /v1/points/web01@2026-11-22T10:00:00Z/verify
}

func TestPathLeavesNothingToSmuggle(t *testing.T) {
	if got := api.Path(api.PathJobCancel, "../../tokens?x=#"); got != "/v1/jobs/..%2F..%2Ftokens%3Fx=%23/cancel" {
		t.Error(got)
	}
}
