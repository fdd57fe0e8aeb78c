package server

import backstay "github.com/backstay/backstay"

// Route is a row of the table of routes, for the docs and the tests that go
// over all of them.
type Route struct {
	ID, Method, Path, Says string
	Need                   backstay.Role // "" needs no token
	Plain                  bool          // not part of the OpenAPI document
	Files                  bool          // needs the right to files, too
	Owners                 bool          // but not of an owner
	Ticket                 bool          // may be used with a session's ticket
	Scoped                 bool          // open to a token of one point, for what is that point's
}

// Routes returns the table of routes.
func Routes() []Route {
	out := make([]Route, len(routes))
	for i, r := range routes {
		out[i] = Route{ID: r.id, Method: r.method, Path: r.path, Says: r.says, Need: r.need, Plain: r.plain, Files: r.files, Owners: r.owners, Ticket: r.ticket, Scoped: r.scoped}
	}
	return out
}
