// Package soak holds what is tried very often on a real guest: kills at every step
// of backups and merges, a writer whose order must never be broken by a snapshot,
// full disks, hung agents, and points that come and go at random beside a model.
//
// `make test` tries a seeded random sample of the cases; `make soak` (build tag
// `soak`) tries all. The seed is printed, and BACKSTAY_SEED=N repeats a run. One
// world and one guest serve all tests, since a boot takes longer than most cases;
// a test that failed leaves them, and the next one makes new ones.
package soak
