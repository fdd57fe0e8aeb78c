// Package volumes keeps the volumes of one recovery point whose disks are plugged into
// a small machine, and opens those that are locked: outside of the machine where that
// can be done, else inside, with keys that somebody gave or that the point itself
// holds. It reads ahead of who reads a vault's disk in a row. Where disks come from, how
// they are served and who asks is not its business.
package volumes
