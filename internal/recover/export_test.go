package recover

import (
	"context"

	backstay "github.com/backstay/backstay"
)

// SetFreeBytes makes every folder have so much room until the function that is
// returned is called.
func SetFreeBytes(n int64) (undo func()) {
	was := freeBytes
	freeBytes = func(string) (int64, error) { return n, nil }
	return func() { freeBytes = was }
}

// NamesFile is namesFile.
func NamesFile(target string) error { return namesFile(backstay.DiskTarget(target)) }

// WithMachine makes the files be read in a machine of a test's, which ends when end is
// called.
func (o FilesOptions) WithMachine(m machine, end func() error) FilesOptions {
	o.start = func(context.Context, string, string) (machine, func() error, error) { return m, end, nil }
	return o
}
