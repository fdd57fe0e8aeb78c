package link

import (
	"net"
	"time"
)

// timing is how long what may take. Tests have their own.
type timing struct {
	dial    time.Duration // until a connection is made
	silence time.Duration // without a byte in either direction, before a connection counts as lost
	alive   time.Duration // between two signs of life; well below silence
	answer  time.Duration // from the end of a request, or the last piece of a stream, to the next or the outcome
	idle    time.Duration // until an unused connection is given up; below silence, and below the other side's
}

var defaultTiming = timing{dial: 10 * time.Second, silence: 30 * time.Second, alive: 5 * time.Second, answer: 15 * time.Minute, idle: 20 * time.Second}

// watchedConn gives up when nothing moved for so long: a cut cable sends no word.
type watchedConn struct {
	net.Conn
	silence time.Duration
}

// Read waits for so long at most, from the last byte in either direction on.
func (c watchedConn) Read(p []byte) (int, error) {
	if err := c.SetReadDeadline(time.Now().Add(c.silence)); err != nil {
		return 0, err
	}
	return c.Conn.Read(p)
}

// Write puts off the end of a Read that waits meanwhile: while a request is being
// sent, no answer is due.
func (c watchedConn) Write(p []byte) (int, error) {
	if err := c.SetWriteDeadline(time.Now().Add(c.silence)); err != nil {
		return 0, err
	}
	n, err := c.Conn.Write(p)
	if n > 0 {
		_ = c.SetReadDeadline(time.Now().Add(c.silence)) // fails on a closed connection, as the read does
	}
	return n, err
}
