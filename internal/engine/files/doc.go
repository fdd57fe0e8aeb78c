// Package files keeps the sessions of item-level restore of a region: which points
// are open, on which host, for whom and for how long. Everything is in memory: no
// session survives the server, and what hosts still have of an earlier server's is
// closed when they are reached.
//
// It chooses the tier and the host, and carries requests to the host's mover. It
// parses nothing of a disk and keeps no content; who may do what is the server's.
package files
