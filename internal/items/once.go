package items

import (
	"hash/maphash"
	"strings"

	backstay "github.com/backstay/backstay"
)

// once keeps out of an archive what would be unpacked through a symbolic link of the same
// archive: a link and then a folder or a file of the same path. No file system has such
// two, but a small machine that was taken over could send them, and there are programs
// that then write to where the link points.
type once struct {
	seed   maphash.Seed
	levels []onceLevel // the open folders, outermost first
	names  int         // in all of them
	out    backstay.FilePath
	// refused are files of several names that were kept out.
	refused map[backstay.FilePath]bool
}

// onceLevel is what came so far in an open folder: its links and folders.
type onceLevel struct {
	path  string
	names map[uint64]struct{}
}

// mostOnce bounds the links and folders that lie in open folders.
const mostOnce = 4 << 20

// refuses says why an item must not be in the archive; "" if it may.
func (o *once) refuses(it *Item) string {
	if o.levels == nil {
		o.seed, o.levels, o.refused = maphash.MakeSeed(), []onceLevel{{}}, map[backstay.FilePath]bool{}
	}
	why := o.check(it)
	if why != "" && it.Linked {
		o.refused[it.Path] = true
	}
	return why
}

func (o *once) check(it *Item) string {
	if o.out != "" && strings.HasPrefix(string(it.Path), string(o.out)+"/") {
		return "it lies in a folder that was left out"
	}
	o.out = ""
	parent, name := split(it.Path)
	for len(o.levels) > 1 && o.levels[len(o.levels)-1].path != parent {
		o.names -= len(o.levels[len(o.levels)-1].names)
		o.levels = o.levels[:len(o.levels)-1]
	}
	level := &o.levels[len(o.levels)-1]
	key := maphash.String(o.seed, name)
	_, twice := level.names[key]
	listed := it.Path == IncompleteName && it.Type == backstay.TypeLink
	switch {
	case it.HardLink != "" && o.refused[it.HardLink]:
		return "it is another name of a file that was left out"
	case twice || listed || o.names >= mostOnce:
		if it.Type == backstay.TypeFolder {
			o.out = it.Path
		}
		if listed {
			return "it has the name of the list of what is lacking"
		}
		if !twice {
			return "there are too many links and folders"
		}
		return "another of the same path is in the archive"
	case it.Type != backstay.TypeFolder && it.Type != backstay.TypeLink:
		return ""
	}
	if level.names == nil {
		level.names = map[uint64]struct{}{}
	}
	level.names[key] = struct{}{}
	o.names++
	if it.Type == backstay.TypeFolder {
		o.levels = append(o.levels, onceLevel{path: string(it.Path)})
	}
	return ""
}
