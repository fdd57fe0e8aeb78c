package unit

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	backstay "github.com/backstay/backstay"
)

// settings are the options of a URL, read.
type settings struct {
	pathStyle bool
	idle      time.Duration
	rate      int64 // bytes a second
	requests  int
	cache     string
	cacheSize int64
}

// defaultCacheSize is how many bytes a cache holds unless the URL says.
const defaultCacheSize = 4 << 30

// settings reads the options and refuses values that make no sense.
func (u URL) settings() (settings, error) {
	s := settings{cache: u.Options["cache"], cacheSize: defaultCacheSize}
	for name, value := range u.Options {
		var err error
		switch name {
		case "path-style":
			s.pathStyle, err = strconv.ParseBool(value)
		case "timeout":
			s.idle, err = time.ParseDuration(value)
			if err == nil && s.idle < time.Millisecond {
				err = errors.New("too short")
			}
		case "max-rate":
			s.rate, err = bytes(value)
		case "max-requests":
			s.requests, err = strconv.Atoi(value)
			if err == nil && s.requests < 1 {
				err = errors.New("less than 1")
			}
		case "cache-size":
			s.cacheSize, err = bytes(value)
		case "cache", "credentials":
			if !filepath.IsAbs(value) {
				err = errors.New("not absolute")
			}
		case "endpoint":
			err = checkEndpoint(value)
		}
		if err != nil {
			return s, badURL("its option %s has no value that it can have", name).Do("%s", optionForms[name])
		}
	}
	if s.cache == "" && u.Options["cache-size"] != "" {
		return s, badURL("it has cache-size= without cache=")
	}
	return s, nil
}

// optionForms says what each option's value looks like.
var optionForms = map[string]string{
	"path-style":   "say path-style=true or false",
	"timeout":      "say for how long a request may be without progress, as in timeout=30s",
	"max-rate":     "say bytes a second, as in max-rate=50M (K, M and G are powers of 1024)",
	"max-requests": "say how many requests may be made at once, as in max-requests=8",
	"cache":        "give the absolute path of a folder for the cache",
	"cache-size":   "say bytes, as in cache-size=20G (K, M and G are powers of 1024)",
	"credentials":  "give the absolute path of a file that only its owner can read",
	"endpoint":     "give the address of the server, as in endpoint=https://s3.example.org:9000, without a user in it",
}

// bytes reads a positive number of bytes with an optional K, M, G or T.
func bytes(s string) (int64, error) {
	factor := int64(1)
	if i := strings.IndexByte("KMGT", s[len(s)-1]); i >= 0 {
		factor, s = 1<<(10*(i+1)), s[:len(s)-1]
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 1 || n > math.MaxInt64/factor {
		return 0, errors.New("not a number of bytes")
	}
	return n * factor, nil
}

func checkEndpoint(s string) error {
	e, err := url.Parse(s)
	if err != nil || e.Scheme != "http" && e.Scheme != "https" || e.Host == "" || e.User != nil || e.RawQuery != "" || e.Fragment != "" {
		return errors.New("not an address")
	}
	return nil
}

// identity tells the objects of this unit from those of any other.
func (u URL) identity() string {
	return string(u.Kind) + "\x00" + u.Options["endpoint"] + "\x00" + u.Host + "\x00" + u.Path
}

// keys is a file of credentials: those of one kind of unit.
type keys struct {
	AccessKeyID     string `json:"access_key_id,omitempty"`
	SecretAccessKey string `json:"secret_access_key,omitempty"`
	SessionToken    string `json:"session_token,omitempty"`
	AccountKey      string `json:"account_key,omitempty"`
	SASToken        string `json:"sas_token,omitempty"`
}

func (keys) secret(s string) backstay.Secret { return backstay.NewSecret([]byte(s)) }

// credentials reads the file that the URL names. Without one they are what the
// environment says: for S3 the SDK looks itself, for Azure it is done here.
func credentials(u URL) (keys, error) {
	path := u.Options["credentials"]
	if path == "" {
		if u.Kind == Azure {
			return keys{AccountKey: os.Getenv("AZURE_STORAGE_KEY"), SASToken: os.Getenv("AZURE_STORAGE_SAS_TOKEN")}, nil
		}
		return keys{}, nil
	}
	k, err := readKeys(path)
	if err == nil {
		err = k.complete(u.Kind)
	}
	if err != nil {
		return keys{}, backstay.Errorf(backstay.CodeConfig, "the credentials of storage unit %s cannot be used", u).
			Becausef("%s: %s", path, err).Do("%s", fileForms[u.Kind])
	}
	return k, nil
}

// fileForms says what a file of credentials looks like.
var fileForms = map[Kind]string{
	S3:    `write {"access_key_id": "…", "secret_access_key": "…"} into it, owned by root or the user of the server, mode 0600`,
	Azure: `write {"account_key": "…"} or {"sas_token": "…"} into it, owned by root or the user of the server, mode 0600`,
}

func (k keys) complete(kind Kind) error {
	switch {
	case kind == S3 && (k.AccessKeyID == "" || k.SecretAccessKey == ""):
		return errors.New("it has no access_key_id or no secret_access_key")
	case kind == Azure && (k.AccountKey == "") == (k.SASToken == ""):
		return errors.New("it must have an account_key or a sas_token")
	}
	return nil
}

// readKeys reads a file that nobody else can read or write. Its errors never
// repeat what it holds.
func readKeys(path string) (keys, error) {
	f, err := os.Open(path)
	if err != nil {
		return keys{}, errors.Unwrap(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return keys{}, errors.Unwrap(err)
	}
	if !info.Mode().IsRegular() || info.Mode().Perm()&0o077 != 0 {
		return keys{}, fmt.Errorf("its mode is %s, and others than its owner could use it", info.Mode())
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Uid != 0 && int(st.Uid) != os.Geteuid() {
		return keys{}, fmt.Errorf("it belongs to user %d, who is neither root nor who runs this", st.Uid)
	}
	d := json.NewDecoder(io.LimitReader(f, 64<<10))
	d.DisallowUnknownFields()
	var k keys
	if d.Decode(&k) != nil {
		return keys{}, errors.New("it is not JSON of the form that it must have")
	}
	return k, nil
}
