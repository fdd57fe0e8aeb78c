// Package test tells what backstay does as stories: scripts in the folder
// scripts that a user could read and type. Each story has a world of its own,
// with a real libvirt, real guests and a real server. They need root, and run with
// the build tag `integration`.
//
// Besides the commands of testscript (https://pkg.go.dev/github.com/rogpeppe/go-internal/testscript)
// and `backstay` itself, a story has:
//
//	world [hosts=N] [qemu=debian]        bring a world up; the first host is host1
//	vm NAME [host=H] [disk=FORMAT[:SIZE]]... [uefi] [tpm] [noagent] [off] [network=N]
//	guest VM COMMAND                     run a shell command in a guest
//	sha256 VM DISK                       print the SHA-256 of a disk's whole content
//	power VM                             print running, paused or shut-off
//	destroy VM | start VM | undefine VM  as libvirt does it; disk files stay
//	on HOST COMMAND ARGUMENTS...         run a command on a host
//	kill9 server|mover|libvirtd [HOST]   end it as a crash does
//	restart server|mover|libvirtd [HOST] start it again
//	hold STEP, await STEP                make jobs wait before a step; wait until one does
//	release STEP                         let it go on
//	fault NAME, hit NAME, lift NAME      plan a fault; wait until it was met; end it
//	eventually PATTERN COMMAND...        repeat the command until what it prints matches
//	exits CODE COMMAND ARGUMENTS...      the command ends with exactly this code
//	expect PATH [OP] VALUE               a value in the last output, which is JSON; OP is = != < > ~
//	object UNIT KIND                     print the largest object of a storage unit: packs, points …
//	damage flip|cut|remove FILE          change one byte of a file, leave its first quarter, or take it away
//	remember NAME [PATH]                 keep the last output, or a value in it, as $NAME
//	tidy                                 no job left anything behind on any host
//
// A story of two regions begins with `world regions=west,east`. Each has hosts (west1)
// and storage units of its own, and only a link joins them:
//
//	in REGION                            what follows is about it: backstay, $URL, $TOKEN, $UNIT1 …
//	link mend|cut|stall|corrupt|slow|pull|plug [VALUE]   make the link bad or good (`sandbox link --help`)
//	passed                               print what passed the link, as JSON: Connections, Bytes, Corrupted, Cuts
//	burn REGION                          end all of it at once; what is on its disks stays
//	rebuild REGION                       new machines in its place, with nothing on them
//
// $CONFIG_west, $URL_west, $TOKEN_west, $KEYFILE_west and $PAIR_west (where the other
// region finds it) are there in both.
package test
