// Package wire is what a small machine and its client say to each other: frames on
// one channel, and the messages of each operation. Neither side believes the other
// in a length, an order or a name.
package wire
