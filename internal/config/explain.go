package config

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
)

// explain turns the decoder's error into one with file, line and a hint. It
// never quotes the source: the line may hold a token (I10).
func explain(name string, err error, into any) error {
	p := problem{name: name, what: "the file is not as it should be", why: err.Error(), hint: "correct the line that is named"}
	var at yaml.Error
	if errors.As(err, &at) {
		p.why = at.GetMessage()
		if t := at.GetToken(); t != nil {
			p.line = t.Position.Line
		}
	}
	var unknown *yaml.UnknownFieldError
	var wrong *yaml.TypeError
	var twice *yaml.DuplicateKeyError
	var syntax *yaml.SyntaxError
	switch {
	case errors.As(err, &unknown) && unknown.Token != nil:
		key := unknown.Token.Value
		p.what, p.why, p.hint = fmt.Sprintf("unknown key `%s`", key), "the configuration has no such key here", hintFor(key, reflect.TypeOf(into))
	case errors.As(err, &wrong):
		p.what, p.why = "a value of the wrong sort", fmt.Sprintf("it must be %s", sort(wrong.DstType))
		p.hint = "compare the line with the sample that `backstay init` writes"
	case errors.As(err, &twice), errors.As(err, &syntax) && strings.Contains(syntax.Message, "already defined"):
		p.what, p.hint = "a key is there twice", "keep one of the two"
	case errors.As(err, &syntax):
		p.what, p.hint = "not valid YAML", "mind the indentation, and quote values that hold `: ` or `#`"
	}
	return p.err()
}

// sort says in words what a Go type is in YAML.
func sort(t reflect.Type) string {
	switch t.Kind() {
	case reflect.String:
		return "text"
	case reflect.Slice:
		return "a list"
	case reflect.Struct, reflect.Map:
		return "a group of keys"
	case reflect.Bool:
		return "true or false"
	default:
		return "a whole number"
	}
}

// hintFor says what may have been meant by an unknown key.
func hintFor(key string, into reflect.Type) string {
	parents := map[string][]string{}
	collect(into, "", parents)
	if where, ok := parents[key]; ok {
		return fmt.Sprintf("`%s` belongs %s", key, strings.Join(where, ", or "))
	}
	var all []string
	for k := range parents {
		all = append(all, k)
	}
	slices.Sort(all)
	if near := nearest(key, all); near != "" {
		return fmt.Sprintf("did you mean `%s`?", near)
	}
	return "remove it; the keys are: " + strings.Join(all, ", ")
}

// collect finds the keys of a struct and of those below it, and where each is.
func collect(t reflect.Type, parent string, parents map[string][]string) {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct {
		return
	}
	where := "at the top"
	if parent != "" {
		where = "under `" + parent + "`"
	}
	for i := range t.NumField() {
		f := t.Field(i)
		key, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		if key == "" || key == "-" {
			continue
		}
		parents[key] = append(parents[key], where)
		collect(f.Type, key, parents)
	}
}

// nearest returns the word that is at most a third of its letters away, or "".
func nearest(word string, words []string) string {
	best, at := "", len(word)/3+1
	for _, w := range words {
		if d := distance(strings.ToLower(word), strings.ToLower(w)); d <= at && (best == "" || d < at) {
			best, at = w, d
		}
	}
	return best
}

// distance is the Levenshtein distance of two words, in letters.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost = min(diagonal, row[j], row[j+1]) + 1
			}
			diagonal, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}
