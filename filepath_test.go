package backstay_test

import (
	"encoding/json"
	"testing"

	backstay "github.com/backstay/backstay"
	"pgregory.net/rapid"
)

func TestAPathAsTextIsTheSameBytesAgain(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := backstay.FilePath(rapid.SliceOf(rapid.Byte()).Draw(t, "path"))
		data, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		var got backstay.FilePath
		if err := json.Unmarshal(data, &got); err != nil || got != p {
			t.Fatalf("%q became %s and then %q (%v)", string(p), data, string(got), err)
		}
	})
	for path, want := range map[string]string{
		"/etc/passwd": "/etc/passwd", "größe": "größe", "a\\b": `a\\b`, "a\xffb\n": `a\xffb\x0a`, "\u202e": `\xe2\x80\xae`,
	} {
		if got := backstay.FilePath(path).String(); got != want {
			t.Errorf("%q is shown as %s, not %s", path, got, want)
		}
	}
	for _, bad := range []string{`\`, `\x1`, `\xgg`, `\n`} {
		if p, err := backstay.ParseFilePath(bad); err == nil {
			t.Errorf("%s was read as %q", bad, string(p))
		}
	}
}
