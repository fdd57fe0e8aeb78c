package quiesce

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/guestagent"
	"github.com/backstay/backstay/internal/hypervisor"
)

// HooksFile is where a guest's owner says which hooks there are.
const HooksFile = "/etc/backstay/hooks.json"

// Bounds of the configuration.
const (
	largestConfig  = 64 << 10         // bytes
	longestHook    = 30 * time.Minute // a hook with all its retries
	defaultTimeout = 30 * time.Second
	mostRetries    = 20
	longestPath    = 1024 // bytes
)

// Config is the content of HooksFile.
type Config struct {
	Version int  `json:"version"` // 1
	Pre     Hook `json:"pre"`     // before the file systems are frozen
	Post    Hook `json:"post"`    // after they were thawed; runs whenever Pre was begun
	// ContinueOnFailure says whether a weaker point is taken when Pre fails, if
	// the policy allows one; by default it is. If not, no point is taken.
	ContinueOnFailure *bool `json:"continueOnFailure,omitempty"`
	// Freeze says whether file systems are frozen between the hooks; by default
	// they are.
	Freeze *bool `json:"freeze,omitempty"`
	// PollSeconds is the longest pause between two looks at whether a hook has
	// ended, 1 to 5; 0 means 1.
	PollSeconds int `json:"pollSeconds,omitempty"`
}

// Hook is a program in the guest.
type Hook struct {
	Path string   `json:"path"`
	Args []string `json:"args,omitempty"`
	// TimeoutSeconds bounds one try; 0 means 30.
	TimeoutSeconds int `json:"timeoutSeconds,omitempty"`
	// Retries is how often it is tried again, after RetryDelaySeconds each time.
	Retries           int `json:"retries,omitempty"`
	RetryDelaySeconds int `json:"retryDelaySeconds,omitempty"`
}

func (h Hook) timeout() time.Duration {
	if h.TimeoutSeconds == 0 {
		return defaultTimeout
	}
	return time.Duration(h.TimeoutSeconds) * time.Second
}

func (h Hook) delay() time.Duration { return time.Duration(h.RetryDelaySeconds) * time.Second }

func (c *Config) poll() time.Duration { return time.Duration(max(1, c.PollSeconds)) * time.Second }
func (c *Config) freezes() bool       { return c.Freeze == nil || *c.Freeze }
func (c *Config) goesOn() bool        { return c.ContinueOnFailure == nil || *c.ContinueOnFailure }

// ParseConfig reads the content of a HooksFile. It takes no key that it does not
// know: a misspelt one would be a hook that never runs.
func ParseConfig(data []byte) (*Config, error) {
	c := &Config{}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(c); err != nil {
		return nil, err
	}
	if d.More() {
		return nil, errors.New("something follows the configuration")
	}
	if c.Version != 1 {
		return nil, fmt.Errorf("version is %d, and only 1 is known", c.Version)
	}
	if c.PollSeconds < 0 || c.PollSeconds > 5 {
		return nil, errors.New("pollSeconds must be 1 to 5")
	}
	return c, errors.Join(c.Pre.check("pre"), c.Post.check("post"))
}

func (h Hook) check(which string) error {
	switch {
	case h.Path == "":
		return fmt.Errorf("%s names no path", which)
	case !path.IsAbs(h.Path) || path.Clean(h.Path) != h.Path || len(h.Path) > longestPath || guestagent.Printable(h.Path, longestPath) != h.Path:
		return fmt.Errorf("the path of %s is not a plain absolute one", which)
	case h.TimeoutSeconds < 0 || h.Retries < 0 || h.RetryDelaySeconds < 0:
		return fmt.Errorf("%s has a number below 0", which)
	case h.TimeoutSeconds > int(longestHook/time.Second) || h.RetryDelaySeconds > int(longestHook/time.Second) || h.Retries > mostRetries,
		time.Duration(h.Retries+1)*h.timeout()+time.Duration(h.Retries)*h.delay() > longestHook:
		return fmt.Errorf("%s may take more than %d s with all its retries", which, int(longestHook/time.Second))
	}
	return nil
}

// readConfig reads the guest's configuration, after seeing that only root can
// have written it, and sees that only root can have written the scripts.
func (a agent) readConfig(ctx context.Context) (*Config, error) {
	if ok, err := a.Allows(ctx, "guest-exec", "guest-exec-status"); err != nil || !ok {
		if err == nil {
			err = backstay.Errorf(backstay.CodeHookForbidden, "the guest does not let its agent run programs")
		}
		return nil, err
	}
	if err := a.ownedByRoot(ctx, HooksFile, 0o077, "the configuration of the hooks", backstay.CodeHookConfig); err != nil {
		return nil, err
	}
	read, err := a.Run(ctx, "cat", HooksFile)
	if err != nil || read.Code != 0 {
		return nil, toolError("cat", read, err)
	}
	c, err := ParseConfig([]byte(read.Out))
	if err != nil {
		return nil, backstay.Errorf(backstay.CodeHookConfig, "%s in the guest cannot be used", HooksFile).Because(guestagent.Error{Err: err})
	}
	if err := a.ownedByRoot(ctx, c.Pre.Path, 0o022, "the pre hook", backstay.CodeHookMissing); err != nil {
		return nil, err
	}
	return c, a.ownedByRoot(ctx, c.Post.Path, 0o022, "the post hook", backstay.CodeHookMissing)
}

// toolError is why one of the guest's own tools could not be used.
func toolError(tool string, e ended, err error) error {
	if errors.Is(err, hypervisor.ErrAgentSilent) {
		return err
	}
	if err == nil {
		err = fmt.Errorf("it ended with code %d: %s", e.Code, lastWords(e.Err))
	}
	return backstay.Errorf(backstay.CodeHookForbidden, "the hooks cannot be looked at with %s in the guest", tool).Because(err).
		Do("install the usual tools in the guest, and let its agent run them")
}

// What stat says of a file's type.
const (
	typeMask   = 0o170000
	typeFolder = 0o040000
	typeFile   = 0o100000
	typeLink   = 0o120000
)

// ownedByRoot sees that a file in the guest and each folder above it are root's,
// that nobody else may write to them, and that none is a symbolic link: what is
// looked at is what will be run. forbidden are the permissions that the file
// itself may not have; missing is the code for a file that is not there.
func (a agent) ownedByRoot(ctx context.Context, file string, forbidden uint64, what string, missing backstay.Code) error {
	parts := []string{file}
	for dir := path.Dir(file); ; dir = path.Dir(dir) {
		parts = append(parts, dir)
		if dir == "/" {
			break
		}
	}
	slices.Reverse(parts)
	looked, err := a.Run(ctx, "stat", append([]string{"-c", "%u %f %s %n"}, parts...)...)
	if err != nil || looked.Code > 1 {
		return toolError("stat", looked, err)
	}
	lines := strings.Split(strings.TrimSuffix(looked.Out, "\n"), "\n")
	for i, part := range parts {
		if i >= len(lines) || lines[i] == "" {
			return backstay.Errorf(missing, "%s is not in the guest", what).Becausef("there is no %s", part)
		}
		f, ok := parseStat(lines[i])
		switch {
		case !ok:
			return toolError("stat", looked, errors.New("its answer is not understood"))
		case f.name != part:
			return backstay.Errorf(missing, "%s is not in the guest", what).Becausef("there is no %s", part)
		}
		want, bits := uint64(typeFolder), uint64(0o022)
		if part == file {
			want, bits = typeFile, forbidden
		}
		if why := f.wrong(want, bits); why != "" {
			return backstay.Errorf(backstay.CodeHookPermission, "%s cannot be trusted", what).Becausef("%s %s", part, why)
		}
		if part == file && missing == backstay.CodeHookConfig && f.size > largestConfig {
			return backstay.Errorf(backstay.CodeHookConfig, "%s in the guest cannot be used", file).Becausef("it is larger than %d KiB", largestConfig>>10)
		}
	}
	return nil
}

// statLine is one line of stat.
type statLine struct {
	uid, mode, size uint64
	name            string
}

func parseStat(line string) (statLine, bool) {
	fields := strings.SplitN(line, " ", 4)
	if len(fields) != 4 {
		return statLine{}, false
	}
	uid, err1 := strconv.ParseUint(fields[0], 10, 32)
	mode, err2 := strconv.ParseUint(fields[1], 16, 32)
	size, err3 := strconv.ParseUint(fields[2], 10, 63)
	return statLine{uid, mode, size, fields[3]}, errors.Join(err1, err2, err3) == nil
}

func (f statLine) wrong(want, forbidden uint64) string {
	switch {
	case f.mode&typeMask == typeLink:
		return "is a symbolic link: name the path itself"
	case f.mode&typeMask != want:
		return "is neither a file nor a folder where one must be"
	case f.uid != 0:
		return fmt.Sprintf("belongs to user %d, not to root", f.uid)
	case f.mode&forbidden != 0:
		return fmt.Sprintf("has mode %o: others than root may use it", f.mode&0o7777)
	case want == typeFile && forbidden == 0o022 && f.mode&0o100 == 0:
		return fmt.Sprintf("has mode %o: root may not execute it", f.mode&0o7777)
	}
	return ""
}
