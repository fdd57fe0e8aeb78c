//go:build integration

package guest

import (
	"encoding/json"
	"os/exec"
	"testing"
)

func TestAnEmptyOverlayIsAnImageThatHoldsNothing(t *testing.T) {
	for _, size := range []int64{512, 1<<20 + 512, 100 << 30, largeDisk, largeDisk + 512, 60 << 40} {
		file, err := overlay(t.TempDir(), size)
		if err != nil {
			t.Fatal(err)
		}
		const path = "/dev/fd/3"
		check := exec.Command("qemu-img", "check", "-f", "qcow2", "--output=json", path)
		info := exec.Command("qemu-img", "info", "-f", "qcow2", "--output=json", path)
		for _, cmd := range []*exec.Cmd{check, info} {
			cmd.ExtraFiles = append(cmd.ExtraFiles, file)
		}
		if out, err := check.CombinedOutput(); err != nil {
			t.Errorf("%d bytes: %v: %s", size, err, out)
		}
		out, err := info.Output()
		var says struct {
			Virtual int64 `json:"virtual-size"`
		}
		if err != nil || json.Unmarshal(out, &says) != nil || says.Virtual != size {
			t.Errorf("%d bytes: %v: %s", size, err, out)
		}
		file.Close()
	}
}
