// Package recover is the offline tool: from storage units and a key alone, with
// no server, no catalogue and no configuration, it lists recovery points,
// restores their disks, verifies them and serves them (I14).
//
// It works with whatever copies are left and says which units it could not use
// and why. It only reads: nothing is ever written to a storage unit. It starts no
// VM; it writes disks, the definition and a text that says how to use both.
package recover
