package recover

import backstay "github.com/backstay/backstay"

// SetFreeBytes makes every folder have so much room until the function that is
// returned is called.
func SetFreeBytes(n int64) (undo func()) {
	was := freeBytes
	freeBytes = func(string) (int64, error) { return n, nil }
	return func() { freeBytes = was }
}

// NamesFile is namesFile.
func NamesFile(target string) error { return namesFile(backstay.DiskTarget(target)) }
