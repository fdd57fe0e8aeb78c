package backup

import (
	"slices"
	"strings"
	"testing"

	backstay "github.com/backstay/backstay"
)

func vm() backstay.VM {
	return backstay.VM{Name: "web01", State: backstay.VMRunning, Agent: backstay.AgentConnected, Disks: []backstay.Disk{
		{Target: "vda", Device: "disk"}, {Target: "vdb", Device: "disk"},
		{Target: "sda", Device: "cdrom", Reason: "a CD-ROM is not backed up"},
	}}
}

func TestEveryPossibleDiskIsIncludedAndACDROMIsNoWarning(t *testing.T) {
	p, err := NewPlan(vm(), Wish{})
	if err != nil || !slices.Equal(p.Targets(), []backstay.DiskTarget{"vda", "vdb"}) || len(p.Warnings) > 0 {
		t.Errorf("%+v, %v", p, err)
	}
}

func TestAnImpossibleDiskIsNamedAndTheRestIsBackedUp(t *testing.T) {
	v := vm()
	v.Disks[1].Reason = "it is shared with other VMs"
	p, err := NewPlan(v, Wish{})
	if err != nil || !slices.Equal(p.Targets(), []backstay.DiskTarget{"vda"}) {
		t.Fatalf("%+v, %v", p, err)
	}
	if len(p.Warnings) != 1 || !strings.Contains(p.Warnings[0], "vdb") || !strings.Contains(p.Warnings[0], "shared") {
		t.Errorf("warnings %q", p.Warnings)
	}
}

func TestADiskThatTheUserLeftOutIsNoWarning(t *testing.T) {
	v := vm()
	v.Disks[1].Reason = "it is shared with other VMs"
	p, err := NewPlan(v, Wish{Item: backstay.ProtectedItem{Excluded: []backstay.DiskTarget{"vdb"}}})
	if err != nil || len(p.Warnings) > 0 || !slices.Equal(p.Targets(), []backstay.DiskTarget{"vda"}) {
		t.Errorf("%+v, %v", p, err)
	}
}

func TestWithoutAPossibleDiskTheBackupIsRefusedWithEachReason(t *testing.T) {
	v := vm()
	v.Disks[0].Reason, v.Disks[1].Reason = "it is on the network", "it is shared"
	_, err := NewPlan(v, Wish{})
	if !backstay.IsCode(err, backstay.CodeNoDisks) || !strings.Contains(err.Error(), "vda: it is on the network; vdb: it is shared") {
		t.Errorf("%v", err)
	}
}

func TestConsistencySaysWhatTheGuestAllowsAndWhy(t *testing.T) {
	for _, c := range []struct {
		state backstay.VMState
		agent backstay.AgentState
		wish  backstay.Consistency
		want  backstay.Consistency
	}{
		{backstay.VMRunning, backstay.AgentConnected, backstay.FileSystemConsistent, backstay.FileSystemConsistent},
		{backstay.VMRunning, backstay.AgentConnected, backstay.CrashConsistent, backstay.CrashConsistent},
		{backstay.VMRunning, backstay.AgentNone, backstay.FileSystemConsistent, backstay.CrashConsistent},
		{backstay.VMRunning, backstay.AgentDisconnected, backstay.FileSystemConsistent, backstay.CrashConsistent},
		{backstay.VMShutOff, backstay.AgentDisconnected, backstay.FileSystemConsistent, backstay.CrashConsistent},
	} {
		v := vm()
		v.State, v.Agent = c.state, c.agent
		p, err := NewPlan(v, Wish{Consistency: c.wish})
		if err != nil || p.Consistency != c.want || p.Reason == "" {
			t.Errorf("%+v: %s (%s), %v", c, p.Consistency, p.Reason, err)
		}
	}
}
