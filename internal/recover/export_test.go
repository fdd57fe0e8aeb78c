package recover

// SetFreeBytes makes every folder have so much room until the function that is
// returned is called.
func SetFreeBytes(n int64) (undo func()) {
	was := freeBytes
	freeBytes = func(string) (int64, error) { return n, nil }
	return func() { freeBytes = was }
}
