package config

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"

	backstay "github.com/backstay/backstay"
	"github.com/goccy/go-yaml"
)

// Client is what the command line needs to reach a server.
type Client struct {
	Server string `yaml:"server"` // http://HOST:PORT
	Token  string `yaml:"token"`
	// Regions are other regions that the command line can call by name, with or
	// without the one above.
	Regions map[backstay.RegionName]ClientRegion `yaml:"regions,omitempty"`
}

// ClientRegion is how the server of another region is reached.
type ClientRegion struct {
	Server string `yaml:"server"` // http://HOST:PORT
	Token  string `yaml:"token,omitempty"`
}

// secret tells whether the configuration holds a token.
func (c Client) secret() bool {
	for _, r := range c.Regions {
		if r.Token != "" {
			return true
		}
	}
	return c.Token != ""
}

// ClientPath returns the file of the client's configuration as the environment
// names it: BACKSTAY_CONFIG, else backstay/client.yaml in the user's
// configuration folder. It is "" if the environment names no such folder.
func ClientPath(getenv func(string) string) string {
	if p := getenv("BACKSTAY_CONFIG"); p != "" {
		return p
	}
	if dir := getenv("XDG_CONFIG_HOME"); dir != "" {
		return filepath.Join(dir, "backstay", "client.yaml")
	}
	if home := getenv("HOME"); home != "" {
		return filepath.Join(home, ".config", "backstay", "client.yaml")
	}
	return ""
}

// LoadClient reads the client's configuration. A file that holds a token and
// that others may read is refused, as a private key would be (I10). A missing
// file is an error that matches fs.ErrNotExist.
func LoadClient(path string) (Client, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return Client{}, backstay.Errorf(backstay.CodeConfig, "cannot read the client configuration %s", path).Because(err).
			Do("name the file with --config, or give --server and --token")
	}
	var c Client
	d, err := decode(path, data, &c)
	if err != nil {
		return Client{}, err
	}
	if info, err := os.Stat(path); err == nil && c.secret() && info.Mode().Perm()&0o077 != 0 {
		return Client{}, backstay.Errorf(backstay.CodeConfig, "%s holds a token and can be read by others", path).
			Becausef("its mode is %04o", info.Mode().Perm()).Do("chmod 0600 %s", path)
	}
	if c.Server != "" {
		if _, err := ServerURL(c.Server); err != nil {
			return Client{}, d.bad("$.server", fmt.Sprintf("server %q is not an address", c.Server), err.Error(), "use http://HOST:PORT")
		}
	}
	for name, r := range c.Regions {
		if _, err := ServerURL(r.Server); err != nil {
			return Client{}, d.bad("$.regions."+string(name)+".server", fmt.Sprintf("the server %q of region %s is not an address", r.Server, name), err.Error(), "use http://HOST:PORT")
		}
	}
	return c, nil
}

// ServerURL reads the address of a server.
func ServerURL(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return nil, fmt.Errorf("read address: %w", err)
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, errors.New("an address begins with http:// or https://")
	case u.Host == "":
		return nil, errors.New("the address has no host")
	}
	return u, nil
}

// WriteClient writes the client's configuration, readable by its owner alone,
// in one step: a crash leaves the old file or the new one.
func WriteClient(path string, c Client) error {
	body, err := yaml.Marshal(c)
	if err != nil {
		return fmt.Errorf("encode client configuration: %w", err)
	}
	head := "# How the `backstay` command reaches the server. The token is a secret.\n"
	return write(path, append([]byte(head), body...), 0o600)
}

// Write writes a server's configuration with its comments. A file that is there
// already is left alone: fs.ErrExist.
func Write(path string, c Config) error {
	if _, err := os.Lstat(path); err == nil {
		return fmt.Errorf("write %s: %w", path, fs.ErrExist)
	}
	return write(path, []byte(Sample(c)), 0o644)
}

// write puts a file in place: beside it first, synced, then renamed.
func write(path string, data []byte, mode fs.FileMode) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	f, err := os.CreateTemp(dir, ".new-*")
	if err != nil {
		return fmt.Errorf("create file: %w", err)
	}
	defer os.Remove(f.Name()) // fails once it was renamed
	_, err = f.Write(data)
	if err == nil {
		err = errors.Join(f.Chmod(mode), f.Sync())
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return fmt.Errorf("put %s in place: %w", path, err)
	}
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("open folder: %w", err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("sync folder: %w", err)
	}
	return nil
}
