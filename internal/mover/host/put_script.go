package host

import (
	"context"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/guestagent"
	"github.com/backstay/backstay/internal/items"
)

// What a put does in a guest other than writing content, in the words of its shell:
// POSIX, with GNU's or BusyBox' tools. Every function gets the number of an entry
// first, and answers with lines "NUMBER WORD …", which checks of ours read; paths
// never come back.
//
// fresh makes a file that nobody else in the guest may read or write before it has its
// owner and mode: what its agent makes by itself is everybody's.
//
// back may meet a take that still runs, of a mover that was killed: without the new name
// that finds nothing to move, so it goes before anything is decided. And a file is ours
// only if nothing about it is older than what we made: a guest that was set back since
// may have its own under the same number.
const putWords = `PATH=$PATH:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
LC_ALL=C
export PATH LC_ALL
umask 077
no() { echo "$1 no $(printf %s "$2" | tr '\n' ' ')"; }
move() { mv -f -T "$1" "$2" 2>&1 || { [ ! -d "$2" ] && mv -f "$1" "$2" 2>&1; }; }
look() {
	if [ -L "$2" ]; then echo "$1 link"
	elif [ -d "$2" ]; then echo "$1 folder"
	elif [ -f "$2" ]; then echo "$1 file"
	elif [ -e "$2" ]; then echo "$1 other"
	else echo "$1 none"; fi
}
free() {
	i=$3
	while [ -e "$2.$i" ] || [ -L "$2.$i" ]; do i=$((i+1)); done
	echo "$1 free $i"
}
fresh() { e=$({ set -C; : >"$2"; } 2>&1) || no "$1" "$e"; }
folder() { e=$(mkdir "$2" 2>&1) || no "$1" "$e"; }
same() { e=$(ln "$3" "$2" 2>&1) || no "$1" "$e"; }
link() { e=$(ln -s "$3" "$2" 2>&1) || no "$1" "$e"; }
size() { e="it is gone"; [ -f "$2" ] && e=$(dd if=/dev/null of="$2" bs=1 count=0 seek="$3" 2>&1) || no "$1" "$e"; }
own() { e=$(chown -h "$3" "$2" 2>&1) || no "$1" "$e"; }
mode() { e=$(chmod "$3" "$2" 2>&1) || no "$1" "$e"; }
attr() { e=$(setfattr -h -n "$3" -v "$4" "$2" 2>&1) || echo "$1 weak $3"; }
stamp() { touch -h -m -d "@$3.$4" "$2" 2>/dev/null || touch -h -m -d "@$3" "$2" 2>/dev/null || { [ ! -L "$2" ] && touch -m -d "@$3" "$2" 2>/dev/null; } || echo "$1 weak time"; }
sum() { e=$(sha256sum <"$2" 2>&1) && echo "$1 sum ${e%% *}" && { sync "$2" 2>/dev/null || sync; } || no "$1" "$e"; }
node() { e=$(stat -c '%i %Z' "$2" 2>&1) && echo "$1 node $e" || no "$1" "$e"; }
keep() { e=$(ln "$3" "$2" 2>&1) || e=$(cp -a "$3" "$2" 2>&1) || no "$1" "$e"; }
take() { e=$(move "$2" "$3") || no "$1" "$e"; }
place() { if [ -e "$3" ] || [ -L "$3" ]; then no "$1" "something has come to be there meanwhile"; else take "$1" "$2" "$3"; fi; }
ours() { [ -n "$2" ] && e=$(stat -c '%i %Z' "$1" 2>/dev/null) && [ "${e% *}" = "${2% *}" ] && [ "${e#* }" -ge "${2#* }" ]; }
back() {
	e=$(rm -f "$2" 2>&1) || { no "$1" "$e"; return; }
	if ours "$4" "$5"; then
		if [ "$6" != had ]; then e=$(rm -f "$4" 2>&1) || { no "$1" "$e"; return; }
		elif [ -e "$3" ] || [ -L "$3" ]; then e=$(move "$3" "$4") || { no "$1" "$e"; return; }; fi
	fi
	e=$(rm -f "$3" 2>&1) || no "$1" "$e"
}
gone() { e=$(rm -f "$2" 2>&1) || no "$1" "$e"; }
leave() { [ ! -d "$2" ] || rmdir "$2" 2>/dev/null || :; }
`

// putTools are what the words above need.
var putTools = []string{"mkdir", "rmdir", "ln", "mv", "rm", "cp", "dd", "chown", "chmod", "touch", "sha256sum", "stat", "sync", "tr"}

// mostScript bounds one script, in bytes: it goes to the guest in one question.
const mostScript = 24 << 10

// script is what the guest's shell is asked to do, in as many pieces as it takes.
type script struct {
	pieces []*strings.Builder
}

// call adds a function with its arguments.
func (s *script) call(word string, n int, args ...string) {
	last := len(s.pieces) - 1
	if last < 0 || s.pieces[last].Len() > mostScript {
		s.pieces = append(s.pieces, &strings.Builder{})
		last++
	}
	fmt.Fprintf(s.pieces[last], "%s %d", word, n)
	for _, a := range args {
		s.pieces[last].WriteString(" " + guestagent.Quote(a))
	}
	s.pieces[last].WriteByte('\n')
}

// meta adds what gives a file or folder its owner, mode, attributes and times.
func (s *script) meta(n int, path string, it *items.Item) {
	s.call("own", n, path, fmt.Sprintf("%d:%d", it.UID, it.GID))
	if it.Type != backstay.TypeLink {
		s.call("mode", n, path, fmt.Sprintf("%04o", it.Mode&0o7777))
		for _, x := range it.Xattrs {
			s.call("attr", n, path, x.Name, "0x"+hex.EncodeToString(x.Value))
		}
	}
	if it.ModTime.IsZero() { // a folder that is of no point
		return
	}
	s.call("stamp", n, path, strconv.FormatInt(it.ModTime.Unix(), 10), fmt.Sprintf("%09d", it.ModTime.Nanosecond()))
}

// said is one line of a script's answer.
type said struct {
	n          int
	word, rest string
}

// run runs the script and returns what it said. A "no" is left to the caller.
func (s *script) run(ctx context.Context, a guestagent.Agent, patience time.Duration) ([]said, error) {
	var all []said
	for _, piece := range s.pieces {
		out, err := a.Script(ctx, []byte(putWords+piece.String()), patience)
		if err != nil {
			return all, err
		}
		for line := range strings.Lines(out) {
			number, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
			n, err := strconv.Atoi(number)
			if err != nil {
				return all, fmt.Errorf("the guest's shell said %q", guestagent.Shown(line, guestagent.MostOfError))
			}
			word, rest, _ := strings.Cut(rest, " ")
			all = append(all, said{n, word, rest})
		}
	}
	return all, nil
}
