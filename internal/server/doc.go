// Package server is the HTTP API of a region: it authenticates, allows,
// audits, and turns requests into reads of the catalogue and into jobs. It
// generates its own OpenAPI 3.1 document from the same Go types.
//
// It does none of the work itself: jobs are run by the engines behind the
// queue, plans are made by a Planner, and nothing here opens a disk, a vault or
// a socket to a host. Listening and stopping are the daemon's business.
package server
