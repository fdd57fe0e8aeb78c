package deploy_test

import (
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/beevik/etree"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/deploy"
)

var update = flag.Bool("update", false, "write the golden files anew")

// definitions are those that the tests of a new VM's definition have too, as
// libvirt gave them, and one that has everything that a parameter is about.
func definitions(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, pattern := range []string{"../mover/host/testdata/define/*.xml", "testdata/*.domain.xml"} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Fatal(pattern, err)
		}
		for _, f := range files {
			data, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			all[strings.TrimSuffix(strings.TrimSuffix(filepath.Base(f), ".xml"), ".domain")] = string(data)
		}
	}
	return all
}

func template(t *testing.T, definition string) deploy.Template {
	t.Helper()
	tpl, err := deploy.New(definition, disksOf(t, definition))
	if err != nil {
		t.Fatal(err)
	}
	return tpl
}

func disksOf(t *testing.T, definition string) (disks []deploy.Disk) {
	t.Helper()
	doc := etree.NewDocument()
	if err := doc.ReadFromString(definition); err != nil {
		t.Fatal(err)
	}
	for _, e := range doc.FindElements("/domain/devices/disk/target") {
		disks = append(disks, deploy.Disk{Target: backstay.DiskTarget(e.SelectAttrValue("dev", ""))})
	}
	return disks
}

// render chooses values and renders.
func render(t *testing.T, tpl deploy.Template, set map[string]string) string {
	t.Helper()
	_, values, err := deploy.Choose(tpl.Parameters, set)
	if err != nil {
		t.Fatal(err)
	}
	text, err := deploy.Render(tpl.XML, values)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// canonical writes a definition so that two of the same meaning are the same
// text: no blanks, sorted attributes.
func canonical(t *testing.T, definition string) string {
	t.Helper()
	doc := etree.NewDocument()
	if err := doc.ReadFromString(definition); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	var walk func(e *etree.Element, depth int)
	walk = func(e *etree.Element, depth int) {
		out.WriteString(strings.Repeat(" ", depth) + e.FullTag())
		slices.SortFunc(e.Attr, func(a, b etree.Attr) int { return strings.Compare(a.FullKey(), b.FullKey()) })
		for _, a := range e.Attr {
			out.WriteString(" " + a.FullKey() + "=" + a.Value)
		}
		if text := strings.TrimSpace(e.Text()); text != "" {
			out.WriteString(" | " + text)
		}
		out.WriteString("\n")
		for _, c := range e.ChildElements() {
			walk(c, depth+1)
		}
	}
	walk(doc.Root(), 0)
	return out.String()
}

// TestATemplateWithItsDefaultsIsTheDefinition: whoever changes nothing deploys
// exactly what the restore would have defined.
func TestATemplateWithItsDefaultsIsTheDefinition(t *testing.T) {
	for name, definition := range definitions(t) {
		got, want := canonical(t, render(t, template(t, definition), nil)), canonical(t, definition)
		if got != want {
			t.Errorf("%s: the template's defaults give another definition; want\n%s\ngot\n%s", name, want, got)
		}
	}
}

func TestTheFilesBesideRestoredDisks(t *testing.T) {
	for name, definition := range definitions(t) {
		t.Run(name, func(t *testing.T) {
			tpl := template(t, definition)
			parameters, err := deploy.EncodeParameters(tpl.Parameters)
			if err != nil {
				t.Fatal(err)
			}
			files, err := deploy.Tofu(tpl)
			if err != nil {
				t.Fatal(err)
			}
			files["template.xml"], files["parameters.json"] = []byte(tpl.XML), parameters
			for file, data := range files {
				golden(t, filepath.Join("testdata", name, file), data)
			}
			again, err := deploy.DecodeParameters(parameters)
			if err != nil {
				t.Fatal(err)
			}
			if got := canonical(t, render(t, deploy.Template{XML: tpl.XML, Parameters: again}, nil)); got != canonical(t, definition) {
				t.Error("the parameters were not read as they were written")
			}
		})
	}
}

func golden(t *testing.T, path string, got []byte) {
	t.Helper()
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(want) {
		t.Errorf("%s is not as the golden file has it; got:\n%s", path, got)
	}
}

// TestAnInvalidValueIsRefusedByItsName: one by one, with the name of the
// parameter in the words of the refusal.
func TestAnInvalidValueIsRefusedByItsName(t *testing.T) {
	tpl := template(t, definitions(t)["everything"])
	for _, c := range []struct{ name, value string }{
		{"name", ""}, {"name", "a/b"}, {"name", ".hidden"}, {"name", "two\nlines"}, {"name", strings.Repeat("x", 201)},
		{"uuid", "none"}, {"uuid", "5d3f6a60"},
		{"title", "two\nlines"}, {"description", "bell\a"},
		{"memory", "much"}, {"memory", "1MiB"}, {"memory", "17TiB"}, {"memory", "-1"}, {"memory", "100000001"}, {"memory", "9999999999999TiB"},
		{"currentMemory", "1KiB"},
		{"vcpus", "0"}, {"vcpus", "1.5"}, {"vcpus", "many"}, {"vcpus", "5000"}, {"vcpusOnline", "0"},
		{"cpuMode", "fastest"}, {"cpuModel", "a b"}, {"machine", "pc q35"},
		{"loader", "OVMF.fd"}, {"nvram", "/a/../b"}, {"emulator", "qemu"},
		{"disk.vda.path", "disk.qcow2"}, {"disk.vda.format", "vmdk"}, {"disk.vda.bus", "floppy"}, {"disk.vdb.path", "dev/x"},
		{"nic.0.network", ""}, {"nic.0.mac", "52:54:00"}, {"nic.0.mac", "01:00:5e:00:00:01"}, {"nic.0.model", ""}, {"nic.0.link", "maybe"},
		{"hugepages", "yes"}, {"cpuPinning", "0"}, {"cpuPinning", "0=a"}, {"cpuPinning", "0=1;0=2"}, {"cpuPinning", "0=3-2"},
		{"numaNodeset", "first"}, {"antiAffinityGroup", "a b"}, {"hostGroup", "a,,b"}, {"hostGroup", "a/b"},
		{"start", "1"}, {"autostart", ""}, {"nothing.like.that", "x"},
	} {
		_, _, err := deploy.Choose(tpl.Parameters, map[string]string{c.name: c.value})
		if !backstay.IsCode(err, backstay.CodeUsage) || !strings.Contains(err.Error(), c.name) {
			t.Errorf("%s=%q: got %v", c.name, c.value, err)
		}
	}
}

// TestEveryParameterHasAValueThatIsRefused: a parameter that takes everything is
// one that nobody checks. Text may be anything that can be printed.
func TestEveryParameterHasAValueThatIsRefused(t *testing.T) {
	for name, definition := range definitions(t) {
		for _, p := range template(t, definition).Parameters {
			_, _, err := deploy.Choose([]backstay.Parameter{p}, map[string]string{p.Name: "\x01"})
			if err == nil {
				t.Errorf("%s: the parameter %s takes a control character", name, p.Name)
			}
			if p.Description == "" {
				t.Errorf("%s: the parameter %s is not described", name, p.Name)
			}
		}
	}
}

// TestAnEditIsInTheDefinitionAndNothingElseIs: each value that is set changes
// what it is about.
func TestAnEditIsInTheDefinitionAndNothingElseIs(t *testing.T) {
	tpl := template(t, definitions(t)["everything"])
	before := canonical(t, render(t, tpl, nil))
	for _, c := range []struct{ name, value, want string }{
		{"name", "web & <son>", "name | web & <son>"},
		{"uuid", "AAAAAAAA-0000-4000-8000-000000000001", "uuid | aaaaaaaa-0000-4000-8000-000000000001"},
		{"title", "A line", "title | A line"},
		{"description", "", ""},
		{"memory", "3GiB", "memory unit=KiB | 3145728"},
		{"memory", "1073741824", "memory unit=KiB | 1048576"},
		{"currentMemory", "1GiB", "currentMemory unit=KiB | 1048576"},
		{"vcpus", "2", "vcpu current=2 placement=static | 2"},
		{"cpuMode", "host-model", "mode=host-model"},
		{"cpuModel", "Nehalem", "model fallback=allow | Nehalem"},
		{"machine", "pc-q35-9.2", "machine=pc-q35-9.2"},
		{"loader", "/usr/share/other.fd", "| /usr/share/other.fd"},
		{"nvram", "/srv/vars.fd", "| /srv/vars.fd"},
		{"emulator", "/opt/qemu", "emulator | /opt/qemu"},
		{"disk.vda.path", "/srv/${x}.qcow2", "source file=/srv/${x}.qcow2"},
		{"disk.vda.format", "raw", "type=raw"},
		{"disk.vda.bus", "sata", "bus=sata dev=vda"},
		{"disk.vdb.path", "/dev/other", "source dev=/dev/other"},
		{"nic.0.network", "lab", "source network=lab"},
		{"nic.0.mac", "52-54-00-AA-BB-CC", "mac address=52:54:00:aa:bb:cc"},
		{"nic.0.model", "e1000e", "model type=e1000e"},
		{"nic.0.link", "down", "link state=down"},
		{"nic.1.link", "up", "link state=up"},
		{"hugepages", "false", ""},
		{"cpuPinning", "0=4;3=5-6", "vcpupin cpuset=5-6 vcpu=3"},
		{"numaNodeset", "1", "memory mode=strict nodeset=1"},
		{"antiAffinityGroup", "web", "antiAffinityGroup=web"},
		{"hostGroup", "east,west", "hostGroup=east,west"},
	} {
		after := canonical(t, render(t, tpl, map[string]string{c.name: c.value}))
		if !strings.Contains(after, c.want) || after == before {
			t.Errorf("%s=%s: %q is not in the definition:\n%s", c.name, c.value, c.want, after)
		}
	}
	for _, gone := range []struct{ name, value, element string }{
		{"description", "", "description |"}, {"hugepages", "false", "hugepages"}, {"cpuPinning", "", "vcpupin"},
		{"numaNodeset", "", "numatune"}, {"vcpus", "8", "topology"}, {"cpuMode", "host-passthrough", "model fallback"},
		{"disk.vda.bus", "scsi", "bus=0x04"},
	} {
		if !strings.Contains(before, gone.element) {
			t.Fatalf("the definition of the test has no %s", gone.element)
		}
		if after := canonical(t, render(t, tpl, map[string]string{gone.name: gone.value})); strings.Contains(after, gone.element) {
			t.Errorf("%s=%s: %s is still there:\n%s", gone.name, gone.value, gone.element, after)
		}
	}
}

// TestPlacementIsReadBack: what a deploy writes is what a later one is held to.
func TestPlacementIsReadBack(t *testing.T) {
	tpl := template(t, definitions(t)["bios"])
	text := render(t, tpl, map[string]string{"antiAffinityGroup": "web", "hostGroup": "east,west"})
	group, hosts := deploy.Placement(text)
	if group != "web" || !slices.Equal(hosts, []backstay.HostName{"east", "west"}) {
		t.Errorf("got %q and %v from\n%s", group, hosts, text)
	}
	again := template(t, text)
	if got := canonical(t, render(t, again, nil)); got != canonical(t, text) {
		t.Errorf("the second template's defaults are not what the first one was given:\n%s", got)
	}
}

// TestNoSecretIsInWhatIsShown: the captured definition is for eyes.
func TestNoSecretIsInWhatIsShown(t *testing.T) {
	secret := regexp.MustCompile(`hunter[0-9]`)
	text, paths, err := deploy.Mask(definitions(t)["everything"])
	if err != nil {
		t.Fatal(err)
	}
	if found := secret.FindString(text); found != "" {
		t.Errorf("%s is still there:\n%s", found, text)
	}
	if n := len(secret.FindAllString(definitions(t)["everything"], -1)); len(paths) < n || n < 4 {
		t.Errorf("%d secrets, masked were %v", n, paths)
	}
	for _, p := range template(t, definitions(t)["everything"]).Parameters {
		if v, ok := p.Value.(string); ok && secret.MatchString(v) {
			t.Errorf("the parameter %s holds a secret", p.Name)
		}
	}
}

// TestTheDocsListEveryParameter: the table of docs/deploy.md is the parameters that
// there are, with their types, and no others.
func TestTheDocsListEveryParameter(t *testing.T) {
	page, err := os.ReadFile("../../docs/deploy.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string]string{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([A-Za-z.]+)` \\| ([a-z]+) \\| .+ \\|$").FindAllStringSubmatch(string(page), -1) {
		rows[m[1]] = m[2]
	}
	disk, nic := regexp.MustCompile(`^disk\.[^.]+\.`), regexp.MustCompile(`^nic\.[0-9]+\.`)
	seen := map[string]bool{}
	for name, definition := range definitions(t) {
		for _, p := range template(t, definition).Parameters {
			general := nic.ReplaceAllString(disk.ReplaceAllString(p.Name, "disk.TARGET."), "nic.N.")
			seen[general] = true
			if rows[general] != string(p.Type) {
				t.Errorf("%s: the parameter %s of type %s is documented as %q", name, general, p.Type, rows[general])
			}
		}
	}
	for name := range rows {
		if !seen[name] {
			t.Errorf("there is no parameter %s", name)
		}
	}
}
