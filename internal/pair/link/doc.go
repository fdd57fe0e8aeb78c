// Package link carries the calls of pair.Holder between the servers of two regions,
// over TLS 1.3 with certificates that both sides pinned when they were paired.
//
// The certificates are self-signed, and their fingerprint is all that counts: there
// is no authority, no name and no date to check. A server that calls with a
// certificate that nobody pinned can do one thing, which is to pair, with a token
// that the other server made (Token).
//
// Each call is one request of HTTP/1.1 on a connection that is used again. Answers
// are framed (frame.go): while the other side works it sends signs of life, and an
// answer that is cut is never taken for a whole one. Nothing waits for ever: not for
// a connection, a byte, or an answer (timing).
//
// It holds nothing and decides nothing: what may be put is for the Holder to say, and
// what is done with what comes back for the caller. Neither end believes the other's
// sizes.
package link
