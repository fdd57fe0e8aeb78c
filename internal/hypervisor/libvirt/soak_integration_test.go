//go:build integration && soak

package libvirt_test

func init() { everySource = true }
