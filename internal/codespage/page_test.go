package main

import (
	"os"
	"strings"
	"testing"

	backstay "github.com/backstay/backstay"
)

func TestThePageOfCodesHasEveryCodeWithItsMeaningAndAction(t *testing.T) {
	written, err := os.ReadFile("../../docs/codes.md")
	if err != nil {
		t.Fatal(err)
	}
	if string(written) != page() {
		t.Error("docs/codes.md is out of date: run `go generate .`")
	}
	for code, e := range backstay.Codes() {
		if !strings.Contains(string(written), "| `"+string(code)+"` |") {
			t.Errorf("%s is not on the page", code)
		}
		if backstay.Meaning(code) == "" || e.Action == "" {
			t.Errorf("%s has no meaning (codes_means.go) or no action (codes.go)", code)
		}
	}
}
