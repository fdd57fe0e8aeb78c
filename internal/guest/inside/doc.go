// Package inside is the program that runs in a small machine as its only process:
// it finds volumes, mounts them and answers what package guest asks.
package inside
