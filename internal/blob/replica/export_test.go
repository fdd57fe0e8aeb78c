package replica

import "time"

// SetNow lets a test say what time it is.
func (s *Store) SetNow(now func() time.Time) { s.now = now }
