//go:build integration && soak

package soak

// whole: all cases are tried, and not only a sample.
const whole = true
