package deploy

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/beevik/etree"
)

// The template's own attributes: an element with "if" stays only if its
// condition holds, one with "each" is there once for each pin.
const (
	markup      = "backstay"
	markupSpace = "https://github.com/backstay/backstay/template/1"
	ifKey       = "if"
	eachKey     = "each"
)

// placeholder is a parameter's place in a template; $${ stands for ${ itself.
var placeholder = regexp.MustCompile(`\$\$\{|\$\{([A-Za-z0-9.]+)\}`)

// Render makes a definition of a template and the values of all its parameters,
// as Choose returns them.
func Render(template string, values map[string]string) (string, error) {
	doc, err := parse(template)
	if err != nil {
		return "", fmt.Errorf("read the template: %w", err)
	}
	r := renderer{values: values}
	r.element(doc.Root())
	if r.err != nil {
		return "", fmt.Errorf("read the template: %w", r.err)
	}
	doc.Root().RemoveAttr("xmlns:" + markup)
	for _, c := range doc.Child {
		if comment, ok := c.(*etree.Comment); ok {
			doc.RemoveChild(comment)
		}
	}
	return write(doc)
}

func parse(text string) (*etree.Document, error) {
	doc := etree.NewDocument()
	doc.ReadSettings.PreserveCData = true
	doc.WriteSettings.AttrSingleQuote = true // as libvirt writes it
	if err := doc.ReadFromString(text); err != nil {
		return nil, err
	}
	if doc.Root() == nil || doc.Root().Tag != "domain" {
		return nil, fmt.Errorf("it is not the definition of a VM")
	}
	return doc, nil
}

func write(doc *etree.Document) (string, error) {
	text, err := doc.WriteToString()
	if err != nil {
		return "", fmt.Errorf("write the definition: %w", err)
	}
	return strings.TrimSpace(text) + "\n", nil
}

// renderer fills in one template.
type renderer struct {
	values map[string]string
	// show, if set, writes a text in another language than XML: literal text and
	// the names of parameters.
	show func(text string, attribute bool) string
	err  error // the first one
}

func (r *renderer) element(e *etree.Element) {
	for i := range e.Attr {
		if e.Attr[i].Space == markup {
			continue
		}
		e.Attr[i].Value = r.fill(e.Attr[i].Value, true)
	}
	for _, c := range e.Child {
		if text, ok := c.(*etree.CharData); ok && !text.IsWhitespace() {
			text.Data = r.fill(text.Data, false)
		}
	}
	for _, c := range e.ChildElements() {
		if condition := take(c, ifKey); condition != "" {
			if !r.holds(condition) {
				remove(e, c)
				continue
			}
		}
		if each := take(c, eachKey); each != "" {
			r.each(e, c, each)
			continue
		}
		r.element(c)
	}
}

// take takes one of the template's own attributes off an element.
func take(e *etree.Element, key string) string {
	value := e.SelectAttrValue(markup+":"+key, "")
	e.RemoveAttr(markup + ":" + key)
	return value
}

// each puts one copy of the element for each pin in its place.
func (r *renderer) each(parent, c *etree.Element, name string) {
	all, err := pins(r.value(name))
	if err != nil && r.err == nil {
		r.err = err
	}
	before := c
	for _, p := range all {
		fresh := c.Copy()
		inner := renderer{values: map[string]string{"vcpu": p.VCPU, "cpus": p.CPUs}}
		inner.element(fresh)
		if inner.err != nil && r.err == nil {
			r.err = inner.err
		}
		insertAfter(parent, before, fresh)
		before = fresh
	}
	remove(parent, c)
}

// holds evaluates a condition: NAME (it has a value, and is not false),
// NAME=VALUE, or several of them with | between.
func (r *renderer) holds(condition string) bool {
	for _, one := range strings.Split(condition, "|") {
		name, want, compared := strings.Cut(one, "=")
		value := r.value(name)
		if compared && value == want || !compared && value != "" && value != "false" {
			return true
		}
	}
	return false
}

func (r *renderer) value(name string) string {
	v, ok := r.values[name]
	if !ok && r.err == nil {
		r.err = fmt.Errorf("it names a parameter %q that there is none of", name)
	}
	if name == "memory" || name == "currentMemory" {
		return kib(v)
	}
	return v
}

func (r *renderer) fill(text string, attribute bool) string {
	if r.show != nil {
		return r.show(text, attribute)
	}
	return placeholder.ReplaceAllStringFunc(text, func(found string) string {
		if found == "$${" {
			return "${"
		}
		return r.value(strings.TrimSuffix(strings.TrimPrefix(found, "${"), "}"))
	})
}

// escape lets a text of the definition stand in a template as it is.
func escape(text string) string { return strings.ReplaceAll(text, "${", "$${") }

// remove removes a child with the blanks before it.
func remove(parent, gone *etree.Element) {
	at := gone.Index()
	parent.RemoveChildAt(at)
	if at > 0 {
		if blank, ok := parent.Child[at-1].(*etree.CharData); ok && blank.IsWhitespace() {
			parent.RemoveChildAt(at - 1)
		}
	}
	if len(parent.ChildElements()) == 0 && strings.TrimSpace(parent.Text()) == "" {
		for len(parent.Child) > 0 {
			parent.RemoveChildAt(0)
		}
	}
}

// insertAfter adds a child behind another with the same blanks before it; at the
// start if there is no other.
func insertAfter(parent, after, fresh *etree.Element) {
	at := 0
	if after != nil {
		at = after.Index() + 1
		if before := after.Index() - 1; before >= 0 {
			if blank, ok := parent.Child[before].(*etree.CharData); ok && blank.IsWhitespace() {
				parent.InsertChildAt(at, etree.NewText(blank.Data))
				at++
			}
		}
	}
	parent.InsertChildAt(at, fresh)
}
