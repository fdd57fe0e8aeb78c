package guest

import (
	"encoding/binary"
	"testing"
)

func TestBootRecordHasTwoPartitionsSideBySide(t *testing.T) {
	record := bootRecord([]byte("code"))
	if len(record) != sector || record[510] != 0x55 || record[511] != 0xaa {
		t.Fatal("no boot signature")
	}
	first, second := record[446:462], record[462:478]
	if first[0] != 0x80 || first[4] != 0xef || second[4] != 0x83 {
		t.Error("first partition must be active and EFI, the second Linux")
	}
	end := binary.LittleEndian.Uint32(first[8:]) + binary.LittleEndian.Uint32(first[12:])
	if start := binary.LittleEndian.Uint32(second[8:]); start != end {
		t.Errorf("second partition begins at sector %d, the first ends at %d", start, end)
	}
}

func TestKeyChangesWithWhatGoesIn(t *testing.T) {
	a, err := inputs{versions: []string{"agent 1"}}.key()
	if err != nil {
		t.Fatal(err)
	}
	b, err := inputs{versions: []string{"agent 2"}}.key()
	if err != nil {
		t.Fatal(err)
	}
	if a == b {
		t.Error("two versions of the agent give one key")
	}
}
