package cli

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/spf13/cobra"
)

func TestEveryCommandHasHelpWithExamples(t *testing.T) {
	a := newApp(Env{Stdout: &bytes.Buffer{}, Stderr: &bytes.Buffer{}}, Daemons{})
	count := 0
	var visit func(c *cobra.Command)
	visit = func(c *cobra.Command) {
		count++
		if c.Short == "" || !strings.Contains(c.Example, "backstay") {
			t.Errorf("`%s` has no help or no example", c.CommandPath())
		}
		for _, child := range c.Commands() {
			visit(child)
		}
	}
	visit(a.root)
	if count < 45 {
		t.Errorf("only %d commands were seen", count)
	}
}

// Everything of the contract that this release has.
func TestTheCommandsOfTheContractAreThere(t *testing.T) {
	a := newApp(Env{}, Daemons{})
	for _, path := range []string{
		"server", "agent", "init", "doctor", "host list", "host show", "vm list", "vm show", "vault create", "vault list", "vault show", "vault usage",
		"policy create", "policy list", "policy show", "policy edit", "policy simulate", "policy delete", "protect", "unprotect", "backup", "point list", "point show", "point verify",
		"point restores", "point pin", "point unpin", "point delete", "restore create-vm", "job list", "job show", "job watch", "job cancel", "job retry", "audit list",
		"token create", "token list", "token delete", "completion bash", "completion zsh", "completion fish",
	} {
		c, rest, err := a.root.Find(strings.Fields(path))
		if err != nil || len(rest) > 0 || c.CommandPath() != "backstay "+path {
			t.Errorf("no command `%s`: %v", path, err)
		}
	}
}

func TestSizesAndTimesAreForPeople(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1<<20 - 1: "1.0 MiB", 10 << 30: "10.0 GiB", 1<<63 - 1: "8.0 EiB"} {
		if got := size(n); got != want {
			t.Errorf("%d: got %s, want %s", n, got, want)
		}
	}
	for d, want := range map[time.Duration]string{
		0: "0 s", 59 * time.Second: "59 s", 90 * time.Second: "1 min 30 s", 2 * time.Hour: "2 h", 49 * time.Hour: "2 d 1 h",
	} {
		if got := span(d); got != want {
			t.Errorf("%v: got %s, want %s", d, got, want)
		}
	}
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	a := newApp(Env{Now: func() time.Time { return now }}, Daemons{})
	if got := a.when(now.Add(-2 * time.Hour)); !strings.HasSuffix(got, "(2 h ago)") {
		t.Error(got)
	}
	if got := a.when(now.Add(48 * time.Hour)); !strings.HasSuffix(got, "(in 2 d)") {
		t.Error(got)
	}
}

func TestDurationsTakeDaysAndWeeks(t *testing.T) {
	for s, want := range map[string]time.Duration{"30d": 720 * time.Hour, "2w": 336 * time.Hour, "90m": 90 * time.Minute, "0": 0, "1.5d": 36 * time.Hour} {
		var d duration
		if err := d.Set(s); err != nil || time.Duration(d) != want {
			t.Errorf("%s: got %v, %v", s, time.Duration(d), err)
		}
	}
	for _, s := range []string{"", "d", "-1d", "-4h", "soon", "99999999999999999w", "NaNd"} {
		var d duration
		if err := d.Set(s); err == nil {
			t.Errorf("%q was taken as %v", s, time.Duration(d))
		}
	}
}

func TestWaitForIsReadOrRefused(t *testing.T) {
	for s, want := range map[string]backstay.Probe{
		"agent": {Kind: "agent"}, "none": {Kind: "none"}, "console:login:": {Kind: "console", Text: "login:"}, "port:10.0.0.1:80": {Kind: "port", Text: "10.0.0.1:80"},
	} {
		if got, err := probe(s, 0); err != nil || got != want {
			t.Errorf("%s: got %+v, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "console", "console:", "port:80", "agent:x", "moon"} {
		if _, err := probe(s, 0); !backstay.IsCode(err, backstay.CodeUsage) {
			t.Errorf("%q: %v", s, err)
		}
	}
}

// machine makes a host for doctor out of a folder.
func machine(t *testing.T) doctor {
	t.Helper()
	root, err := os.MkdirTemp("", "d") // short: a socket's path is limited
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(root) })
	for name, content := range map[string]string{
		"/dev/kvm": "", "/usr/share/OVMF/OVMF_CODE_4M.fd": "", appArmorEnabled: "Y\n", appArmorTemplate: "",
		appArmorProfiles: "/usr/bin/man (enforce)\nlibvirtd (enforce)\nlibvirtd//qemu_bridge_helper (enforce)\n", appArmorLocal: "# ours\n" + socketRule + "\n",
	} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(root+name), 0o755), os.WriteFile(root+name, []byte(content), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(root+"/run/libvirt", 0o755); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", root+"/run/libvirt/libvirt-sock")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return doctor{
		root: root, data: "/var/lib/backstay",
		command: func(_ context.Context, name string, _ ...string) (string, error) {
			return name + " version 7.2.22", nil
		},
		server: func(context.Context) error { return nil },
		regions: func(context.Context) ([]backstay.Region, error) {
			return []backstay.Region{{Name: "east", State: "connected", Recipient: "age1x"}}, nil
		},
		boot: func(context.Context) (string, error) { return "starts in 2.1 s", nil },
	}
}

func states(r report) map[string]finding {
	out := map[string]finding{}
	for _, f := range r.Findings {
		out[f.Name] = f
	}
	return out
}

func TestDoctorSaysWhatIsMissingAndWhatToDo(t *testing.T) {
	d := machine(t)
	if r := d.examine(t.Context()); !r.OK {
		t.Errorf("a complete host: %+v", r.Findings)
	}
	d.command = func(_ context.Context, name string, _ ...string) (string, error) {
		return "", errors.New(name + ": not found")
	}
	d.server = func(context.Context) error {
		return backstay.Errorf(backstay.CodeServerAway, "the server does not answer")
	}
	d.boot = func(context.Context) (string, error) {
		return "", backstay.Errorf(backstay.CodeMachineFailed, "its parts are not on this host")
	}
	d.regions = func(context.Context) ([]backstay.Region, error) {
		return []backstay.Region{{Name: "east", State: "unreachable", Reason: "no route"}, {Name: "north", State: "connected"}}, nil
	}
	for _, gone := range []string{"/dev/kvm", "/run/libvirt/libvirt-sock", "/usr/share/OVMF/OVMF_CODE_4M.fd", appArmorTemplate} {
		if err := os.Remove(d.root + gone); err != nil {
			t.Fatal(err)
		}
	}
	r := d.examine(t.Context())
	got := states(r)
	for name, want := range map[string]string{
		"libvirt": "fail", "qemu-img": "fail", "qemu-nbd": "fail", "swtpm": "warn", "kvm": "warn", "uefi firmware": "warn", "apparmor": "warn", "server": "warn", "small machine": "warn",
		"region east": "warn", "region north": "warn",
	} {
		if f := got[name]; f.State != want || f.Action == "" || f.Detail == "" {
			t.Errorf("%s: %+v, want %s", name, f, want)
		}
	}
	if r.OK {
		t.Error("a host without libvirt is called ready")
	}
}

// TestDoctorSaysWhatAConfinedQEMULacks: only where VMs are confined, and only what
// is not allowed already.
func TestDoctorSaysWhatAConfinedQEMULacks(t *testing.T) {
	for name, c := range map[string]struct {
		files map[string]string
		state string
		says  string
	}{
		"no AppArmor":              {map[string]string{appArmorEnabled: "N\n", appArmorLocal: ""}, "ok", "not in use"},
		"libvirt does not use it":  {map[string]string{qemuConf: "user = \"root\"\nsecurity_driver = \"none\"\n", appArmorLocal: ""}, "ok", "security_driver is none"},
		"a comment is no setting":  {map[string]string{qemuConf: "# security_driver = \"none\"\n", appArmorLocal: ""}, "warn", socketRule},
		"no profile of libvirt":    {map[string]string{appArmorProfiles: "/usr/bin/man (enforce)\n", appArmorLocal: ""}, "ok", "no profile"},
		"complain":                 {map[string]string{appArmorProfiles: "libvirtd (complain)\n", appArmorLocal: ""}, "ok", "complain"},
		"nothing is allowed":       {map[string]string{appArmorLocal: ""}, "warn", socketRule},
		"a comment is no rule":     {map[string]string{appArmorLocal: "# " + socketRule + "\n"}, "warn", socketRule},
		"reading is not enough":    {map[string]string{appArmorLocal: "/run/backstay/** r,\n"}, "warn", socketRule},
		"the kernel does not tell": {map[string]string{appArmorProfiles: "", appArmorLocal: ""}, "warn", socketRule},
		"the rule":                 {map[string]string{appArmorLocal: "  " + socketRule + "\n"}, "ok", "backstay's sockets"},
		"a wider rule":             {map[string]string{appArmorLocal: "/run/** rwk,\n"}, "ok", "backstay's sockets"},
	} {
		t.Run(name, func(t *testing.T) {
			d := machine(t)
			for path, content := range c.files {
				if err := errors.Join(os.MkdirAll(filepath.Dir(d.root+path), 0o755), os.WriteFile(d.root+path, []byte(content), 0o644)); err != nil {
					t.Fatal(err)
				}
			}
			f := d.appArmor()
			if f.State != c.state || !strings.Contains(f.Detail+f.Action, c.says) || (f.Action == "") != (c.state == "ok") {
				t.Errorf("%+v, want %s with %q", f, c.state, c.says)
			}
		})
	}
}

func TestPlainProgressIsOneLineAStepAndOneATenth(t *testing.T) {
	var out bytes.Buffer
	l := &lines{a: newApp(Env{Stderr: &out}, Daemons{})}
	show := func(percent float64, states ...backstay.TaskState) {
		job := backstay.Job{Kind: backstay.JobBackup, Target: "local/web01", State: backstay.JobRunning, Percent: percent}
		for i, state := range states {
			job.Tasks = append(job.Tasks, backstay.Task{Name: []string{"plan", "transfer"}[i], State: state})
		}
		l.show(job)
	}
	show(0, backstay.TaskPending, backstay.TaskPending) // between two steps
	show(0, backstay.TaskRunning, backstay.TaskPending)
	show(0, backstay.TaskRunning, backstay.TaskPending)
	show(10, backstay.TaskSucceeded, backstay.TaskPending)
	show(10, backstay.TaskSucceeded, backstay.TaskRunning)
	show(14, backstay.TaskSucceeded, backstay.TaskRunning)
	show(32, backstay.TaskSucceeded, backstay.TaskRunning)
	const want = "backup local/web01: plan 0 %\nbackup local/web01: transfer 10 %\nbackup local/web01: transfer 32 %\n"
	if out.String() != want {
		t.Errorf("got\n%swant\n%s", out.String(), want)
	}
}

func TestAMisusedCommandPointsToItsOwnHelp(t *testing.T) {
	for _, args := range [][]string{{"protect", "web01"}, {"restore", "create-vm", "p"}, {"vault", "create"}, {"backup"}} {
		var out bytes.Buffer
		if code := Main(t.Context(), args, Env{Stdout: &out, Stderr: &out}, Daemons{}); code != 2 || !strings.Contains(out.String(), "action: see `backstay "+args[0]) {
			t.Errorf("%v: exit %d, %s", args, code, out.String())
		}
	}
}

func TestEveryCommandHasAManPage(t *testing.T) {
	dir := t.TempDir()
	var out bytes.Buffer
	if code := Main(t.Context(), []string{"man", dir}, Env{Stdout: &out, Stderr: &out}, Daemons{}); code != 0 {
		t.Fatalf("exit %d: %s", code, out.String())
	}
	page, err := os.ReadFile(filepath.Join(dir, "backstay-restore-create-vm.1"))
	for _, want := range []string{".SH EXAMPLES", `\-\-no\-start`, `\fBbackstay\-restore\fR(1)`} {
		if err != nil || !strings.Contains(string(page), want) {
			t.Errorf("%v, no %q in\n%s", err, want, page)
		}
	}
	a := newApp(Env{}, Daemons{})
	var visit func(c *cobra.Command)
	visit = func(c *cobra.Command) {
		if c.Hidden { // for backstay itself
			return
		}
		if _, err := os.Stat(filepath.Join(dir, strings.ReplaceAll(c.CommandPath(), " ", "-")+".1")); err != nil {
			t.Error(err)
		}
		for _, child := range c.Commands() {
			visit(child)
		}
	}
	visit(a.root)
}

func TestTheWordsOfAFlagAreCompleted(t *testing.T) {
	for flag, want := range map[string]string{"--tier": "snapshot\nvault\n", "--consistency": "application\nfile-system\ncrash\n", "--output": "table\njson\nyaml\n"} {
		var out, ignored bytes.Buffer
		Main(t.Context(), []string{"__complete", "backup", "web01", flag, ""}, Env{Stdout: &out, Stderr: &ignored}, Daemons{})
		if !strings.HasPrefix(out.String(), want) {
			t.Errorf("%s: %q", flag, out.String())
		}
	}
}

// A file with a passphrase means the same when a vault is made and when it is
// recovered: whatever follows the first line is no part of it.
func TestAPassphraseFileMeansTheSameToRecoverAsToTheServer(t *testing.T) {
	a := newApp(Env{}, Daemons{})
	path := filepath.Join(t.TempDir(), "words")
	for _, text := range []string{"six random words", "six random words\n", "six random words\r\n", "six random words\n# of May\n", "six random words\n\n"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		made, err := a.readPassphrase(path)
		if err != nil || made != "six random words" {
			t.Errorf("%q: %q, %v", text, made, err)
		}
		recovered, err := (&recovery{a: a, passphraseFile: path}).passphrase("the vault")
		if err != nil || string(recovered.Reveal()) != made {
			t.Errorf("%q is another passphrase to recover", text)
		}
	}
}

func TestAListOfVaultsDoesNotHideDamage(t *testing.T) {
	v := backstay.Vault{Note: "1 of 3 copies cannot be reached", Units: []backstay.StorageUnit{{}, {Copy: &backstay.CopyHealth{}}, {Copy: &backstay.CopyHealth{}}}}
	if got := vaultNote(v); got != v.Note {
		t.Errorf("sound: %q", got)
	}
	v.Units[1].Copy.Damaged, v.Units[2].Copy.Missing = 2, 1
	if got := vaultNote(v); !strings.HasPrefix(got, "3 copies of objects are damaged or missing; 1 of 3") {
		t.Errorf("damaged: %q", got)
	}
	v.Note = ""
	if got := vaultNote(v); got != "3 copies of objects are damaged or missing" {
		t.Errorf("damaged: %q", got)
	}
}

func TestWhatTheGuestMountsBelowAFolderIsNamed(t *testing.T) {
	session := backstay.FileSession{Volumes: []backstay.Volume{
		{ID: "vda2", MountPoint: "/"}, {ID: "vg0/home", MountPoint: "/home"}, {ID: "vg0/log", MountPoint: "/var/log"}, {ID: "vdb"}, {ID: "vdc", MountPoint: "/varnish"},
	}}
	for folder, want := range map[backstay.FileLocation]string{
		{Volume: "vda2", Path: "/"}:        "vg0/home vg0/log vdc",
		{Volume: "vda2", Path: "/var"}:     "vg0/log",
		{Volume: "vda2", Path: "/etc"}:     "",
		{Volume: "vg0/home", Path: "/"}:    "",
		{Volume: "vg0/home", Path: "/ann"}: "",
		{Volume: "vdb", Path: "/"}:         "",
		{Volume: "vdb", Path: "/var"}:      "",
	} {
		var got []string
		for _, v := range mountedBelow(session, folder) {
			got = append(got, string(v.ID))
		}
		if strings.Join(got, " ") != want {
			t.Errorf("in %s: %q, want %q", folder, got, want)
		}
	}
}
