//go:build !soak

package snapshot

// How long the model runs; `make soak` runs more of it.
const (
	modelSeeds = 4
	modelSteps = 50
)
