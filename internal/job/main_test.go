package job_test

import (
	"testing"

	"go.uber.org/goleak"
)

// TestMain fails if a goroutine is left: each has an owner that waits for it.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
