package config

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	backstay "github.com/backstay/backstay"
)

func samples(t *testing.T, folder string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("testdata", folder, "*.yaml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no samples in %s: %v", folder, err)
	}
	return files
}

func TestGoodSamplesAreAccepted(t *testing.T) {
	for _, file := range samples(t, "good") {
		if _, err := Load(file); err != nil {
			t.Errorf("%s: %v", file, err)
		}
	}
}

// Each bad sample begins with what its error must contain.
func TestBadSamplesAreRefusedWithLineAndHint(t *testing.T) {
	for _, file := range samples(t, "bad") {
		t.Run(filepath.Base(file), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			lines := strings.SplitN(string(data), "\n", 3)
			_, err = Load(file)
			if !backstay.IsCode(err, backstay.CodeConfig) {
				t.Fatalf("got %v, want a config error", err)
			}
			e := backstay.AsError(err)
			if want := strings.TrimPrefix(lines[0], "# error: "); !strings.Contains(e.Message, want) {
				t.Errorf("message %q lacks %q", e.Message, want)
			}
			if want := strings.TrimPrefix(lines[1], "# action: "); !strings.Contains(e.Action, want) {
				t.Errorf("action %q lacks %q", e.Action, want)
			}
			if !strings.Contains(e.Message, file) || e.Cause == "" {
				t.Errorf("no file or cause in %+v", e)
			}
		})
	}
}

func TestTheSampleThatInitWritesReadsBackAsItself(t *testing.T) {
	odd := Default()
	odd.Region, odd.Data = "on", "/srv/with: colon # and hash"
	odd.Hosts = append(odd.Hosts, Host{Name: "east", Mover: "unix:///run/backstay/east.sock", Layers: Layers{Floor: "12.5%"}})
	odd.Hosts[0].Layers.Dir = "/srv/layers"
	odd.Files = Files{Machine: "/srv/machine", Memory: 1024, Sessions: 9, Warm: "off", Index: "off"}
	odd.Pair = Pair{Listen: "0.0.0.0:7071", Address: "[::1]:7071", Server: "https://on.example", Rate: "20MiB", Windows: []string{"mon-fri 22:00-06:00"}, Quota: "2TiB"}
	for _, want := range []Config{Default(), odd} {
		got, err := Parse("sample", []byte(Sample(want)))
		if err != nil {
			t.Fatalf("%v\n%s", err, Sample(want))
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
}

func TestInitNeverOverwritesAConfiguration(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new", "backstay.yaml")
	if err := Write(path, Default()); err != nil {
		t.Fatal(err)
	}
	if err := Write(path, Default()); !errors.Is(err, fs.ErrExist) {
		t.Fatalf("second write: %v", err)
	}
}

func TestAClientTokenThatOthersCanReadIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "client.yaml")
	want := Client{Server: "http://127.0.0.1:7070", Token: "bst_secret"}
	if err := WriteClient(path, want); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("mode %v, %v", info.Mode(), err)
	}
	if got, err := LoadClient(path); err != nil || !reflect.DeepEqual(got, want) {
		t.Fatalf("got %+v, %v", got, err)
	}
	want = Client{Server: "http://127.0.0.1:7070", Regions: map[backstay.RegionName]ClientRegion{"east": {Server: "http://10.0.0.2:7070", Token: "bst_secret"}}}
	if err := WriteClient(path, want); err != nil {
		t.Fatal(err)
	}
	if got, err := LoadClient(path); err != nil || !reflect.DeepEqual(got, want) {
		t.Fatalf("got %+v, %v", got, err)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	_, err = LoadClient(path)
	if !backstay.IsCode(err, backstay.CodeConfig) || !strings.Contains(backstay.AsError(err).Action, "chmod 0600") {
		t.Fatalf("got %v", err)
	}
}

// I10: an error about the client's configuration must not quote the token.
func TestAnErrorNeverQuotesTheToken(t *testing.T) {
	path := filepath.Join(t.TempDir(), "client.yaml")
	for _, text := range []string{"token: [bst_secret\n", "tokem: bst_secret\n", "token: {a: bst_secret}\n", "server: 7\ntoken: bst_secret\nx: 1\n", "regions: {east: {server: x, token: bst_secret}}\n", "regions: {east: {tokem: bst_secret}}\n"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := LoadClient(path)
		if err == nil {
			t.Errorf("%q was accepted", text)
			continue
		}
		e := backstay.AsError(err)
		if all := e.Message + e.Cause + e.Action + err.Error(); strings.Contains(all, "bst_secret") {
			t.Errorf("%q: the error quotes the token: %s", text, all)
		}
	}
}

func TestClientPathFollowsTheEnvironment(t *testing.T) {
	for _, c := range []struct {
		env  map[string]string
		want string
	}{
		{map[string]string{"BACKSTAY_CONFIG": "/x.yaml", "HOME": "/h"}, "/x.yaml"},
		{map[string]string{"XDG_CONFIG_HOME": "/c", "HOME": "/h"}, "/c/backstay/client.yaml"},
		{map[string]string{"HOME": "/h"}, "/h/.config/backstay/client.yaml"},
		{nil, ""},
	} {
		if got := ClientPath(func(k string) string { return c.env[k] }); got != c.want {
			t.Errorf("%v: got %q, want %q", c.env, got, c.want)
		}
	}
}

func TestWhereOthersReachTheLinkIsNotGuessed(t *testing.T) {
	for _, c := range []struct{ listen, address, want string }{
		{"", "", ""}, {"10.0.0.1:7071", "", "10.0.0.1:7071"}, {"west:7071", "", "west:7071"}, {"0.0.0.0:7071", "", ""}, {"[::]:7071", "", ""}, {":7071", "", ""},
		{"10.0.0.1:0", "", ""}, {"0.0.0.0:7071", "west.example:443", "west.example:443"},
	} {
		if got := (Pair{Listen: c.listen, Address: c.address}).Reached(); got != c.want {
			t.Errorf("%+v: %q", c, got)
		}
	}
}
