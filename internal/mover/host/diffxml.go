package host

import (
	"fmt"
	"slices"
	"strings"

	"github.com/beevik/etree"

	backstay "github.com/backstay/backstay"
)

// masked stands for what a difference must not show.
const masked = "***"

// longestShown cuts what an element looks like, in runes.
const longestShown = 200

// diffXML lists the fields in which two definitions differ, each by its XPath, in
// the order of the old one. Elements that come or go are shown whole, but for
// what may be a secret. Blanks between elements are no field.
func diffXML(old, fresh string) ([]backstay.Difference, error) {
	var roots [2]*etree.Element
	for i, text := range []string{old, fresh} {
		doc := etree.NewDocument()
		if err := doc.ReadFromString(text); err != nil {
			return nil, fmt.Errorf("read a definition: %w", err)
		}
		if roots[i] = doc.Root(); roots[i] == nil {
			return nil, fmt.Errorf("read a definition: it is empty")
		}
	}
	d := &xmlDiff{}
	d.element("/"+roots[0].FullTag(), roots[0], roots[1])
	return d.found, nil
}

type xmlDiff struct{ found []backstay.Difference }

func (d *xmlDiff) add(path, from, to string) {
	d.found = append(d.found, backstay.Difference{Path: path, From: from, To: to})
}

// element compares two elements that stand for the same thing.
func (d *xmlDiff) element(path string, old, fresh *etree.Element) {
	d.attributes(path, old, fresh)
	if from, to := strings.TrimSpace(old.Text()), strings.TrimSpace(fresh.Text()); from != to {
		d.add(path, shownText(old, from), shownText(fresh, to))
	}
	d.children(path, old, fresh)
}

func (d *xmlDiff) attributes(path string, old, fresh *etree.Element) {
	for _, a := range old.Attr {
		to := fresh.SelectAttr(a.FullKey())
		switch {
		case to == nil:
			d.add(path+"/@"+a.FullKey(), shownAttr(a), "")
		case to.Value != a.Value:
			d.add(path+"/@"+a.FullKey(), shownAttr(a), shownAttr(*to))
		}
	}
	for _, a := range fresh.Attr {
		if old.SelectAttr(a.FullKey()) == nil {
			d.add(path+"/@"+a.FullKey(), "", shownAttr(a))
		}
	}
}

// children compares what is inside, tag by tag.
func (d *xmlDiff) children(path string, old, fresh *etree.Element) {
	var tags []string
	for _, c := range append(old.ChildElements(), fresh.ChildElements()...) {
		if !slices.Contains(tags, c.FullTag()) {
			tags = append(tags, c.FullTag())
		}
	}
	for _, tag := range tags {
		olds, news := ofTag(old, tag), ofTag(fresh, tag)
		for _, pair := range pairs(olds, news) {
			at := path + "/" + tag + place(pair, olds, news)
			switch {
			case pair.fresh == nil:
				d.add(at, shown(pair.old), "")
			case pair.old == nil:
				d.add(at, "", shown(pair.fresh))
			default:
				d.element(at, pair.old, pair.fresh)
			}
		}
	}
}

func ofTag(parent *etree.Element, tag string) []*etree.Element {
	var all []*etree.Element
	for _, c := range parent.ChildElements() {
		if c.FullTag() == tag {
			all = append(all, c)
		}
	}
	return all
}

// elementPair is one thing in both definitions, or in one of them.
type elementPair struct{ old, fresh *etree.Element }

// pairs finds for each old element the new one that stands for it: that of the
// same name, else an equal one, else the next that is left.
func pairs(olds, news []*etree.Element) []elementPair {
	found, left := make([]elementPair, len(olds)), slices.Clone(news)
	take := func(i int, same func(*etree.Element) bool) {
		if found[i].fresh != nil {
			return
		}
		if at := slices.IndexFunc(left, same); at >= 0 {
			found[i].fresh = left[at]
			left = slices.Delete(left, at, at+1)
		}
	}
	for i, old := range olds {
		found[i].old = old
		if name := nameOf(old); name != "" {
			take(i, func(e *etree.Element) bool { return nameOf(e) == name })
		}
	}
	for i, old := range olds {
		text := serialized(old)
		take(i, func(e *etree.Element) bool { return serialized(e) == text })
	}
	for i, old := range olds {
		if nameOf(old) == "" {
			take(i, func(e *etree.Element) bool { return nameOf(e) == "" })
		}
	}
	for _, e := range left {
		found = append(found, elementPair{fresh: e})
	}
	return found
}

// nameOf is what tells an element from others of its tag: the target of a disk,
// for instance. "" for one that only its place tells.
func nameOf(e *etree.Element) string {
	if target := e.SelectElement("target"); target != nil && e.Tag == "disk" && target.SelectAttr("dev") != nil {
		return fmt.Sprintf("[target/@dev='%s']", target.SelectAttrValue("dev", ""))
	}
	switch e.Tag {
	case "entry", "feature", "timer", "boot", "model", "source", "target":
		if name := e.SelectAttr("name"); name != nil {
			return fmt.Sprintf("[@name='%s']", name.Value)
		}
	case "controller":
		return fmt.Sprintf("[@type='%s'][@index='%s']", e.SelectAttrValue("type", ""), e.SelectAttrValue("index", ""))
	}
	return ""
}

// place tells which of several elements of a tag is meant.
func place(pair elementPair, olds, news []*etree.Element) string {
	e, all := pair.old, olds
	if e == nil {
		e, all = pair.fresh, news
	}
	if name := nameOf(e); name != "" {
		return name
	}
	if max(len(olds), len(news)) < 2 {
		return ""
	}
	return fmt.Sprintf("[%d]", slices.Index(all, e)+1)
}

// shown is an element as it is written, in one line, without secrets.
func shown(e *etree.Element) string {
	c := e.Copy()
	mask(c)
	text := []rune(serialized(c))
	if len(text) > longestShown {
		text = append(text[:longestShown], '…')
	}
	return string(text)
}

// serialized is an element in one line, without the blanks between elements.
func serialized(e *etree.Element) string {
	doc := etree.NewDocument()
	doc.WriteSettings.AttrSingleQuote = true
	c := e.Copy()
	tighten(c)
	doc.SetRoot(c)
	text, err := doc.WriteToString()
	if err != nil {
		return "<" + e.FullTag() + "/>"
	}
	return text
}

func tighten(e *etree.Element) {
	for i := len(e.Child) - 1; i >= 0; i-- {
		switch c := e.Child[i].(type) {
		case *etree.CharData:
			if c.IsWhitespace() {
				e.RemoveChildAt(i)
			}
		case *etree.Comment:
			e.RemoveChildAt(i)
		case *etree.Element:
			tighten(c)
		}
	}
}

func mask(e *etree.Element) {
	for i, a := range e.Attr {
		e.Attr[i].Value = shownAttr(a)
	}
	if text := strings.TrimSpace(e.Text()); text != "" {
		if hidden := shownText(e, text); hidden != text {
			e.SetText(hidden)
		}
	}
	for _, c := range e.ChildElements() {
		mask(c)
	}
}

// shownAttr hides a password. What a definition gives to QEMU itself, or to the
// firmware, may hold anything.
func shownAttr(a etree.Attr) string {
	owner := a.Element()
	secret := slices.Contains([]string{"passwd", "password", "passwdValidTo"}, a.Key) ||
		a.Key == "value" && owner != nil && slices.Contains([]string{"qemu:arg", "qemu:env"}, owner.FullTag())
	if secret && a.Value != "" {
		return masked
	}
	return a.Value
}

// shownText hides the text of elements in which people and tools put secrets.
func shownText(e *etree.Element, text string) string {
	if text == "" {
		return ""
	}
	switch e.Tag {
	case "cookie", "session", "dhCert":
		return masked
	case "entry":
		// What is put into a guest by its firmware: credentials, in the wild. The
		// entries of the table "system" are names and numbers.
		if parent := e.Parent(); parent == nil || parent.Tag != "system" {
			return masked
		}
	}
	for p := e; p != nil; p = p.Parent() {
		if p.Tag == "metadata" || p.Tag == "oemStrings" {
			return masked
		}
	}
	return text
}
