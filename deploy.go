package backstay

// Parameter is one value of a restored VM's template that may be chosen when a
// VM is made of its disks. It holds no secret.
type Parameter struct {
	Name string        `json:"name"`
	Type ParameterType `json:"type"`
	// Value is what counts, Default what the point had: a number for an integer, true
	// or false for a boolean, text for all others.
	Value   any `json:"value"`
	Default any `json:"default"`
	// Allowed are the only values, if there are any.
	Allowed []string `json:"allowed,omitempty"`
	// Min and Max are the bounds of an integer, or of a size in bytes.
	Min *int64 `json:"min,omitempty"`
	Max *int64 `json:"max,omitempty"`
	// Pattern is a regular expression that the whole text must match (RE2).
	Pattern     string `json:"pattern,omitempty"`
	Description string `json:"description"`
}

// PlacementSpace is the XML namespace of the element in a VM's metadata in which
// a deploy notes where the VM may be.
const PlacementSpace = "https://github.com/backstay/backstay/placement/1"

// ParameterType says how a parameter's value is written, and checked.
type ParameterType string

// The types of parameter.
const (
	TypeString  ParameterType = "string"  // one line
	TypeText    ParameterType = "text"    // any text
	TypeInteger ParameterType = "integer" // a whole number
	TypeBoolean ParameterType = "boolean" // true or false
	TypeSize    ParameterType = "size"    // 512MiB, 4GiB, or a number of bytes; a multiple of 1 KiB
	TypePath    ParameterType = "path"    // absolute
	TypeUUID    ParameterType = "uuid"
	TypeMAC     ParameterType = "mac"     // of a single station
	TypeCPUSet  ParameterType = "cpuset"  // 0-3,^2,8; empty for none
	TypePinning ParameterType = "pinning" // 0=2-3;1=4 (virtual CPU = CPUs of the host); empty for none
	TypeNames   ParameterType = "names"   // a,b,c; empty for none
)

// Deployment is what a folder of restored disks makes a VM of, with the values
// that were asked for.
type Deployment struct {
	Folder string  `json:"folder"`
	Point  PointID `json:"point"`
	Source VMRef   `json:"source"`
	// Shape is the VM that would be made, by which a host is checked.
	Shape      VM          `json:"shape"`
	Parameters []Parameter `json:"parameters"`
	Start      bool        `json:"start"`
	Autostart  bool        `json:"autostart"`
	// AntiAffinityGroup and HostGroup say on which hosts the VM may be.
	AntiAffinityGroup string     `json:"antiAffinityGroup,omitempty"`
	HostGroup         []HostName `json:"hostGroup,omitempty"`
	// Differences are the fields in which the definition is not as captured.
	Differences []Difference `json:"differences"`
	// Problems say what of the folder is not as the restore left it: a disk that is
	// gone or has another size.
	Problems []string `json:"problems"`
}

// DeployRequest asks to make a VM of restored disks and their template.
type DeployRequest struct {
	// Folder is what a restore of disks made, on the host.
	Folder string `json:"folder" minLength:"1"`
	// Set are values of parameters by name; what is not named has the value of the
	// folder's parameters.json.
	Set map[string]string `json:"set,omitempty"`
	// Host is where the folder is; empty: the one host that has it.
	Host    HostName `json:"host,omitempty"`
	NoStart bool     `json:"noStart,omitempty"`
	// Force makes the VM also beside another of its anti-affinity group.
	Force  bool  `json:"force,omitempty"`
	Probe  Probe `json:"probe,omitzero"`
	DryRun bool  `json:"dryRun,omitempty"`
}

// DeployPlan is the kind of a plan that makes a VM of restored disks. It is no
// kind of restore that can be asked for: see DeployRequest.
const DeployPlan RestoreKind = "deploy"

// DeployParams ask to carry out an accepted plan of a deploy.
type DeployParams struct {
	Request DeployRequest `json:"request"`
	Plan    RestorePlan   `json:"plan"`
}
