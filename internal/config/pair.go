package config

import (
	"fmt"
	"net"
	"strconv"
	"strings"

	backstay "github.com/backstay/backstay"
)

// Pair says how this region and those with which it is paired reach each other, and
// what is held of theirs here.
type Pair struct {
	// Listen is where other regions call, HOST:PORT; empty if none can. It serves
	// nothing but what paired regions ask of each other.
	Listen string `yaml:"listen"`
	// Address is how others reach Listen, HOST:PORT; empty means Listen itself.
	Address string `yaml:"address"`
	// Server is the URL of this region's API as clients elsewhere reach it; empty: other
	// regions are not told.
	Server string `yaml:"server"`
	// Rate bounds what is pushed to other regions, as a size a second; empty for no
	// bound.
	Rate Size `yaml:"rate"`
	// Windows are when anything is pushed: FROM-TO, with days before it if it is not on
	// all, by this machine's clock; none means always.
	Windows []string `yaml:"windows"`
	// Quota is how much may be held here of each other region's vaults; empty for no
	// bound.
	Quota Size `yaml:"quota"`
}

// Size is a number of bytes with a unit, such as 500GiB.
type Size string

// Bytes returns the size in bytes; 0 for the empty one.
func (s Size) Bytes() (int64, error) {
	text := strings.TrimSpace(string(s))
	if text == "" {
		return 0, nil
	}
	for _, u := range units {
		number, ok := strings.CutSuffix(text, u.name)
		if !ok {
			continue
		}
		n, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
		if err != nil || !(n >= 0 && n*u.bytes < 1<<62) {
			break
		}
		return int64(n * u.bytes), nil
	}
	return 0, fmt.Errorf("it is no size")
}

// Reached is how other regions reach the link of this one; empty if they cannot.
func (p Pair) Reached() string {
	if p.Address != "" || p.Listen == "" {
		return p.Address
	}
	host, port, err := net.SplitHostPort(p.Listen)
	if err != nil || port == "0" || host == "" {
		return ""
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		return ""
	}
	return p.Listen
}

// Open are the windows in which anything may be pushed. The configuration was
// checked.
func (p Pair) Open() (backstay.Windows, error) {
	var all backstay.Windows
	for _, text := range p.Windows {
		w, err := backstay.ParseWindow(text)
		if err != nil {
			return nil, err
		}
		all = append(all, w)
	}
	return all, nil
}

func (p Pair) check(d *document) error {
	for _, a := range []struct{ key, value string }{{"listen", p.Listen}, {"address", p.Address}} {
		if a.value == "" {
			continue
		}
		if _, port, err := net.SplitHostPort(a.value); err != nil || port == "" {
			return d.bad("$.pair."+a.key, fmt.Sprintf("pair.%s %q is not an address", a.key, a.value), "an address has a host and a port", "use HOST:PORT, such as `10.0.0.1:7071`")
		}
	}
	if p.Server != "" {
		if _, err := ServerURL(p.Server); err != nil {
			return d.bad("$.pair.server", fmt.Sprintf("pair.server %q is not an address", p.Server), err.Error(), "use https://HOST:PORT")
		}
	}
	rate, err := p.Rate.Bytes()
	if err != nil || rate > 0 && rate < 64<<10 {
		return d.bad("$.pair.rate", fmt.Sprintf("pair.rate %q cannot be held", p.Rate), "it is a size a second, of 64KiB or more", "use a size such as `20MiB`, or leave it out")
	}
	if _, err := p.Quota.Bytes(); err != nil {
		return d.bad("$.pair.quota", fmt.Sprintf("pair.quota %q cannot be held", p.Quota), err.Error(), "use a size such as `2TiB`, or leave it out")
	}
	for i, text := range p.Windows {
		if _, err := backstay.ParseWindow(text); err != nil {
			return d.bad(fmt.Sprintf("$.pair.windows[%d]", i), fmt.Sprintf("pair.windows has %q", text), err.Error(), "use `22:00-06:00` or `sat,sun 00:00-24:00`")
		}
	}
	return nil
}
