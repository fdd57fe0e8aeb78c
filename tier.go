package backstay

// Range is a run of bytes of a disk: [Offset, Offset+Length).
type Range struct {
	Offset int64 `json:"offset"`
	Length int64 `json:"length"`
}

// End returns the first byte behind the range.
func (r Range) End() int64 { return r.Offset + r.Length }

// TotalLength adds up the lengths of the ranges, in bytes.
func TotalLength(ranges []Range) int64 {
	var total int64
	for _, r := range ranges {
		total += r.Length
	}
	return total
}
