package backstay_test

import (
	"go/ast"
	"go/doc"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// contracts are the packages in which every exported name is documented: the
// words, the ports and the wire.
var contracts = []string{
	".", "api", "client", "internal/blob", "internal/catalog", "internal/hypervisor", "internal/keyring", "internal/mover", "internal/tier",
}

func TestEveryNameOfTheWordsAndPortsIsDocumented(t *testing.T) {
	for _, dir := range contracts {
		p := readPackage(t, dir)
		undocumented := func(name, doc string) {
			if doc == "" && token.IsExported(name[strings.LastIndex(name, ".")+1:]) {
				t.Errorf("%s: %s has no doc comment", dir, name)
			}
		}
		for _, f := range p.Funcs {
			undocumented(f.Name, f.Doc)
		}
		for _, v := range append(p.Consts, p.Vars...) {
			values(v, undocumented)
		}
		for _, typ := range p.Types {
			undocumented(typ.Name, typ.Doc)
			for _, f := range append(typ.Funcs, typ.Methods...) {
				undocumented(f.Name, f.Doc)
			}
			for _, v := range append(typ.Consts, typ.Vars...) {
				values(v, undocumented)
			}
			methods(typ, undocumented)
		}
	}
}

func TestEveryPackageSaysWhatItIsFor(t *testing.T) {
	err := filepath.WalkDir(".", func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		if name := d.Name(); path != "." && strings.HasPrefix(name, ".") || name == "testdata" {
			return filepath.SkipDir
		}
		if files, _ := filepath.Glob(filepath.Join(path, "*.go")); len(files) > 0 {
			if p := readPackage(t, path); p != nil && p.Doc == "" {
				t.Errorf("%s has no package comment", path)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// readPackage returns the documentation of the package in a folder, without its
// tests; nil if it has nothing else.
func readPackage(t *testing.T, dir string) *doc.Package {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	set := token.NewFileSet()
	var files []*ast.File
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(set, name, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	if len(files) == 0 {
		return nil
	}
	p, err := doc.NewFromFiles(set, files, "github.com/backstay/backstay/"+dir)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// values looks at a group of constants or variables: a comment on the group is
// one for each.
func values(v *doc.Value, undocumented func(name, doc string)) {
	for _, spec := range v.Decl.Specs {
		s, ok := spec.(*ast.ValueSpec)
		if !ok {
			continue
		}
		for _, name := range s.Names {
			undocumented(name.Name, v.Doc+s.Doc.Text()+s.Comment.Text())
		}
	}
}

// methods looks at what an interface demands.
func methods(typ *doc.Type, undocumented func(name, doc string)) {
	for _, spec := range typ.Decl.Specs {
		s, ok := spec.(*ast.TypeSpec)
		if !ok {
			continue
		}
		i, ok := s.Type.(*ast.InterfaceType)
		if !ok {
			continue
		}
		for _, m := range i.Methods.List {
			for _, name := range m.Names { // none where an interface is embedded
				undocumented(typ.Name+"."+name.Name, m.Doc.Text()+m.Comment.Text())
			}
		}
	}
}
