//go:build integration && soak

package hostile

// whole: all cases are tried, and not only a sample.
const whole = true

// rounds of damage, one file system of each kind in each.
const rounds = 250
