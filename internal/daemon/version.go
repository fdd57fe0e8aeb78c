package daemon

import "runtime/debug"

// Version is the program's version as its build recorded it: a module version,
// or "devel" for a build from a working copy.
func Version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" || info.Main.Version == "(devel)" {
		return "devel"
	}
	return info.Main.Version
}
