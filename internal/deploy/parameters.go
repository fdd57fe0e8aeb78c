// Package deploy is what restored disks are accompanied by: a template of the
// VM's definition, its typed parameters, and the same for OpenTofu or Terraform.
// It makes them of a definition, checks values that people gave, and makes a
// definition of them again.
//
// It is text in and text out: it opens no file and asks no host.
package deploy

import (
	"encoding/json"
	"fmt"
	"math"
	"net"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	backstay "github.com/backstay/backstay"
)

// parametersVersion is that of the file of parameters.
const parametersVersion = 1

// parametersFile is the form of parameters.json.
type parametersFile struct {
	Version    int                  `json:"version"`
	Help       string               `json:"help"`
	Parameters []backstay.Parameter `json:"parameters"`
}

const parametersHelp = "Edit \"value\", then run: backstay deploy FOLDER. Everything else describes the parameter."

// EncodeParameters writes parameters.json.
func EncodeParameters(p []backstay.Parameter) ([]byte, error) {
	data, err := json.MarshalIndent(parametersFile{Version: parametersVersion, Help: parametersHelp, Parameters: p}, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode parameters: %w", err)
	}
	return append(data, '\n'), nil
}

// DecodeParameters reads parameters.json, which people edit.
func DecodeParameters(data []byte) ([]backstay.Parameter, error) {
	var f parametersFile
	if err := json.Unmarshal(data, &f); err != nil {
		return nil, fmt.Errorf("read parameters: %w", err)
	}
	if f.Version != parametersVersion {
		return nil, fmt.Errorf("read parameters: the file has version %d, and this backstay knows %d", f.Version, parametersVersion)
	}
	return f.Parameters, nil
}

// Choose gives the parameters the values that are set by name, checks all, and
// returns them with the texts that a template takes. The error is CodeUsage and
// names the parameter.
func Choose(parameters []backstay.Parameter, set map[string]string) ([]backstay.Parameter, map[string]string, error) {
	chosen := slices.Clone(parameters)
	values := map[string]string{}
	for i := range chosen {
		p := &chosen[i]
		text, err := plain(p.Value)
		if given, ok := set[p.Name]; ok {
			text, err = given, nil
		}
		if err == nil {
			text, err = check(*p, text)
		}
		if err != nil {
			return nil, nil, invalid(p.Name, err)
		}
		values[p.Name], p.Value = text, typed(p.Type, text)
	}
	for name := range set {
		if _, known := values[name]; !known {
			return nil, nil, backstay.Errorf(backstay.CodeUsage, "the template has no parameter %q", name).
				Becausef("it has %s", strings.Join(names(chosen), ", ")).Do("give one of these")
		}
	}
	return chosen, values, nil
}

func invalid(name string, err error) error {
	return backstay.Errorf(backstay.CodeUsage, "the parameter %s has no valid value", name).Because(err).
		Do("correct %s with --set or in parameters.json; nothing was touched", name)
}

func names(parameters []backstay.Parameter) []string {
	var all []string
	for _, p := range parameters {
		all = append(all, p.Name)
	}
	return all
}

// plain writes a JSON value as text.
func plain(v any) (string, error) {
	switch v := v.(type) {
	case nil:
		return "", nil
	case string:
		return v, nil
	case bool:
		return strconv.FormatBool(v), nil
	case float64:
		if v != math.Trunc(v) || math.Abs(v) > 1<<53 {
			return "", fmt.Errorf("%v is not a whole number", v)
		}
		return strconv.FormatInt(int64(v), 10), nil
	case int64:
		return strconv.FormatInt(v, 10), nil
	}
	return "", fmt.Errorf("%v is neither text, number, true nor false", v)
}

// typed is plain's inverse for a text that was checked.
func typed(t backstay.ParameterType, text string) any {
	switch t {
	case backstay.TypeInteger:
		n, _ := strconv.ParseInt(text, 10, 64)
		return n
	case backstay.TypeBoolean:
		return text == "true"
	}
	return text
}

// check returns the value in the one way in which a template takes it.
func check(p backstay.Parameter, text string) (string, error) {
	text, err := checkType(p, text)
	if err != nil {
		return "", err
	}
	if len(p.Allowed) > 0 && !slices.Contains(p.Allowed, text) {
		return "", fmt.Errorf("%q is not among %s", text, strings.Join(quoted(p.Allowed), ", "))
	}
	if p.Pattern == "" {
		return text, nil
	}
	whole, err := regexp.Compile(`\A(?:` + p.Pattern + `)\z`)
	if err != nil {
		return "", fmt.Errorf("its pattern is wrong: %w", err)
	}
	if !whole.MatchString(text) {
		return "", fmt.Errorf("%q does not match %s", text, p.Pattern)
	}
	return text, nil
}

func quoted(all []string) []string {
	var out []string
	for _, s := range all {
		out = append(out, strconv.Quote(s))
	}
	return out
}

var (
	uuidText = regexp.MustCompile(`\A[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\z`)
	cpuText  = regexp.MustCompile(`\A\^?[0-9]{1,5}(-[0-9]{1,5})?(,\^?[0-9]{1,5}(-[0-9]{1,5})?)*\z`)
	nameText = regexp.MustCompile(`\A[A-Za-z0-9][A-Za-z0-9._-]{0,62}\z`)
)

func checkType(p backstay.Parameter, text string) (string, error) {
	if p.Type != backstay.TypeText && strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return "", fmt.Errorf("it has a control character")
	}
	switch p.Type {
	case backstay.TypeString:
		return text, nil
	case backstay.TypeText:
		if strings.ContainsFunc(text, func(r rune) bool { return r < ' ' && r != '\n' && r != '\t' }) {
			return "", fmt.Errorf("it has a control character")
		}
		return text, nil
	case backstay.TypeInteger:
		return checkInteger(p, text)
	case backstay.TypeBoolean:
		if text != "true" && text != "false" {
			return "", fmt.Errorf("%q is neither true nor false", text)
		}
		return text, nil
	case backstay.TypeSize:
		return checkSize(p, text)
	case backstay.TypePath:
		if !path.IsAbs(text) || path.Clean(text) != text || len(text) > 4095 {
			return "", fmt.Errorf("%q is not an absolute path in its shortest form", text)
		}
		return text, nil
	}
	return checkIdentity(p.Type, text)
}

func checkIdentity(t backstay.ParameterType, text string) (string, error) {
	switch t {
	case backstay.TypeUUID:
		if !uuidText.MatchString(text) {
			return "", fmt.Errorf("%q is not a UUID", text)
		}
		return strings.ToLower(text), nil
	case backstay.TypeMAC:
		mac, err := net.ParseMAC(text)
		if err != nil || len(mac) != 6 || mac[0]&1 != 0 {
			return "", fmt.Errorf("%q is not the address of one interface, such as 52:54:00:12:34:56", text)
		}
		return mac.String(), nil
	case backstay.TypeCPUSet:
		return text, checkCPUs(text)
	case backstay.TypePinning:
		_, err := pins(text)
		return text, err
	case backstay.TypeNames:
		for _, name := range list(text) {
			if !nameText.MatchString(name) {
				return "", fmt.Errorf("%q is not a name", name)
			}
		}
		return text, nil
	}
	return "", fmt.Errorf("there is no type %q", t)
}

func checkCPUs(text string) error {
	if text == "" {
		return nil
	}
	if !cpuText.MatchString(text) {
		return fmt.Errorf("%q is not a set of CPUs, such as 0-3,^2,8", text)
	}
	for _, run := range strings.Split(text, ",") {
		from, to, ranged := strings.Cut(strings.TrimPrefix(run, "^"), "-")
		a, _ := strconv.Atoi(from)
		b, _ := strconv.Atoi(to)
		if ranged && b < a {
			return fmt.Errorf("%q ends before it begins", run)
		}
	}
	return nil
}

// pin puts one virtual CPU on CPUs of the host.
type pin struct{ VCPU, CPUs string }

// pins reads what a parameter of type pinning says.
func pins(text string) ([]pin, error) {
	var all []pin
	seen := map[int]bool{}
	for _, part := range strings.FieldsFunc(text, func(r rune) bool { return r == ';' || r == ' ' }) {
		vcpu, cpus, ok := strings.Cut(part, "=")
		n, err := strconv.Atoi(vcpu)
		if !ok || err != nil || n < 0 || cpus == "" {
			return nil, fmt.Errorf("%q does not pin a virtual CPU, such as 0=2-3", part)
		}
		if err := checkCPUs(cpus); err != nil {
			return nil, err
		}
		if seen[n] {
			return nil, fmt.Errorf("the virtual CPU %d is pinned twice", n)
		}
		seen[n] = true
		all = append(all, pin{strconv.Itoa(n), cpus})
	}
	return all, nil
}

// list reads what a parameter of type names says.
func list(text string) []string {
	if text == "" {
		return nil
	}
	return strings.Split(text, ",")
}

func checkInteger(p backstay.Parameter, text string) (string, error) {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return "", fmt.Errorf("%q is not a whole number", text)
	}
	return strconv.FormatInt(n, 10), within(p, n, strconv.FormatInt(n, 10))
}

// units are those in which a size may be given, the largest first.
var units = []struct {
	name  string
	bytes int64
}{{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}}

func checkSize(p backstay.Parameter, text string) (string, error) {
	number, unit := text, int64(1)
	for _, u := range units {
		if rest, ok := strings.CutSuffix(text, u.name); ok {
			number, unit = strings.TrimSpace(rest), u.bytes
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n < 0 || n > math.MaxInt64/unit {
		return "", fmt.Errorf("%q is not a size, such as 512MiB or 4GiB", text)
	}
	n *= unit
	if n%1024 != 0 {
		return "", fmt.Errorf("%q is not a multiple of 1 KiB", text)
	}
	return size(n), within(p, n, size(n))
}

// size writes bytes in the largest unit in which they are a whole number.
func size(n int64) string {
	for _, u := range units {
		if n%u.bytes == 0 && n > 0 {
			return strconv.FormatInt(n/u.bytes, 10) + u.name
		}
	}
	return strconv.FormatInt(n, 10)
}

// kib returns how many KiB a checked size is.
func kib(text string) string {
	for _, u := range units {
		if rest, ok := strings.CutSuffix(text, u.name); ok {
			n, _ := strconv.ParseInt(rest, 10, 64)
			return strconv.FormatInt(n*(u.bytes>>10), 10)
		}
	}
	return "0"
}

func within(p backstay.Parameter, n int64, text string) error {
	bound := func(n int64) string {
		if p.Type == backstay.TypeSize {
			return size(n)
		}
		return strconv.FormatInt(n, 10)
	}
	switch {
	case p.Min != nil && n < *p.Min:
		return fmt.Errorf("%s is less than %s", text, bound(*p.Min))
	case p.Max != nil && n > *p.Max:
		return fmt.Errorf("%s is more than %s", text, bound(*p.Max))
	}
	return nil
}
