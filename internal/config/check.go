package config

import (
	"fmt"
	"net"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	backstay "github.com/backstay/backstay"
)

var nameForm = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)

// problem is one thing that is wrong with a file.
type problem struct {
	name string
	line int // 0: not known
	what string
	why  string
	hint string
}

func (p problem) err() error {
	where := p.name
	if p.line > 0 {
		where = fmt.Sprintf("%s:%d", p.name, p.line)
	}
	return backstay.Errorf(backstay.CodeConfig, "%s: %s", where, p.what).Becausef("%s", p.why).Do("%s", p.hint)
}

// bad makes the error of one bad value, with the line at which it stands.
func (d *document) bad(path, what, why, hint string) error {
	return problem{name: d.name, line: d.line(path), what: what, why: why, hint: hint}.err()
}

// check tells the first thing that is wrong with the values.
func (c *Config) check(d *document) error {
	if !nameForm.MatchString(c.Region) {
		return d.bad("$.region", fmt.Sprintf("region %q cannot be a name", c.Region),
			"a name has lower-case letters, digits, dot, dash and underscore, and at most 63 of them", "use a name such as `home`")
	}
	if err := c.checkListen(d); err != nil {
		return err
	}
	if !filepath.IsAbs(c.Data) {
		return d.bad("$.data", fmt.Sprintf("data %q is not an absolute path", c.Data),
			"the server does not depend on the folder in which it is started", "use a path such as `"+DefaultData+"`")
	}
	if err := c.checkHosts(d); err != nil {
		return err
	}
	for _, limit := range []struct {
		key string
		n   int
	}{{"perHost", c.Jobs.PerHost}, {"perVault", c.Jobs.PerVault}} {
		if limit.n < 1 || limit.n > 64 {
			return d.bad("$.jobs."+limit.key, fmt.Sprintf("jobs.%s is %d", limit.key, limit.n),
				"it must be from 1 to 64", "use 2 unless the disks can take more")
		}
	}
	if err := c.Files.check(d); err != nil {
		return err
	}
	if err := c.Pair.check(d); err != nil {
		return err
	}
	if c.Reclaim.Trash < 0 || c.Reclaim.Trash > 365*24*time.Hour {
		return d.bad("$.reclaim.trash", fmt.Sprintf("reclaim.trash is %s", c.Reclaim.Trash), "it must be from 0s to 8760h", "use 24h, so that a mistake can be noticed before anything is deleted")
	}
	if c.Reclaim.Every < 0 || c.Reclaim.Every > 0 && c.Reclaim.Every < time.Hour {
		return d.bad("$.reclaim.every", fmt.Sprintf("reclaim.every is %s", c.Reclaim.Every), "it must be 0s, for never, or at least 1h", "use 24h")
	}
	if c.Verify.Days < 1 || c.Verify.Days > 365 {
		return d.bad("$.verify.days", fmt.Sprintf("verify.days is %d", c.Verify.Days), "it must be from 1 to 365", "use 30 unless the storage units are slow")
	}
	if c.Verify.Rate < 0 || c.Verify.Rate > 0 && c.Verify.Rate < 1<<20 {
		return d.bad("$.verify.rate", fmt.Sprintf("verify.rate is %d", c.Verify.Rate), "it is in bytes a second, 0 or at least 1048576", "use 0 unless reading disturbs others")
	}
	if err := c.checkKeyServices(d); err != nil {
		return err
	}
	if err := oneOf(d, "log.level", c.Log.Level, "debug", "info", "warn", "error"); err != nil {
		return err
	}
	return oneOf(d, "log.format", c.Log.Format, "text", "json")
}

func (f Files) check(d *document) error {
	switch {
	case f.Machine != "" && !filepath.IsAbs(f.Machine):
		return d.bad("$.files.machine", fmt.Sprintf("files.machine %q is not an absolute path", f.Machine), "it is a folder of this machine", "leave it out, for the one that was installed")
	case f.Memory < 256 || f.Memory > 16384:
		return d.bad("$.files.memory", fmt.Sprintf("files.memory is %d", f.Memory), "it is in MiB, and must be from 256 to 16384", "use 512 unless the file systems of your guests are huge")
	case f.Sessions < 1 || f.Sessions > 64:
		return d.bad("$.files.sessions", fmt.Sprintf("files.sessions is %d", f.Sessions), "it must be from 1 to 64, and each may take files.memory", "use 4")
	}
	if err := oneOf(d, "files.warm", f.Warm, "on", "off"); err != nil {
		return err
	}
	return oneOf(d, "files.index", f.Index, "on", "off")
}

func (c *Config) checkListen(d *document) error {
	_, port, err := net.SplitHostPort(c.Listen)
	if err != nil {
		return d.bad("$.listen", fmt.Sprintf("listen %q is not an address", c.Listen), err.Error(), "use HOST:PORT, such as `"+DefaultListen+"`")
	}
	if n, err := strconv.Atoi(port); err != nil || n < 0 || n > 65535 {
		return d.bad("$.listen", fmt.Sprintf("listen %q has no port", c.Listen), "a port is a number from 0 to 65535", "use HOST:PORT, such as `"+DefaultListen+"`")
	}
	return nil
}

func (c *Config) checkHosts(d *document) error {
	if len(c.Hosts) == 0 {
		return d.bad("$.hosts", "hosts is empty", "a region without hosts has nothing to protect", "leave `hosts` out for this machine alone, or name one")
	}
	seen := map[backstay.HostName]bool{}
	for i, h := range c.Hosts {
		at := fmt.Sprintf("$.hosts[%d]", i)
		switch {
		case !nameForm.MatchString(string(h.Name)):
			return d.bad(d.deepest(at, "name"), fmt.Sprintf("host %q cannot be a name", h.Name),
				"a name has lower-case letters, digits, dot, dash and underscore", "use a name such as `local`")
		case seen[h.Name]:
			return d.bad(at+".name", fmt.Sprintf("host %q is named twice", h.Name), "VMs are told apart by HOST/NAME", "give each host its own name")
		case (h.Libvirt == "") == (h.Mover == ""):
			return d.bad(at, fmt.Sprintf("host %q needs either libvirt or mover", h.Name),
				"libvirt means this machine, mover another process", "use `libvirt: "+DefaultLibvirt+"` or `mover: unix:///run/backstay/mover.sock`")
		case h.Libvirt != "" && !strings.Contains(h.Libvirt, "://"):
			return d.bad(at+".libvirt", fmt.Sprintf("libvirt %q is not a libvirt URI", h.Libvirt), "a URI has a scheme", "use `"+DefaultLibvirt+"`")
		case h.Mover != "" && !strings.HasPrefix(h.Mover, "unix:///"):
			return d.bad(at+".mover", fmt.Sprintf("mover %q is not the address of a mover", h.Mover),
				"movers are reached over a unix socket with an absolute path", "use `unix:///run/backstay/mover.sock`")
		}
		if h.Layers.Dir != "" && (h.Mover != "" || !filepath.IsAbs(h.Layers.Dir)) {
			return d.bad(d.deepest(at, "layers.dir"), fmt.Sprintf("the layer folder %q of host %q cannot be used", h.Layers.Dir, h.Name),
				"it is an absolute path of this machine; a mover elsewhere has its own --layer-dir", "use a path such as `"+DefaultLayers+"`")
		}
		if _, err := h.Layers.Floor.Of(1 << 40); err != nil {
			return d.bad(d.deepest(at, "layers.floor"), fmt.Sprintf("the floor %q of host %q cannot be held", h.Layers.Floor, h.Name), err.Error(), "use a size such as `10GiB` or a part such as `5%`")
		}
		seen[h.Name] = true
	}
	return nil
}

// deepest returns the path of the key if the file has it, else of its parent.
func (d *document) deepest(at, key string) string {
	if d.line(at+"."+key) > 0 {
		return at + "." + key
	}
	return at
}

func oneOf(d *document, key, value string, allowed ...string) error {
	if slices.Contains(allowed, value) {
		return nil
	}
	hint := "use one of: " + strings.Join(allowed, ", ")
	if near := nearest(value, allowed); near != "" {
		hint = "did you mean `" + near + "`? " + hint
	}
	return d.bad("$."+key, fmt.Sprintf("%s %q is not known", key, value), "it must be one of a few words", hint)
}
