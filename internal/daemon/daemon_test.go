package daemon

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/client"
	"github.com/backstay/backstay/internal/config"
)

func freeAddress(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// newRegion runs init, and names a host whose mover does not answer.
func newRegion(t *testing.T) config.InitResult {
	t.Helper()
	result, err := (&Daemon{}).Init(t.Context(), config.InitOptions{Dir: t.TempDir(), Listen: freeAddress(t)})
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load(result.ConfigPath)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Hosts = []config.Host{{Name: "east", Mover: "unix://" + filepath.Join(t.TempDir(), "nobody.sock")}}
	if err := os.WriteFile(result.ConfigPath, []byte(config.Sample(cfg)), 0o600); err != nil {
		t.Fatal(err)
	}
	return result
}

// start runs a server and returns a client of it, and what stops it.
func start(t *testing.T, result config.InitResult) (*client.Client, func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- (&Daemon{}).Server(ctx, result.ConfigPath) }()
	c, err := config.LoadClient(result.ClientConfigPath)
	if err != nil {
		t.Fatal(err)
	}
	api := client.New(c.Server, c.Token)
	for range 200 {
		if _, err = api.Vaults(ctx); err == nil {
			return api, func() error { cancel(); return <-ended }
		}
		select {
		case err := <-ended:
			t.Fatalf("the server ended: %v", err)
		case <-time.After(50 * time.Millisecond):
		}
	}
	t.Fatalf("the server does not answer: %v", err)
	return nil, nil
}

func TestInitMakesARegionThatStartsAndStops(t *testing.T) {
	result := newRegion(t)
	api, stop := start(t, result)
	vaults, err := api.Vaults(t.Context())
	if err != nil || len(vaults) != 1 || vaults[0].Name != "default" {
		t.Fatalf("vaults %+v, %v", vaults, err)
	}
	if vaults[0].Copies != 3 || vaults[0].FailureDomains != 1 || vaults[0].Note == "" {
		t.Errorf("three folders of one device must be told as one failure domain: %+v", vaults[0])
	}
	if err := stop(); err != nil {
		t.Errorf("stop: %v", err)
	}
	// A second life finds the same region.
	_, stop = start(t, result)
	if err := stop(); err != nil {
		t.Errorf("second stop: %v", err)
	}
}

func TestOneServerAtATimeUsesADataFolder(t *testing.T) {
	result := newRegion(t)
	_, stop := start(t, result)
	defer func() { _ = stop() }()
	if err := (&Daemon{}).Server(t.Context(), result.ConfigPath); !backstay.IsCode(err, backstay.CodeConflict) {
		t.Errorf("a second server: %v", err)
	}
}

func TestInitTwiceTouchesNothing(t *testing.T) {
	result := newRegion(t)
	before, err := os.ReadFile(result.ConfigPath)
	if err != nil {
		t.Fatal(err)
	}
	_, err = (&Daemon{}).Init(t.Context(), config.InitOptions{Dir: filepath.Dir(result.ConfigPath)})
	if !backstay.IsCode(err, backstay.CodeExists) {
		t.Errorf("%v", err)
	}
	if after, _ := os.ReadFile(result.ConfigPath); string(after) != string(before) {
		t.Error("the configuration was changed")
	}
}

func TestTheRecoveryKeyIsKeptNowhere(t *testing.T) {
	result := newRegion(t)
	if !strings.HasPrefix(result.RecoveryKey, "AGE-SECRET-KEY-") {
		t.Fatalf("no recovery key was made")
	}
	err := filepath.WalkDir(filepath.Dir(result.ConfigPath), func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if strings.Contains(string(data), result.RecoveryKey) {
			t.Errorf("%s holds the recovery key", path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// I13: three names of one folder are not three copies.
func TestCopiesOfAVaultAreApart(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "a"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(dir, "a"), filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	for _, second := range []string{"a", "./a", "/a", "b/../a", "link", "link/new", "a/below"} {
		result, err := (&Daemon{}).Init(t.Context(), config.InitOptions{
			Dir: filepath.Join(dir, "region"), Units: []string{filepath.Join(dir, "a"), dir + "/" + second, filepath.Join(dir, "c")},
		})
		if !backstay.IsCode(err, backstay.CodeUsage) {
			t.Errorf("%s: made %+v, %v", second, result, err)
		}
		for _, made := range []string{"c", "a/.backstay-unit", "region/backstay.yaml"} {
			if _, err := os.Stat(filepath.Join(dir, made)); err == nil {
				t.Fatalf("%s: refused, and %s was made", second, made)
			}
		}
	}
}

func TestInitTakesNoClientConfigurationAway(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "client.yaml")
	if err := os.WriteFile(path, []byte("the token of another region"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := (&Daemon{}).Init(t.Context(), config.InitOptions{Dir: filepath.Join(dir, "new"), ClientConfig: path}); !backstay.IsCode(err, backstay.CodeExists) {
		t.Errorf("%v", err)
	}
	if body, _ := os.ReadFile(path); string(body) != "the token of another region" {
		t.Errorf("it is %q now", body)
	}
	if _, err := os.Stat(filepath.Join(dir, "new")); err == nil {
		t.Error("refused, and something was made")
	}
}

func TestAnInitAfterOneThatWasCutOffSaysWhatToDo(t *testing.T) {
	result := newRegion(t)
	for _, path := range []string{result.ConfigPath, result.ClientConfigPath} { // they are written last
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	_, err := (&Daemon{}).Init(t.Context(), config.InitOptions{Dir: filepath.Dir(result.ConfigPath)})
	if e := backstay.AsError(err); e.Code != backstay.CodeExists || !strings.Contains(e.Cause, "cut off") || !strings.Contains(e.Action, "remove") {
		t.Errorf("%+v", e)
	}
}
