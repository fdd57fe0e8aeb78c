package qemu

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"
	"syscall"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
)

func TestAMapHoldsDataAndExplicitZerosAndJoinsNeighbours(t *testing.T) {
	const list = `[{"start":0,"length":4096,"depth":0,"present":true,"zero":false,"data":true,"offset":65536},
		{"start":4096,"length":4096,"depth":0,"present":true,"zero":true,"data":false},
		{"start":8192,"length":8192,"depth":0,"present":false,"zero":true,"data":false},
		{"start":16384,"length":4096,"depth":0,"present":true,"zero":true,"data":false}]`
	ranges, covered, err := readMap(strings.NewReader(list))
	want := []backstay.Range{{Offset: 0, Length: 8192}, {Offset: 16384, Length: 4096}}
	if err != nil || covered != 20480 || !reflect.DeepEqual(ranges, want) {
		t.Errorf("got %v, %d, %v", ranges, covered, err)
	}
}

// A map with a gap, or cut short, would lose changes without a word (I7).
func TestAnIncompleteMapIsAnError(t *testing.T) {
	for _, list := range []string{
		``, `[`, `{}`, `[{"start":0,"length":4096,"present":true}`,
		`[{"start":4096,"length":4096,"present":true}]`,
		`[{"start":0,"length":4096,"present":true},{"start":8192,"length":4096,"present":true}]`,
		`[{"start":0,"length":0,"present":true}]`,
		`[{"start":0,"length":4096,"depth":0}]`, // qemu-img before 6.1
	} {
		if ranges, _, err := readMap(strings.NewReader(list)); err == nil {
			t.Errorf("%s gave %v", list, ranges)
		}
	}
}

func TestToolsWordsBecomeErrorsByWhichCallersDecide(t *testing.T) {
	exit := errors.New("exit status 1")
	for words, want := range map[string]error{
		`qemu-img: Could not open 'x': Failed to get "write" lock` + "\nIs another process using the image [x]?": hypervisor.ErrLocked,
		`qemu-nbd: Failed to blk_new_open 'x': Failed to get shared "consistent read" lock`:                      hypervisor.ErrLocked,
		`qemu-img: x: Could not resize file: No space left on device`:                                            syscall.ENOSPC,
		`qemu-img: Could not open 'x': Could not open 'x': No such file or directory`:                            os.ErrNotExist,
		`qemu-img: Could not open 'x': Image is not in qcow2 format`:                                             exit,
		``: exit,
	} {
		if err := toolError("qemu-img", words, exit); !errors.Is(err, want) || !strings.Contains(err.Error(), strings.TrimSpace(words)) {
			t.Errorf("%q became %v", words, err)
		}
	}
	if err := noSpace(fmt.Errorf("write: %w", syscall.ENOSPC), "x"); !backstay.IsCode(err, backstay.CodeNoSpace) {
		t.Errorf("got %v", err)
	}
}
