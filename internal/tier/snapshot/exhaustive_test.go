//go:build !integration

package snapshot

// exhaustive tells whether crash tests also go over every power state.
const exhaustive = false
