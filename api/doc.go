// Package api is the wire contract of the HTTP API: the requests and responses
// that are not words of the product themselves, and the names of the routes.
// The words (VM, recovery point, job …) are in the root package and carry
// their own JSON form.
//
// It has no behaviour: serving is internal/server, calling is client.
package api
