// Package hostile shows that nobody but the session that opened it notices a disk
// whose owner means harm, or which is damaged: file systems, volumes and partition
// tables that lie. Its disks are made here, opened in small machines and read from
// end to end, while another session goes on reading.
//
// `make test` runs a sample, `make soak` thousands of damaged disks. A run prints
// its seed; BACKSTAY_SEED repeats it.
package hostile
