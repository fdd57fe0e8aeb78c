// Package blobtest runs the conformance suite of the blob port (package conform)
// as Go tests. Every adapter and wrapper is tested with it.
package blobtest

import (
	"testing"

	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/blob/conform"
)

// Run runs the suite in a size that is quick. fresh returns an empty store for
// each test.
func Run(t *testing.T, fresh func(t *testing.T) blob.Store) {
	RunSized(t, conform.Options{Large: 5 << 20, Many: 30}, fresh)
}

// RunSized runs the suite in the given size. What `backstay unit check` only warns
// of is a failure here.
func RunSized(t *testing.T, o conform.Options, fresh func(t *testing.T) blob.Store) {
	for _, c := range conform.Checks() {
		t.Run(c.Rule, func(t *testing.T) {
			if err := c.Run(t.Context(), fresh(t), o); err != nil {
				t.Error(err)
			}
		})
	}
}
