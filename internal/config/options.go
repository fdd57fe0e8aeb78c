package config

import backstay "github.com/backstay/backstay"

// InitOptions say what `backstay init` makes. The zero value of each field
// means its default.
type InitOptions struct {
	// Dir gets everything: configuration, catalogue, keys and the default
	// vault's storage units. Empty means /etc/backstay for the configuration and
	// /var/lib/backstay for the rest.
	Dir string
	// Listen is the address of the API, HOST:PORT. Empty means DefaultListen.
	Listen string
	// Region is the region's name. Empty means DefaultRegion.
	Region string
	// Libvirt is the URI of this machine's libvirt. Empty means DefaultLibvirt.
	Libvirt string
	// Vault is the name of the vault to make. Empty means "default".
	Vault backstay.VaultName
	// NoVault makes no vault: there is one, which the new server is to take in.
	NoVault bool
	// Units are the storage units of the vault: three folders or file:// URLs.
	// Empty means three folders under the data folder.
	Units []string
	// ClientConfig is the file that gets the server's address and the owner's
	// token. Empty means the user's own client.yaml, or DIR/client.yaml with Dir.
	ClientConfig string
}

// InitResult is what `backstay init` made. RecoveryKey is shown once and kept
// nowhere by backstay; the owner's token is in ClientConfigPath and only there.
type InitResult struct {
	ConfigPath       string             `json:"config"`
	ClientConfigPath string             `json:"clientConfig"`
	DataDir          string             `json:"data"`
	Listen           string             `json:"listen"`
	Region           string             `json:"region"`
	VaultName        backstay.VaultName `json:"vault"` // empty with NoVault
	Units            []string           `json:"units"`
	RecoveryKey      string             `json:"recoveryKey"`
}

// AgentOptions say how `backstay agent` runs the data mover of a host.
type AgentOptions struct {
	// Listen is where the mover listens: unix:///path/of/the.sock.
	Listen string
	// Libvirt is the URI of the host's libvirt.
	Libvirt string
	// State is the folder for the mover's own files: its key and its journals.
	State string
	// Layers is the folder for layers of disks that are no file; see Layers.Dir.
	Layers string
	// Files says how files are read out of points.
	Files Files
}
