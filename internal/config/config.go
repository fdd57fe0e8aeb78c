package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// The defaults of what the file leaves out.
const (
	DefaultPath    = "/etc/backstay/backstay.yaml"
	DefaultRegion  = "home"
	DefaultListen  = "127.0.0.1:7070"
	DefaultData    = "/var/lib/backstay"
	DefaultLibvirt = "qemu:///system"
	// DefaultLayers is apart from DefaultData, which nobody but root may pass
	// through: QEMU often runs as another user, and opens the layers.
	DefaultLayers = "/var/lib/backstay-layers"
	DefaultHost   = backstay.HostName("local")
)

// Config is the server's configuration: one region.
type Config struct {
	// Region is the region's name. It is written into jobs and points.
	Region string `yaml:"region"`
	// Listen is the API's address, HOST:PORT.
	Listen string `yaml:"listen"`
	// Data is the folder of the catalogue and the keys, an absolute path.
	Data string `yaml:"data"`
	// Hosts are the machines whose VMs the region protects. None named means
	// this machine alone.
	Hosts []Host `yaml:"hosts"`
	Jobs  Jobs   `yaml:"jobs"`
	// Verify says how the vaults are verified.
	Verify Verify `yaml:"verify"`
	// Reclaim says how what no point needs is given back.
	Reclaim Reclaim `yaml:"reclaim"`
	// Files says how files are read out of points on this machine.
	Files Files `yaml:"files"`
	// Pair says how this region and those with which it is paired reach each other.
	Pair Pair `yaml:"pair"`
	Log  Log  `yaml:"log"`
	// KeyServices are outside key services that may wrap the secrets of VMs.
	KeyServices []KeyService `yaml:"keyServices"`
}

// The kinds of key service.
const (
	KeyFolder  = "folder"
	KeyTransit = "transit"
)

// KeyService is an outside key service.
type KeyService struct {
	Name string `yaml:"name"`
	// Kind is folder or transit.
	Kind string `yaml:"kind"`
	// URL is the address of a Vault or OpenBao server, as seen from the hosts.
	URL string `yaml:"url"`
	// Mount is where the transit engine is; empty means transit.
	Mount string `yaml:"mount"`
	// Dir is the folder of keys, as seen from the hosts.
	Dir string `yaml:"dir"`
	// Key is the name of the key in the service.
	Key string `yaml:"key"`
	// CredentialFile holds a token, or an AppRole's role id and secret id in two
	// lines. It is read anew each time.
	CredentialFile string `yaml:"credentialFile"`
	// CAFile holds certificates to trust, as PEM; empty means the machine's own.
	CAFile string `yaml:"caFile"`
}

// Host is one machine that runs libvirt: either this one (Libvirt), with the
// mover in the server's own process, or one whose mover runs elsewhere (Mover).
type Host struct {
	Name backstay.HostName `yaml:"name"`
	// Libvirt is a libvirt URI of this machine, e.g. qemu:///system.
	Libvirt string `yaml:"libvirt"`
	// Mover is where another process's mover listens: unix:///path.
	Mover string `yaml:"mover"`
	// Layers says how the room beside the disks is watched over.
	Layers Layers `yaml:"layers"`
}

// Layers are the rules for a host's layers.
type Layers struct {
	// Dir is the folder for the layers of disks that are no file in a folder of
	// their own: block devices and disks on the network. Empty means DefaultLayers.
	// QEMU must be able to pass through it. A mover elsewhere is told by its own
	// --layer-dir.
	Dir string `yaml:"dir"`
	// Floor is how much must stay free on each file system with layers, beside
	// what the largest merge needs: a size such as 10GiB, or a part such as 5%.
	// Empty means 5%, at least 2GiB and at most a quarter.
	Floor Floor `yaml:"floor"`
}

// Jobs limits how many jobs run at once; more wait in the queue.
type Jobs struct {
	PerHost  int `yaml:"perHost"`
	PerVault int `yaml:"perVault"`
}

// Verify says how vaults are verified by themselves. What is asked for by hand is
// read as fast as it can be.
type Verify struct {
	// Days is within how many days a whole vault is read.
	Days int `yaml:"days"`
	// Rate bounds the reading, in bytes a second; 0 spreads it over a quarter of
	// the day.
	Rate int64 `yaml:"rate"`
}

// Reclaim says how vaults are reclaimed by themselves.
type Reclaim struct {
	// Trash is how long a condemned pack stays before it is deleted.
	Trash time.Duration `yaml:"trash"`
	// Every is the time between two reclaims of a vault; 0 for never.
	Every time.Duration `yaml:"every"`
}

// Files says how files are read out of points: in small machines. A mover elsewhere
// is told by its own flags.
type Files struct {
	// Machine is the folder of what small machines start from; empty means beside the
	// program, or where the package puts it.
	Machine string `yaml:"machine"`
	// Memory is what one small machine has, in MiB.
	Memory int `yaml:"memory"`
	// Sessions is how many may be open on a host at a time, each with a machine.
	Sessions int `yaml:"sessions"`
	// Warm keeps one machine ready for the next session: on or off.
	Warm string `yaml:"warm"`
	// Index lists the files of each point in a vault, for `files find`: on or off. A
	// policy may leave it out, too.
	Index string `yaml:"index"`
}

// Log says what is logged, and how.
type Log struct {
	Level  string `yaml:"level"`  // debug, info, warn, error
	Format string `yaml:"format"` // text, json
}

// Default returns the configuration of an empty file.
func Default() Config {
	return Config{
		Region: DefaultRegion, Listen: DefaultListen, Data: DefaultData,
		Hosts: []Host{{Name: DefaultHost, Libvirt: DefaultLibvirt}},
		Jobs:  Jobs{PerHost: 2, PerVault: 2}, Verify: Verify{Days: 30},
		Reclaim: Reclaim{Trash: time.Duration(backstay.DefaultTrash), Every: 24 * time.Hour},
		Files:   Files{Memory: 512, Sessions: 4, Warm: "on", Index: "on"},
		Log:     Log{Level: "info", Format: "text"},
	}
}

// Load reads the server's configuration. Every error is coded config-invalid.
func Load(path string) (Config, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		e := backstay.Errorf(backstay.CodeConfig, "cannot read the configuration %s", path).Because(err)
		if errors.Is(err, fs.ErrNotExist) {
			e = e.Do("name the file with --config, or make one with `backstay init`")
		}
		return Config{}, e
	}
	return Parse(path, data)
}

// Parse reads a configuration from memory; name is used in errors only.
func Parse(name string, data []byte) (Config, error) {
	c := Default()
	c.Hosts = nil
	d, err := decode(name, data, &c)
	if err != nil {
		return Config{}, err
	}
	if len(c.Hosts) == 0 && d.line("$.hosts") == 0 {
		c.Hosts = Default().Hosts
	}
	if err := c.check(d); err != nil {
		return Config{}, err
	}
	return c, nil
}

// document is a parsed file, kept to find the line of a value.
type document struct {
	name string
	file *ast.File
}

// decode reads YAML strictly: syntax, unknown keys and wrong types are errors
// with a line.
func decode(name string, data []byte, into any) (*document, error) {
	file, err := parser.ParseBytes(data, 0)
	if err != nil {
		return nil, explain(name, err, into)
	}
	if len(file.Docs) > 1 {
		return nil, problem{name: name, what: "the file holds more than one YAML document",
			why: "there is a `---` line", hint: "keep one document"}.err()
	}
	if len(file.Docs) == 0 || file.Docs[0].Body == nil {
		return &document{name: name, file: file}, nil
	}
	if err := yaml.UnmarshalWithOptions(data, into, yaml.Strict()); err != nil {
		return nil, explain(name, err, into)
	}
	return &document{name: name, file: file}, nil
}

// line returns the line of the value at a YAML path, 0 if the file has none.
func (d *document) line(path string) int {
	if d == nil || d.file == nil {
		return 0
	}
	p, err := yaml.PathString(path)
	if err != nil {
		return 0
	}
	node, err := p.FilterFile(d.file)
	if err != nil || node == nil {
		return 0
	}
	return node.GetToken().Position.Line
}

// Catalogue returns the path of the catalogue's database.
func (c *Config) Catalogue() string { return filepath.Join(c.Data, "catalog.db") }

// Keys returns the folder of the keyring.
func (c *Config) Keys() string { return filepath.Join(c.Data, "keys") }

// String names what the configuration is for, for the log.
func (c *Config) String() string {
	return fmt.Sprintf("region %s, %d hosts, %s", c.Region, len(c.Hosts), c.Listen)
}
