// Package fileindex is the list of a VM's files over its recovery points: what Find
// searches. It holds the format and the decisions, and does no input or output
// (formats: docs/formats/find.md).
//
// The list is a history. An Event says that from one point on a path is this, or is
// gone; so a row costs nothing in the points in which it did not change. Events lie in
// layers, each for some points that follow each other, and a layer lies in segments of
// bounded size. To add a point is to add a layer of what changed; Plan says which of
// the newest layers are merged with it, so that there are always few and a search
// reads little more than the files of one point. A point that expires takes nothing
// with it but what only it had, and that goes with the next merge.
//
// The rows come from a small machine that parsed hostile disks, and are checked; the
// decoder believes nothing either.
package fileindex
