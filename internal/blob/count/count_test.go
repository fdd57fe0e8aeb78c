package count_test

import (
	"testing"

	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/blob/blobtest"
	"github.com/backstay/backstay/internal/blob/count"
	"github.com/backstay/backstay/internal/blob/mem"
	"github.com/backstay/backstay/internal/blob/replica"
)

func TestCountingChangesNothing(t *testing.T) {
	blobtest.Run(t, func(t *testing.T) blob.Store { return count.Wrap(mem.New()) })
}

func TestEachRequestOfEachCopyIsCounted(t *testing.T) {
	a, b := count.Wrap(mem.New()), count.Wrap(mem.New())
	both := replica.New(a, b)
	if err := both.Put(t.Context(), "x", []byte("y")); err != nil {
		t.Fatal(err)
	}
	before := both.Requests()
	if before < 2 || before != a.Requests()+b.Requests() {
		t.Errorf("%d requests for one put into two copies, %d and %d", before, a.Requests(), b.Requests())
	}
	if _, err := both.Get(t.Context(), "nothing", 0, -1); err == nil {
		t.Fatal("nothing was there")
	}
	if both.Requests() <= before {
		t.Error("a failed request is not counted")
	}
}
