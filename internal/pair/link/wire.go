package link

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/pair"
)

// The calls, as paths.
const (
	pathJoin     = "/pair/v1/join"
	pathHello    = "/pair/v1/hello"
	pathOffer    = "/pair/v1/offer"
	pathLacks    = "/pair/v1/lacks"
	pathPut      = "/pair/v1/put"
	pathComplete = "/pair/v1/complete"
	pathList     = "/pair/v1/list"
	pathGet      = "/pair/v1/get"
	pathVaults   = "/pair/v1/vaults"
)

// Bounds of what is read from the other side, in bytes but for maxName and maxListed.
const (
	maxRequest = 1 << 20  // of a request that is no object
	maxResult  = 64 << 20 // of a result: the points of a vault are in one
	maxData    = 1 << 20  // of one frame of a stream
	maxName    = 512      // characters of an object's name or a vault's id
	maxListed  = 2000     // objects in one frame of a listing
)

// Greeting is what a server says of itself to a region with which it is paired, or
// wants to be.
type Greeting struct {
	Region backstay.RegionName `json:"region"`
	// Address is where its link listens, HOST:PORT; empty if it cannot be called.
	Address string `json:"address,omitempty"`
	// Server is the URL of its API; empty if it does not say.
	Server    string    `json:"server,omitempty"`
	Recipient string    `json:"recipient,omitempty"`
	Version   string    `json:"version,omitempty"`
	Time      time.Time `json:"time"`
}

// joinRequest asks to be paired.
type joinRequest struct {
	Token    Token    `json:"token"`
	Greeting Greeting `json:"greeting"`
}

// wireObject is a pair.Object.
type wireObject struct {
	Name string `json:"n"`
	Size int64  `json:"s"`
	Sum  string `json:"h"`
}

func toWire(o pair.Object) wireObject {
	return wireObject{Name: o.Name, Size: o.Size, Sum: hex.EncodeToString(o.Sum[:])}
}

// object checks what came: a name of some length, a size that an object can have.
func (w wireObject) object() (pair.Object, error) {
	o := pair.Object{Name: w.Name, Size: w.Size}
	sum, err := hex.DecodeString(w.Sum)
	switch {
	case err != nil || copy(o.Sum[:], sum) != len(sum) || len(sum) != len(o.Sum):
		return o, errors.New("an object has no valid sum")
	case !validName(w.Name):
		return o, errors.New("an object has no valid name")
	case w.Size < 0 || w.Size > pair.MaxObject:
		return o, fmt.Errorf("an object of %d bytes", w.Size)
	}
	return o, nil
}

// validName is a first look at the name of an object or a vault; the Holder has
// its own.
func validName(name string) bool {
	return name != "" && len(name) <= maxName && strings.IndexFunc(name, func(r rune) bool { return r > unicode.MaxASCII || !unicode.IsPrint(r) }) < 0
}

type lacksRequest struct {
	Vault   string       `json:"vault"`
	Objects []wireObject `json:"objects"`
}

// outcome is the last frame of each answer.
type outcome struct {
	Result json.RawMessage `json:"result,omitempty"`
	Error  *backstay.Error `json:"error,omitempty"`
}

// passed are the codes that go over the link as they are; what else fails over there
// is for its own log.
var passed = []backstay.Code{
	backstay.CodeRegionQuota, backstay.CodeReplicaRefused, backstay.CodeVaultRolledBack, backstay.CodePairing, backstay.CodeExists,
	backstay.CodeUnknownVault, backstay.CodeUnknownPoint, backstay.CodeDamaged, backstay.CodeVaultAway, backstay.CodeVaultFull,
	backstay.CodeVaultReadOnly, backstay.CodeUnitUnfit, backstay.CodeNoSpace, backstay.CodeUsage, backstay.CodeRegionAway, backstay.CodeConflict,
	backstay.CodeConfig,
}

// show makes an error ready for the other region: coded, and without details that
// are nobody's business there.
func show(err error) *backstay.Error {
	e := backstay.AsError(err)
	if !slices.Contains(passed, e.Code) {
		return backstay.Errorf(backstay.CodeInternal, "the other region's server failed").Becausef("its log has the details")
	}
	return backstay.Errorf(e.Code, "%s", e.Message).Becausef("%s", e.Cause).Do("%s", e.Action)
}

// believed makes an error of one that the other region sent: its code if it is one
// of those that can come, its words cut and made harmless for a terminal.
func believed(e *backstay.Error) error {
	code := e.Code
	if !slices.Contains(passed, code) {
		code = backstay.CodeInternal
	}
	out := backstay.Errorf(code, "%s", harmless(e.Message)).Becausef("%s", harmless(e.Cause))
	if action := harmless(e.Action); action != "" && code != backstay.CodeInternal {
		out = out.Do("%s", action)
	}
	return out
}

func harmless(s string) string {
	const most = 500
	s = strings.Map(func(r rune) rune {
		if r == unicode.ReplacementChar || !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s)
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}

// decode reads the one JSON value in data, strictly.
func decode(data []byte, into any) error {
	d := json.NewDecoder(strings.NewReader(string(data)))
	if err := d.Decode(into); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("there is more than one value")
	}
	return nil
}
