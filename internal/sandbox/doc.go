// Package sandbox makes a whole world on one machine: hosts with a libvirt and a
// mover of their own, real guests on them, and a region that protects them. The
// demo, the integration tests and the stories run in it.
//
// A host is a set of processes in a mount and a network namespace in which the
// folders of libvirt are folders of the world, so that nothing of the machine's
// own libvirt is read or written, and a host's disk paths do not exist outside
// it. A world leaves nothing when it goes down: no process, mount, socket or file.
//
// Two worlds can stand for two regions (Regions): each server has a network
// of its own, and only a link joins them, which can be slow, cut or bad.
//
// It starts `backstay` as child processes and talks to it as any client does; it
// is no part of the product, and nothing of the product knows of it.
package sandbox
