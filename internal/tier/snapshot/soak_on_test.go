//go:build soak

package snapshot

// How long the model runs.
const (
	modelSeeds = 500
	modelSteps = 250
)
