// Package backstay holds the words of the product: VM, recovery point, tier,
// vault, policy, job, restore. Every other package speaks in them.
//
// The package imports the standard library only, does no I/O and reads no clock:
// a decision that depends on the time takes it as an argument. The words carry
// their JSON form, because they are also what the HTTP API, the CLI's
// "-o json" and the mover's RPC send (docs/decisions/0003).
//
// It is not the place for engines, storage or transport: those are under
// internal/, one folder for each word.
package backstay
