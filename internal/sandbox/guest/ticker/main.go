// Command ticker writes 4 KiB and waits for it to be durable, every 5 ms, and
// tells how long the worst write took. It runs inside the sandbox's guests: what
// it prints is what a backup costs the guest (I12).
//
//	ticker FILE SECONDS
package main

import (
	"fmt"
	"os"
	"strconv"
	"syscall"
	"time"
)

const (
	block  = 4096
	blocks = 256
	pause  = 5 * time.Millisecond
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: ticker FILE SECONDS")
		os.Exit(2)
	}
	seconds, err := strconv.ParseFloat(os.Args[2], 64)
	if err == nil {
		err = tick(os.Args[1], time.Duration(seconds*float64(time.Second)))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "ticker:", err)
		os.Exit(1)
	}
}

// tick writes for the given time. Each block carries its number, so that two
// files written in turn show by a gap if their disks were not of one instant.
func tick(path string, duration time.Duration) error {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	defer file.Close()
	buf := make([]byte, block)
	var worst time.Duration
	writes := 0
	for begin := time.Now(); time.Since(begin) < duration; writes++ {
		clear(buf)
		copy(buf, fmt.Sprintf("write %d\n", writes))
		start := time.Now()
		if _, err := file.WriteAt(buf, int64(writes%blocks)*block); err != nil {
			return err
		}
		if err := syscall.Fdatasync(int(file.Fd())); err != nil {
			return err
		}
		worst = max(worst, time.Since(start))
		time.Sleep(pause)
	}
	fmt.Printf("writes %d worst-ms %.1f\n", writes, float64(worst.Microseconds())/1000)
	return nil
}
