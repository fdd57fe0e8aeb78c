package config

import (
	"fmt"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
)

// Sample returns a commented configuration file with the given values.
func Sample(c Config) string {
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	p("# Configuration of `backstay server`: one region.")
	p("# An unknown key is an error, so a misspelt one is found at the start.")
	p("")
	p("# The region's name, written into every job and recovery point.")
	p("region: %s", scalar(c.Region))
	p("")
	p("# Where the API listens. Put a proxy with TLS before it to serve other machines.")
	p("listen: %s", scalar(c.Listen))
	p("")
	p("# The folder of the catalogue and the keys. Only root should be able to read it.")
	p("data: %s", scalar(c.Data))
	p("")
	p("# The machines whose VMs are protected. `libvirt` is this machine, with the mover")
	p("# in the server's process; `mover` is another process, reached over a unix socket")
	p("# at which `backstay agent` listens.")
	p("hosts:")
	for _, h := range c.Hosts {
		p("  - name: %s", scalar(string(h.Name)))
		if h.Libvirt != "" {
			p("    libvirt: %s", scalar(h.Libvirt))
		} else {
			p("    mover: %s", scalar(h.Mover))
		}
		if h.Layers != (Layers{}) {
			p("    layers:")
		}
		if h.Layers.Floor != "" {
			p("      floor: %s", scalar(string(h.Layers.Floor)))
		}
		if h.Layers.Dir != "" {
			p("      dir: %s", scalar(h.Layers.Dir))
		}
	}
	p("")
	p("# How many jobs may run at once on a host and in a vault; more wait in the queue.")
	p("jobs:")
	p("  perHost: %d", c.Jobs.PerHost)
	p("  perVault: %d", c.Jobs.PerVault)
	p("")
	p("# Within how many days everything in a vault is read and proved, and how fast at most,")
	p("# in bytes a second; 0 spreads the reading over a quarter of each day.")
	p("verify:")
	p("  days: %d", c.Verify.Days)
	p("  rate: %d", c.Verify.Rate)
	p("")
	p("# How long packs that no recovery point needs stay in the trash of a vault, and how often")
	p("# it is looked for them; every: 0s for never.")
	p("reclaim:")
	p("  trash: %s", span(c.Reclaim.Trash))
	p("  every: %s", span(c.Reclaim.Every))
	p("")
	p("# Files are read out of recovery points in small machines: the memory of each in MiB, how")
	p("# many sessions may be open at a time, and whether one machine is kept ready for the next.")
	p("# index: on lists the files of each point after its backup, for `backstay files find`.")
	p("files:")
	if c.Files.Machine != "" {
		p("  machine: %s", scalar(c.Files.Machine))
	}
	p("  memory: %d", c.Files.Memory)
	p("  sessions: %d", c.Files.Sessions)
	p("  warm: %s", scalar(c.Files.Warm))
	p("  index: %s", scalar(c.Files.Index))
	p("")
	c.Pair.sample(p)
	p("")
	p("# level: debug, info, warn or error. format: text or json.")
	p("log:")
	p("  level: %s", scalar(c.Log.Level))
	p("  format: %s", scalar(c.Log.Format))
	return b.String()
}

// sample writes the part about other regions; one that says nothing is a comment.
func (c Pair) sample(p func(format string, args ...any)) {
	p("# Where other regions call the link of this one (listen), and how they reach it (address);")
	p("# the URL of this API for clients elsewhere (server); how fast (rate, a second) and when")
	p("# (windows) anything is pushed to them; how much of each of them is held here (quota).")
	p("# See `backstay region pair`.")
	if c.Listen == "" && c.Address == "" && c.Server == "" && c.Rate == "" && c.Quota == "" && len(c.Windows) == 0 {
		p("# pair:")
		p("#   listen: 0.0.0.0:7071")
		p("#   address: west.example.org:7071")
		return
	}
	p("pair:")
	for _, f := range []struct{ key, value string }{{"listen", c.Listen}, {"address", c.Address}, {"server", c.Server}, {"rate", string(c.Rate)}, {"quota", string(c.Quota)}} {
		if f.value != "" {
			p("  %s: %s", f.key, scalar(f.value))
		}
	}
	if len(c.Windows) > 0 {
		p("  windows:")
	}
	for _, w := range c.Windows {
		p("    - %s", scalar(w))
	}
}

// span writes a duration without parts that are zero.
func span(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// scalar quotes a value where YAML would read it as something else.
func scalar(s string) string {
	out, err := yaml.Marshal(s)
	if err != nil {
		return fmt.Sprintf("%q", s)
	}
	return strings.TrimSpace(string(out))
}
