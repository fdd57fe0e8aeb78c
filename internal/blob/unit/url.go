package unit

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/blob"
)

// Kind is what sort of place a storage unit is: the scheme of its URL.
type Kind string

// The kinds of storage units.
const (
	File  Kind = "file"  // a directory: file:///absolute/path
	S3    Kind = "s3"    // a bucket: s3://bucket/prefix
	Azure Kind = "azure" // a container of Azure Blob Storage: azure://account/container/prefix
	Mem   Kind = "mem"   // memory of this process, for tests and trials: mem://name
)

// URL is a storage unit's URL, taken apart. It never holds a credential: those
// come from the environment or from a file that the URL names.
type URL struct {
	Kind Kind
	// Host is the bucket (s3), the account (azure) or the name (mem).
	Host string
	// Path is the absolute path of a directory, or what comes before the names
	// of the objects in a bucket or container, without slashes at its ends.
	Path string
	// Options are the parameters, all known and each given once.
	Options map[string]string
}

// scheme says what a kind of URL may have.
type scheme struct {
	like    string   // an example, for errors
	options []string // beside the common ones
	check   func(*URL) error
}

// schemes has a row for each kind.
func schemes() map[Kind]scheme {
	return map[Kind]scheme{
		File:  {like: "file:///srv/backstay/copy1", check: checkFile},
		S3:    {like: "s3://bucket/prefix?region=eu-central-1", check: checkS3, options: slices.Concat(network, []string{"region", "path-style"})},
		Azure: {like: "azure://account/container/prefix", check: checkAzure, options: network},
		Mem:   {like: "mem://trial", check: checkMem},
	}
}

// common are the options that every kind knows, network those of servers.
var (
	common  = []string{"max-rate", "max-requests", "cache", "cache-size"}
	network = []string{"endpoint", "credentials", "timeout"}
)

// Parse takes a storage unit's URL apart. An absolute path is a directory. The
// errors are for people, and never repeat a part that may be a secret.
func Parse(raw string) (URL, error) {
	if filepath.IsAbs(raw) {
		raw = (&url.URL{Scheme: string(File), Path: raw}).String()
	}
	parsed, err := url.Parse(raw)
	if err != nil {
		return URL{}, badURL("it cannot be taken apart") // the parser's error repeats the URL
	}
	u := URL{Kind: Kind(parsed.Scheme), Host: parsed.Host, Path: parsed.Path, Options: map[string]string{}}
	known, ok := schemes()[u.Kind]
	switch {
	case !ok:
		return URL{}, badURL("%q is not a kind of storage unit", parsed.Scheme)
	case parsed.User != nil:
		return URL{}, badURL("it holds a user or a password, and URLs are listed and logged").
			Do("put the credentials into the environment, or into a file that credentials= names")
	case parsed.Fragment != "" || parsed.Opaque != "":
		return URL{}, badURL("it should look like %s", known.like)
	}
	params, err := url.ParseQuery(parsed.RawQuery)
	if err != nil {
		return URL{}, badURL("its options cannot be taken apart")
	}
	all := slices.Concat(common, known.options)
	for name, values := range params {
		if !slices.Contains(all, name) || len(values) != 1 || values[0] == "" {
			return URL{}, badURL("%q is not an option of it, or is given twice or empty", name).Do("%s", knownOptions(u.Kind, all))
		}
		u.Options[name] = values[0]
	}
	if err := known.check(&u); err != nil {
		return URL{}, err
	}
	_, err = u.settings()
	return u, err
}

func knownOptions(kind Kind, all []string) string {
	return fmt.Sprintf("the options of %s: URLs are %s", kind, strings.Join(all, ", "))
}

func badURL(format string, args ...any) *backstay.Error {
	var like []string
	for _, s := range schemes() {
		like = append(like, s.like)
	}
	slices.Sort(like)
	return backstay.Errorf(backstay.CodeUsage, "this is not the URL of a storage unit").Becausef(format, args...).
		Do("give URLs such as %s", strings.Join(like, ", "))
}

// Clean returns the one form of a URL that is kept and shown.
func Clean(raw string) (string, error) {
	u, err := Parse(raw)
	if err != nil {
		return "", err
	}
	return u.String(), nil
}

// String returns the URL in its one form: options in order of name.
func (u URL) String() string {
	out := string(u.Kind) + "://" + u.Host
	switch {
	case u.Kind == File:
		out += (&url.URL{Path: u.Path}).EscapedPath()
	case u.Path != "":
		out += "/" + u.Path
	}
	for i, name := range slices.Sorted(maps.Keys(u.Options)) {
		out += map[bool]string{true: "?", false: "&"}[i == 0] + name + "=" + optionValue(u.Options[name])
	}
	return out
}

// optionValue escapes a value but leaves what people read in URLs as it is.
func optionValue(v string) string {
	return strings.NewReplacer("%2F", "/", "%3A", ":").Replace(url.QueryEscape(v))
}

func checkFile(u *URL) error {
	if u.Host != "" || !filepath.IsAbs(u.Path) {
		return badURL("a directory is named by its absolute path")
	}
	u.Path = filepath.Clean(u.Path)
	return nil
}

func checkMem(u *URL) error {
	if u.Host == "" || strings.Trim(u.Path, "/") != "" {
		return badURL("a unit in memory has a name and nothing else")
	}
	u.Path = ""
	return nil
}

var (
	bucketName    = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$`)
	accountName   = regexp.MustCompile(`^[a-z0-9]{3,24}$`)
	containerName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$`)
)

func checkS3(u *URL) error {
	if !bucketName.MatchString(u.Host) {
		return badURL("a bucket's name has 3 to 63 lower-case letters, digits, dots and hyphens")
	}
	return checkPrefix(u, strings.Trim(u.Path, "/"))
}

func checkAzure(u *URL) error {
	u.Path = strings.Trim(u.Path, "/")
	name, prefix, _ := strings.Cut(u.Path, "/")
	if !accountName.MatchString(u.Host) || !containerName.MatchString(name) {
		return badURL("an account's name has 3 to 24 lower-case letters and digits, a container's 3 to 63 and hyphens")
	}
	if err := checkPrefix(u, strings.Trim(prefix, "/")); err != nil {
		return err
	}
	u.Path = strings.TrimSuffix(name+"/"+u.Path, "/")
	return nil
}

// checkPrefix makes prefix the path. It is held to what objects may be named.
func checkPrefix(u *URL, prefix string) error {
	if prefix != "" && (blob.CheckName(prefix) != nil || len(prefix) > 200) {
		return badURL("what comes before the names of objects has letters, digits, '-', '_', '.' and '/', and 200 bytes at most")
	}
	u.Path = prefix
	return nil
}

// place says where the objects are, whatever the options say of how to get there:
// a device-like part that must be equal and a path below it.
func (u URL) place() (where, path string, err error) {
	switch u.Kind {
	case File:
		path, err = realPath(u.Path)
		return "file", path, err
	case Azure:
		return strings.TrimSuffix("azure "+u.Host+" "+u.Options["endpoint"], "/"), "/" + u.Path, nil
	default: // a bucket's name is unique within its endpoint
		return strings.TrimSuffix(string(u.Kind)+" "+u.Host+" "+u.Options["endpoint"], "/"), "/" + u.Path, nil
	}
}

// Apart returns an error if two of the units are one place under several names,
// or if one lies in another: what is told as several copies must be several (I13).
func Apart(urls ...URL) error {
	type seen struct{ where, path string }
	var all []seen
	for _, u := range urls {
		where, path, err := u.place()
		if err != nil {
			return backstay.Errorf(backstay.CodeVaultAway, "storage unit %s cannot be made", u).Because(err)
		}
		for i, other := range all {
			if where == other.where && (within(path, other.path) || within(other.path, path)) {
				return backstay.Errorf(backstay.CodeUsage, "the storage units %s and %s are not apart", urls[i], u).
					Becausef("they are %s and %s: two copies in one place are one copy", cmp.Or(other.path, "/"), cmp.Or(path, "/")).
					Do("give a place of its own for each copy, on different devices if there are any")
			}
		}
		all = append(all, seen{where, path})
	}
	return nil
}

// within tells whether path is dir or below it.
func within(path, dir string) bool {
	return path == dir || strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}

// realPath follows the symbolic links of that part of a path that exists.
func realPath(path string) (string, error) {
	real, err := filepath.EvalSymlinks(path)
	if !errors.Is(err, fs.ErrNotExist) || path == filepath.Dir(path) {
		return real, err
	}
	parent, err := realPath(filepath.Dir(path))
	return filepath.Join(parent, filepath.Base(path)), err
}
