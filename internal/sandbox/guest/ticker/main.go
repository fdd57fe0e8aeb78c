// Command ticker writes 4 KiB and waits for it to be durable, every 5 ms, and
// tells how long the worst write took. It runs inside the sandbox's guests: what
// it prints is what a backup costs the guest (I12). It has the other small
// programs too that measurements and tests need in a guest.
//
//	ticker [-trim MS] [-json] FILE... SECONDS   as above, in each file at once; SIGTERM ends it early
//	ticker order FILE FILE                      write a growing number to both in turn, until it is ended
//	ticker fill FILE OFFSET BYTES SEED          content that nothing compresses, durable at the end
//	ticker write random|sequential FILE BYTES SECONDS [BLOCK]   how much can be written
//	ticker scatter FILE BYTES COUNT SEED        4 KiB at COUNT random places, then a sync
//	ticker sum FILE...                          SHA-256 of each
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"
)

const (
	block  = 4096
	blocks = 256
	pause  = 5 * time.Millisecond
)

var errUsage = errors.New("usage: ticker [-trim MS] [-json] FILE... SECONDS | ticker order|fill|write|scatter|sum ARGUMENTS")

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "ticker:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) < 2 {
		return errUsage
	}
	switch args[0] {
	case "order":
		return order(args[1:])
	case "fill":
		return fill(args[1:])
	case "write":
		return write(args[1:])
	case "scatter":
		return scatter(args[1:])
	case "sum":
		return sum(args[1:])
	}
	f := flag.NewFlagSet("ticker", flag.ContinueOnError)
	trim := f.Int("trim", 0, "leave out what began in the first and last `milliseconds`")
	asJSON := f.Bool("json", false, "tell everything, as JSON")
	if err := f.Parse(args); err != nil {
		return err
	}
	if args = f.Args(); len(args) < 2 {
		return errUsage
	}
	files := args[:len(args)-1]
	seconds, err := strconv.ParseFloat(args[len(args)-1], 64)
	if err != nil {
		return err
	}
	w, err := watch(files, time.Duration(seconds*float64(time.Second)), time.Duration(*trim)*time.Millisecond)
	if err != nil {
		return err
	}
	if *asJSON {
		return json.NewEncoder(os.Stdout).Encode(w)
	}
	fmt.Printf("writes %d worst-ms %.1f\n", w.Writes, w.WorstMs)
	return nil
}

// window is what was seen in the time that counts.
type window struct {
	Seconds   float64  `json:"seconds"`
	Writes    int      `json:"writes"`
	PerSecond float64  `json:"perSecond"` // durable writes, all files together
	WorstMs   float64  `json:"worstMs"`
	Files     []fileOf `json:"files"`
	// Histogram counts writes by the least of these bounds in milliseconds that
	// they did not exceed.
	Histogram map[string]int `json:"histogram"`
}

type fileOf struct {
	Path    string  `json:"path"`
	Writes  int     `json:"writes"`
	WorstMs float64 `json:"worstMs"`
	// WorstAt is when the worst began, in seconds from the window's begin.
	WorstAt float64 `json:"worstAt"`
}

// tick is one write.
type tick struct{ began, took time.Duration }

var bounds = []float64{1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000}

// watch writes to all files at once, each in a loop of its own.
func watch(files []string, duration, trim time.Duration) (window, error) {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	done := make(chan struct{})
	ticks, errs := make([][]tick, len(files)), make([]error, len(files))
	begin := time.Now()
	var all sync.WaitGroup
	for i, path := range files {
		all.Add(1)
		go func() {
			defer all.Done()
			ticks[i], errs[i] = tickFile(path, begin, done)
		}()
	}
	select {
	case <-stop:
	case <-time.After(duration):
	}
	end := time.Since(begin)
	close(done)
	all.Wait()
	for _, err := range errs {
		if err != nil {
			return window{}, err
		}
	}
	w := window{Seconds: (end - 2*trim).Seconds(), Histogram: map[string]int{}}
	for i, path := range files {
		w.add(path, slices.DeleteFunc(ticks[i], func(t tick) bool { return t.began < trim || t.began > end-trim }), trim)
	}
	w.PerSecond = float64(w.Writes) / w.Seconds
	return w, nil
}

func (w *window) add(path string, ticks []tick, trim time.Duration) {
	f := fileOf{Path: path, Writes: len(ticks)}
	for _, t := range ticks {
		ms := float64(t.took.Microseconds()) / 1000
		if ms > f.WorstMs {
			f.WorstMs, f.WorstAt = ms, (t.began - trim).Seconds()
		}
		name := "more"
		if i, _ := slices.BinarySearch(bounds, ms); i < len(bounds) {
			name = strconv.FormatFloat(bounds[i], 'f', -1, 64)
		}
		w.Histogram[name]++
	}
	w.Files = append(w.Files, f)
	w.Writes += f.Writes
	w.WorstMs = max(w.WorstMs, f.WorstMs)
}

// tickFile writes until done. Each block carries its number.
func tickFile(path string, begin time.Time, done <-chan struct{}) ([]tick, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	buf := make([]byte, block)
	var ticks []tick
	for n := 0; ; n++ {
		select {
		case <-done:
			return ticks, nil
		default:
		}
		clear(buf)
		copy(buf, fmt.Sprintf("write %d\n", n))
		start := time.Now()
		if _, err := file.WriteAt(buf, int64(n%blocks)*block); err != nil {
			return nil, err
		}
		if err := syscall.Fdatasync(int(file.Fd())); err != nil {
			return nil, err
		}
		ticks = append(ticks, tick{start.Sub(begin), time.Since(start)})
		time.Sleep(pause)
	}
}
