package deploy

import (
	"fmt"
	"strings"

	"github.com/beevik/etree"
)

// masked stands where a secret was.
const masked = "masked"

// Mask takes what may be a secret out of a definition: passwords of displays,
// values that are handed to the guest, arguments and environment of QEMU. It
// returns the paths of what it took out.
func Mask(definition string) (text string, paths []string, err error) {
	doc, err := parse(definition)
	if err != nil {
		return "", nil, fmt.Errorf("read the definition: %w", err)
	}
	hide := func(e *etree.Element, key string) {
		a := e.SelectAttr(key)
		if a == nil || a.Value == "" {
			return
		}
		a.Value = masked
		paths = append(paths, e.GetPath()+"/@"+key)
	}
	for _, e := range doc.FindElements("/domain/devices//*") {
		hide(e, "passwd")
		hide(e, "password")
	}
	for _, e := range doc.FindElements("/domain/sysinfo//entry") {
		fwcfg := e.Parent().SelectAttrValue("type", "") == "fwcfg"
		if text := e.Text(); strings.TrimSpace(text) != "" && (fwcfg || e.Parent().Tag == "oemStrings") {
			e.SetText(masked)
			paths = append(paths, e.GetPath())
		}
	}
	for _, e := range doc.FindElements("/domain/commandline/*") {
		hide(e, "value")
	}
	for _, e := range doc.FindElements("//launchSecurity/*") {
		if e.Tag == "dhCert" || e.Tag == "session" {
			e.SetText(masked)
			paths = append(paths, e.GetPath())
		}
	}
	text, err = write(doc)
	return text, paths, err
}
