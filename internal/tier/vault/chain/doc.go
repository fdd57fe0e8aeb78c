// Package chain is a vault's journal: small authenticated records, each with
// the hash of the one before, that say which points were committed and dropped
// and what may be deleted. A manifest that was taken away, one that was put back,
// and an older state of the whole vault are noticed by it.
//
// It knows keys only as a function that authenticates, and packs only by their
// ids. It decides nothing: whoever appends says what, after having been shown
// the state that every record before leads to.
package chain
