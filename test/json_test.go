//go:build integration

package test

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
)

// expect is the command `expect`.
func expect(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) == 2 {
		args = []string{args[0], "=", args[1]}
	}
	if len(args) != 3 {
		ts.Fatalf("usage: expect PATH [OP] VALUE")
	}
	got, err := lookUp(ts.ReadFile("stdout"), args[0])
	ts.Check(err)
	holds, err := compare(got, args[1], args[2])
	ts.Check(err)
	if holds == neg {
		ts.Fatalf("%s is %q", args[0], got)
	}
}

// remember is the command `remember`.
func remember(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 || len(args) > 2 {
		ts.Fatalf("usage: remember NAME [PATH]")
	}
	value := strings.TrimSpace(ts.ReadFile("stdout"))
	if len(args) == 2 {
		var err error
		value, err = lookUp(value, args[1])
		ts.Check(err)
	}
	if value == "" {
		ts.Fatalf("there is nothing to remember")
	}
	ts.Setenv(args[0], value)
}

// lookUp finds a value in JSON by a path such as disks.0.sha256; "#" is the
// length of a list. What is not there, and null, is the empty string.
func lookUp(text, path string) (string, error) {
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.UseNumber()
	var v any
	if err := decoder.Decode(&v); err != nil {
		return "", fmt.Errorf("the last output is no JSON: %w", err)
	}
	for _, key := range strings.Split(path, ".") {
		switch at := v.(type) {
		case map[string]any:
			v = at[key]
		case []any:
			if key == "#" {
				v = json.Number(strconv.Itoa(len(at)))
				continue
			}
			i, err := strconv.Atoi(key)
			if err != nil {
				return "", fmt.Errorf("%s: %q is no place in a list", path, key)
			}
			if i < 0 {
				i += len(at)
			}
			if v = nil; i >= 0 && i < len(at) {
				v = at[i]
			}
		default:
			v = nil
		}
	}
	switch v := v.(type) {
	case nil:
		return "", nil
	case string:
		return v, nil
	case json.Number:
		return v.String(), nil
	}
	out, err := json.Marshal(v)
	return string(out), err
}

// compare applies an operator; < and > compare numbers, ~ matches a regular
// expression.
func compare(got, op, want string) (bool, error) {
	switch op {
	case "=":
		return got == want, nil
	case "!=":
		return got != want, nil
	case "~":
		return regexp.MatchString(want, got)
	case "<", ">":
		a, err1 := strconv.ParseFloat(got, 64)
		b, err2 := strconv.ParseFloat(want, 64)
		if err1 != nil || err2 != nil {
			return false, fmt.Errorf("%q and %q are not both numbers", got, want)
		}
		return op == "<" && a < b || op == ">" && a > b, nil
	}
	return false, fmt.Errorf("what is %q? say =, !=, <, > or ~", op)
}
