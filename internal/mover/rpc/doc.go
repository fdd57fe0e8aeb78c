// Package rpc carries mover.Mover over a socket: Serve on the host's side,
// Dial on the server's. It is the only way from the server to a host's disks.
//
// A call is POST /mover/v1/<Method>. The request body is a stream of JSON lines:
// the request itself, then a beat every few seconds, and a cancel line if the
// caller gives up. The answer is a stream of JSON lines as well: beats, progress,
// and last either the result or a coded error. Whichever side hears no beat for
// too long takes the other for dead: the host's side cancels the call, the
// client's side reports CodeHostAway. GET /mover/v1/hello tells the protocol's
// number, and every call names it, so that unlike versions fail with words.
//
// A call whose result is bytes, ReadFile and TakeFiles, sends them between the
// lines: a line tells how many follow it. They end with the last line and by
// nothing else, so a connection that is cut is never taken for their end. Whoever
// reads slowly holds the host up, not the other calls.
//
// A call that is cancelled returns when the host has undone it, not before, so
// that what comes next does not meet it half way.
//
// The vault's key travels in requests that need it and is printed nowhere (I10).
// The package is transport only: it knows no disk, no vault and no hypervisor.
package rpc

import "time"

// Protocol is the number of the protocol that this package speaks.
const Protocol = 2

const (
	pathPrefix     = "/mover/v1/"
	protocolHeader = "Backstay-Mover-Protocol"
	maxRequest     = 16 << 20 // bytes of one request
)

// timing is how often a side gives a sign of life and for how long it bears
// silence of the other. A test makes them short.
type timing struct {
	beat    time.Duration
	silence time.Duration
	// grace is how long a cancelled caller waits for the host to have undone.
	grace time.Duration
	// gap is the least time between two reports of one phase.
	gap time.Duration
}

func defaultTiming() timing {
	return timing{beat: 5 * time.Second, silence: 20 * time.Second, grace: 2 * time.Minute, gap: 100 * time.Millisecond}
}
