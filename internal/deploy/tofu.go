package deploy

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	backstay "github.com/backstay/backstay"
)

// TofuProvider is the version of the provider dmacvicar/libvirt that the files
// are written for. From 0.9 on its resources are other ones.
const TofuProvider = "0.8.3"

// Tofu has the files for OpenTofu or Terraform, by name. The whole definition
// goes through the provider as it is: as a style sheet that puts it in the place
// of the provider's own.
func Tofu(t Template) (map[string][]byte, error) {
	doc, err := parse(t.XML)
	if err != nil {
		return nil, fmt.Errorf("read the template: %w", err)
	}
	_, values, err := Choose(t.Parameters, nil)
	if err != nil {
		return nil, err
	}
	used := map[string]bool{"name": true, "memory": true, "vcpus": true, "start": true, "autostart": true}
	r := renderer{values: values, show: func(text string, attribute bool) string { return tofuText(text, attribute, used) }}
	r.element(doc.Root())
	if r.err != nil {
		return nil, fmt.Errorf("read the template: %w", r.err)
	}
	doc.Root().RemoveAttr("xmlns:" + markup)
	body, err := write(doc)
	if err != nil {
		return nil, err
	}
	var variables []backstay.Parameter
	for _, p := range t.Parameters {
		if used[p.Name] {
			variables = append(variables, p)
		}
	}
	return map[string][]byte{
		"domain.xslt.tftpl": []byte(styleSheet(body)),
		"variables.tf":      []byte(tofuVariables(variables)),
		"main.tf":           []byte(tofuMain(variables)),
	}, nil
}

func styleSheet(body string) string {
	if _, rest, declared := strings.Cut(body, "?>"); declared {
		body = rest
	}
	return "<?xml version=\"1.0\"?>\n<xsl:stylesheet version=\"1.0\" xmlns:xsl=\"http://www.w3.org/1999/XSL/Transform\">\n" +
		"<xsl:output omit-xml-declaration=\"yes\"/>\n<xsl:template match=\"/\">\n" + body + "</xsl:template>\n</xsl:stylesheet>\n"
}

// tofuText writes text of a template in the language of templates of OpenTofu,
// within an XSLT style sheet. It notes which parameters are used.
func tofuText(text string, attribute bool, used map[string]bool) string {
	var out strings.Builder
	literal := func(s string) {
		if attribute { // there braces are for expressions
			s = strings.NewReplacer("{", "{{", "}", "}}").Replace(s)
		}
		out.WriteString(strings.NewReplacer("${", "$${", "%{", "%%{").Replace(s))
	}
	raw, at := "", 0
	for _, m := range placeholder.FindAllStringSubmatchIndex(text, -1) {
		raw += text[at:m[0]]
		at = m[1]
		if m[2] < 0 {
			raw += "${"
			continue
		}
		literal(raw)
		raw = ""
		name := text[m[2]:m[3]]
		used[name] = true
		if attribute {
			out.WriteString("${attr." + tofuName(name) + "}")
		} else {
			out.WriteString("${text." + tofuName(name) + "}")
		}
	}
	literal(raw + text[at:])
	return out.String()
}

func tofuName(name string) string {
	return regexp.MustCompile(`[^A-Za-z0-9_]`).ReplaceAllString(name, "_")
}

// hcl writes a text as a literal.
func hcl(text string) string {
	quoted := strconv.Quote(text)
	return strings.NewReplacer("${", "$${", "%{", "%%{", `\x`, `\\x`).Replace(quoted)
}

func tofuMain(variables []backstay.Parameter) string {
	var values strings.Builder
	for _, p := range variables {
		if p.Name != "start" && p.Name != "autostart" {
			fmt.Fprintf(&values, "    %s = var.%s\n", tofuName(p.Name), tofuName(p.Name))
		}
	}
	return `# A VM of restored disks, for OpenTofu or Terraform with the provider
# dmacvicar/libvirt ` + TofuProvider + `. The values are in variables.tf; see README.txt.
terraform {
  required_providers {
    libvirt = {
      source  = "dmacvicar/libvirt"
      version = "` + TofuProvider + `"
    }
  }
}

provider "libvirt" {
  uri = var.libvirt_uri
}

locals {
  values = {
` + values.String() + `  }
  # They become text of an XML document; in attributes of a style sheet a brace is
  # written twice.
  text = { for k, v in local.values :
    k => replace(replace(replace(replace(tostring(v), "&", "&amp;"), "<", "&lt;"), "'", "&apos;"), "\"", "&quot;")
  }
  attr = { for k, v in local.text : k => replace(replace(v, "{", "{{"), "}", "}}") }
}

resource "libvirt_domain" "vm" {
  name      = var.name
  memory    = floor(var.memory / 1024)
  vcpu      = var.vcpus
  running   = var.start
  autostart = var.autostart

  # The whole definition; what stands above is how the provider knows the VM.
  xml {
    xslt = templatefile("${path.module}/domain.xslt.tftpl", { text = local.text, attr = local.attr })
  }

  # What the provider reads back of the definition is not to be undone.
  lifecycle {
    ignore_changes = [
      arch, boot_device, cloudinit, console, coreos_ignition, cpu, description, disk, emulator, filesystem, firmware,
      fw_cfg_name, graphics, machine, metadata, network_interface, nvram, qemu_agent, tpm, type, video,
    ]
  }
}

output "id" {
  value = libvirt_domain.vm.id
}
`
}

func tofuVariables(variables []backstay.Parameter) string {
	var b strings.Builder
	b.WriteString("variable \"libvirt_uri\" {\n  description = \"the host that has the disks\"\n  type        = string\n  default     = \"qemu:///system\"\n}\n")
	for _, p := range variables {
		tofuVariable(&b, p)
	}
	return b.String()
}

func tofuVariable(b *strings.Builder, p backstay.Parameter) {
	name, kind, what := tofuName(p.Name), "string", p.Description
	text, _ := plain(p.Default)
	value := hcl(text)
	conditions := map[string]string{}
	switch p.Type {
	case backstay.TypeInteger:
		kind, value = "number", text
	case backstay.TypeBoolean:
		kind, value = "bool", text
	case backstay.TypeSize:
		kind, value, what = "number", kib(text), what+", in KiB"
	}
	scale := int64(1)
	if p.Type == backstay.TypeSize {
		scale = 1024
	}
	if p.Min != nil {
		conditions["is too small"] = fmt.Sprintf("var.%s >= %d", name, *p.Min/scale)
	}
	if p.Max != nil {
		conditions["is too large"] = fmt.Sprintf("var.%s <= %d", name, *p.Max/scale)
	}
	if p.Pattern != "" {
		conditions["is not of its form"] = fmt.Sprintf(`can(regex(%s, var.%s))`, hcl("^(?:"+p.Pattern+")$"), name)
	}
	if len(p.Allowed) > 0 {
		conditions["is not among the allowed ones"] = fmt.Sprintf("contains([%s], var.%s)", allowedHCL(p), name)
	}
	fmt.Fprintf(b, "\nvariable \"%s\" {\n  description = %s\n  type        = %s\n  default     = %s\n", name, hcl(what), kind, value)
	for _, message := range slices.Sorted(maps.Keys(conditions)) {
		fmt.Fprintf(b, "\n  validation {\n    condition     = %s\n    error_message = \"The value of %s %s.\"\n  }\n", conditions[message], name, message)
	}
	b.WriteString("}\n")
}

func allowedHCL(p backstay.Parameter) string {
	var all []string
	for _, a := range p.Allowed {
		switch p.Type {
		case backstay.TypeInteger:
			all = append(all, a)
		case backstay.TypeSize:
			all = append(all, kib(a))
		default:
			all = append(all, hcl(a))
		}
	}
	return strings.Join(all, ", ")
}
