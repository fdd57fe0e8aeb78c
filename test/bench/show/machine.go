package show

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Machine describes where and of what figures are: date, cores, go, cpu, memory,
// kernel, commit.
func Machine(ctx context.Context) map[string]string {
	m := map[string]string{"date": time.Now().UTC().Format("2006-01-02"), "cores": strconv.Itoa(runtime.NumCPU()), "go": runtime.Version()}
	m["cpu"] = field("/proc/cpuinfo", "model name")
	if kib, err := strconv.ParseInt(strings.TrimSuffix(field("/proc/meminfo", "MemTotal"), " kB"), 10, 64); err == nil {
		m["memory"] = fmt.Sprintf("%.0f GiB", float64(kib)/(1<<20))
	}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		m["kernel"] = string(bytes.TrimRight(u.Release[:], "\x00"))
	}
	m["commit"] = commit(ctx)
	return m
}

// commit is that of the checkout, if this runs in one, or that of the program.
func commit(ctx context.Context) string {
	out, err := exec.CommandContext(ctx, "git", "-c", "safe.directory=*", "rev-parse", "--short=12", "HEAD").Output()
	if err == nil {
		text := strings.TrimSpace(string(out))
		// Untracked files do not change what was built.
		if exec.CommandContext(ctx, "git", "-c", "safe.directory=*", "diff", "--quiet", "HEAD", "--", "*.go", "go.mod").Run() != nil {
			text += ", changed"
		}
		return text
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				return s.Value
			}
		}
	}
	return "unknown"
}

// field returns the value of the first line of a file of the form "key : value".
func field(path, key string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer func() { _ = f.Close() }()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if k, v, ok := strings.Cut(lines.Text(), ":"); ok && strings.TrimSpace(k) == key {
			return strings.TrimSpace(v)
		}
	}
	return ""
}
