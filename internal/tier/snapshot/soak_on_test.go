//go:build soak

package snapshot

// How long the model runs.
const (
	modelSeeds = 150
	modelSteps = 200
)
