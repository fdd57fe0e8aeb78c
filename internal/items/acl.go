package items

import (
	"encoding/binary"
	"fmt"
	"strings"
)

// The kinds of entry in the kernel's form of a POSIX ACL.
var aclKinds = map[uint16]string{0x01: "user", 0x02: "user", 0x04: "group", 0x08: "group", 0x10: "mask", 0x20: "other"}

// aclText returns a POSIX ACL in the text that archives have, with numeric names; false
// if the kernel's form of it is no such thing.
func aclText(value []byte) (string, bool) {
	if len(value) < 4 || binary.LittleEndian.Uint32(value) != 2 || (len(value)-4)%8 != 0 {
		return "", false
	}
	var all []string
	for entry := value[4:]; len(entry) > 0; entry = entry[8:] {
		tag, perm, id := binary.LittleEndian.Uint16(entry), binary.LittleEndian.Uint16(entry[2:]), binary.LittleEndian.Uint32(entry[4:])
		kind, ok := aclKinds[tag]
		if !ok || perm > 7 {
			return "", false
		}
		text := []byte("rwx")
		for i := range text {
			if perm&(4>>i) == 0 {
				text[i] = '-'
			}
		}
		if tag == 0x02 || tag == 0x08 {
			all = append(all, fmt.Sprintf("%s:%d:%s:%d", kind, id, text, id))
		} else {
			all = append(all, fmt.Sprintf("%s::%s", kind, text))
		}
	}
	return strings.Join(all, ","), true
}
