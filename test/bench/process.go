package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// command is a process to be measured.
type command struct {
	dir  string
	env  []string
	args []string
}

// syncFS makes everything on the file system of a path durable.
func syncFS(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	return unix.Syncfs(int(f.Fd()))
}

// timed runs a process and makes what it wrote durable; both are measured. What
// others left to be written is written before.
func timed(ctx context.Context, where string, c command) (figure, []byte, error) {
	if err := syncFS(where); err != nil {
		return figure{}, nil, err
	}
	cmd := exec.CommandContext(ctx, c.args[0], c.args[1:]...)
	var out, errs bytes.Buffer
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = c.dir, append(os.Environ(), c.env...), &out, &errs
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	start := time.Now()
	err := cmd.Run()
	if err == nil {
		err = syncFS(where)
	}
	took := time.Since(start)
	if err != nil {
		return figure{}, nil, fmt.Errorf("%s: %w: %s", filepath.Base(c.args[0])+" "+strings.Join(c.args[1:], " "), err, tail(errs.String()+out.String()))
	}
	f := figure{Wall: took.Seconds(), CPU: (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds()}
	if usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		f.RSS = usage.Maxrss << 10
	}
	return f, out.Bytes(), nil
}

// tail is the end of what a process said.
func tail(s string) string {
	s = strings.TrimSpace(s)
	if len(s) > 800 {
		s = "…" + s[len(s)-800:]
	}
	return s
}

// worker runs this program again as the given task and reads what it says.
func worker(ctx context.Context, where string, t task) (figure, error) {
	self, err := os.Executable()
	if err != nil {
		return figure{}, err
	}
	arg, err := json.Marshal(t)
	if err != nil {
		return figure{}, err
	}
	f, out, err := timed(ctx, where, command{args: []string{self, "worker", string(arg)}})
	if err != nil {
		return f, err
	}
	if err := json.Unmarshal(out, &f.Said); err != nil {
		return f, fmt.Errorf("what the worker %s said: %w", t.Op, err)
	}
	// A process that was started counts its parent's memory too; its own is in
	// what it says.
	if own := int64(f.Said["peak"]); own > 0 {
		f.RSS = own
	}
	if f.Said["stored"] > 0 {
		f.Stored, f.Added = int64(f.Said["stored"]), int64(f.Said["added"])
	}
	return f, nil
}

// treeSize sums the lengths of all files below a folder.
func treeSize(dir string) (int64, error) {
	var sum int64
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			sum += info.Size()
		}
		return err
	})
	return sum, err
}

// warm reads a file into the page cache: every subject finds it there.
func warm(ctx context.Context, paths ...string) error {
	buf := make([]byte, 1<<20)
	for _, path := range paths {
		err := eachData(path, func(m dataRun) error {
			for at := m.from; at < m.to; at += int64(len(buf)) {
				if ctx.Err() != nil {
					return ctx.Err()
				}
				if _, err := m.file.ReadAt(buf[:min(int64(len(buf)), m.to-at)], at); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("warm %s: %w", path, err)
		}
	}
	return nil
}
