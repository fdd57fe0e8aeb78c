package cli

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	backstay "github.com/backstay/backstay"
)

// duration is a flag's value: like Go's durations, and also 30d or 2w.
type duration time.Duration

// String returns the value as it would be given.
func (d *duration) String() string {
	if *d == 0 {
		return "0"
	}
	return time.Duration(*d).String()
}

// Type names the value in a command's help.
func (d *duration) Type() string { return "duration" }

// Set reads a value such as 90s, 4h, 30d, 2w.
func (d *duration) Set(s string) error {
	for unit, length := range map[string]time.Duration{"d": 24 * time.Hour, "w": 7 * 24 * time.Hour} {
		if number, ok := strings.CutSuffix(s, unit); ok {
			n, err := strconv.ParseFloat(number, 64)
			if err != nil || !(n >= 0 && n*float64(length) < float64(1<<62)) { // also for NaN
				return fmt.Errorf("%q is not a duration such as 90s, 4h or 30d", s)
			}
			*d = duration(n * float64(length))
			return nil
		}
	}
	v, err := time.ParseDuration(s)
	if err != nil || v < 0 {
		return fmt.Errorf("%q is not a duration such as 90s, 4h or 30d", s)
	}
	*d = duration(v)
	return nil
}

// word is a flag's value that is one of a few words.
type word[T ~string] struct {
	value   *T
	allowed []T
}

func oneOf[T ~string](value *T, allowed ...T) *word[T] { return &word[T]{value, allowed} }

// String returns the word.
func (w *word[T]) String() string {
	if w.value == nil {
		return ""
	}
	return string(*w.value)
}

// Type names the value in a command's help.
func (w *word[T]) Type() string {
	var all []string
	for _, a := range w.allowed {
		all = append(all, string(a))
	}
	return strings.Join(all, "|")
}

// Set takes one of the words.
func (w *word[T]) Set(s string) error {
	if !slices.Contains(w.allowed, T(s)) {
		return fmt.Errorf("%q is none of %s", s, strings.ReplaceAll(w.Type(), "|", ", "))
	}
	*w.value = T(s)
	return nil
}

func tierFlag(t *backstay.Tier) *word[backstay.Tier] {
	return oneOf(t, backstay.SnapshotTier, backstay.VaultTier)
}

func consistencyFlag(c *backstay.Consistency) *word[backstay.Consistency] {
	return oneOf(c, backstay.ApplicationConsistent, backstay.FileSystemConsistent, backstay.CrashConsistent)
}

// probe reads what --wait-for says.
func probe(s string, timeout duration) (backstay.Probe, error) {
	p := backstay.Probe{Timeout: backstay.Duration(timeout)}
	kind, text, _ := strings.Cut(s, ":")
	switch p.Kind, p.Text = backstay.ProbeKind(kind), text; {
	case (p.Kind == backstay.ProbeAgent || p.Kind == backstay.ProbeNone) && text == "":
		return p, nil
	case p.Kind == backstay.ProbeConsole && text != "":
		return p, nil
	case p.Kind == backstay.ProbePort && strings.Contains(text, ":"):
		return p, nil
	}
	return p, backstay.Errorf(backstay.CodeUsage, "--wait-for %q is not understood", s).
		Becausef("a VM is up when its agent answers, its console shows a text, or a port accepts").
		Do("say agent, console:TEXT, port:HOST:PORT or none")
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }

// byteSize is a flag's value: a number of bytes, as 512M or 2G.
type byteSize int64

// String returns the value for people.
func (b *byteSize) String() string {
	if *b == 0 {
		return "0"
	}
	return size(int64(*b))
}

// Type names the value in a command's help.
func (b *byteSize) Type() string { return "size" }

// Set reads a value such as 4096, 512M, 2G or 1.5GiB.
func (b *byteSize) Set(s string) error {
	number, shift := strings.TrimSuffix(strings.TrimSuffix(s, "iB"), "B"), 0
	for i, unit := range []string{"K", "M", "G", "T"} {
		if n, ok := strings.CutSuffix(number, unit); ok {
			number, shift = n, 10*(i+1)
		}
	}
	n, err := strconv.ParseFloat(number, 64)
	if err != nil || !(n >= 0 && n*float64(int64(1)<<shift) < float64(1<<62)) { // also for NaN
		return fmt.Errorf("%q is not a size such as 512M or 2G", s)
	}
	*b = byteSize(n * float64(int64(1)<<shift))
	return nil
}
