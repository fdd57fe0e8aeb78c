// Package redundancy brings a vault's storage units to what is wished for. A unit
// that is new, or that was recorded as lost and answers again, is made one that the
// vault can be opened with, is written from then on, gets all that it lacks, and
// only then counts as a copy. Units that are to leave go when they are not needed.
//
// What a unit is to the vault stands in the catalogue: every step reads it there,
// does one thing, and writes it there, so a run that is cut off anywhere is gone on
// with by the next. The package reads and writes no unit itself, and decides
// nothing about what is sound: it asks Units.
package redundancy
