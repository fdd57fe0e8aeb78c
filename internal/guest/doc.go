// Package guest runs the small machines in which the file systems of recovery
// points are parsed, and speaks with them. Whoever owns a guest wrote its disks: a
// file system is hostile input, which neither the host's kernel nor a process of
// ours reads. A small machine has a kernel and tools of Debian's, no network and no
// file of the host; its disks are served to it over NBD, and what it writes to them
// goes to an overlay that is thrown away with it.
package guest
