package fileindex

import (
	"testing"

	backstay "github.com/backstay/backstay"
)

func TestPatterns(t *testing.T) {
	for _, c := range []struct {
		pattern, path string
		want          bool
	}{
		{"passwd", "/etc/passwd", true},
		{"passw", "/etc/passwd-", true},
		{"etc", "/etc/passwd", false}, // without "/" the name counts
		{"/etc/", "/etc/passwd", true},
		{"tc/pa", "/etc/passwd", true},
		{"*.conf", "/etc/x/a.conf", true},
		{"*.conf", "/etc/x.conf/a", false},
		{"*.conf", "/etc/a.confx", false},
		{"/etc/*.conf", "/etc/a.conf", true},
		{"/etc/*.conf", "/etc/x/a.conf", false},
		{"/etc/**/*.conf", "/etc/a.conf", true},
		{"/etc/**/*.conf", "/etc/x/y/a.conf", true},
		{"/etc/**/*.conf", "/etcx/a.conf", false},
		{"/etc/**", "/etc/x/y", true},
		{"**/x/*", "/a/x/y", true},
		{"**/x/*", "/a/xx/y", false},
		{"/home/a/*", "/a/z", true}, // by the guest's own path
		{"/home/b/*", "/a/z", false},
		{"a?c", "/abc", true},
		{"a?c", "/aüc", true},
		{"a?c", "/a\xffc", true},
		{"a?c", "/ac", false},
		{"[a-c]x", "/bx", true},
		{"[!a-c]x", "/bx", false},
		{"[]]x", "/]x", true},
		{"[a-]x", "/-x", true},
		{`\*x`, "/*x", true},
		{`\*x`, "/ax", false},
		{`a\xff*`, "/a\xffb", true},
		{`a\xff`, "/a\xff", true},
		{`a\\b`, `/a\b`, true},
		{"*a*b*c*", "/xxaxxbxxcxx", true},
		{"*a*b*c*", "/xxaxxcxxbxx", false},
		{"/**/a*/b", "/a/ax/c/ay/b", true},
		{"PASS", "/etc/passwd", false},
	} {
		p, err := ParsePattern(c.pattern, false)
		if err != nil || p.Match("/home", backstay.FilePath(c.path)) != c.want {
			t.Errorf("%s and %q: want %v, %v", c.pattern, c.path, c.want, err)
		}
	}
	for pattern, path := range map[string]string{"PASS": "/passwd", "*.CONF": "/a.conf", "*.conf": "/A.CONF", "[A-C]x": "/bX", "Ü": "/ü"} {
		if p, err := ParsePattern(pattern, true); err != nil || !p.Match("", backstay.FilePath(path)) {
			t.Errorf("%s and %s without case: %v", pattern, path, err)
		}
	}
	for _, bad := range []string{"", "[a", `a\`, "[b-a]", "[]"} {
		if _, err := ParsePattern(bad, false); !backstay.IsCode(err, backstay.CodeUsage) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func FuzzPattern(f *testing.F) {
	f.Add("/**/*a*[!b]?", "/x/yaaac", true)
	f.Fuzz(func(_ *testing.T, pattern, path string, fold bool) {
		if len(path) > 500 {
			return
		}
		if p, err := ParsePattern(pattern, fold); err == nil {
			p.Match("/m", backstay.FilePath("/"+path))
		}
	})
}
