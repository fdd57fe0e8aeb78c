package guest

import (
	"fmt"
	"os"
	"os/exec"
	"testing"
)

func TestAMachineGoesBeforeAnyGuestWhereMemoryRunsOut(t *testing.T) {
	cmd := exec.Command("cat")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = in.Close(); _ = cmd.Wait() }()
	goesFirst(cmd.Process.Pid)
	if score, err := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", cmd.Process.Pid)); err != nil || string(score) != "1000\n" {
		t.Errorf("%q, %v", score, err)
	}
}
