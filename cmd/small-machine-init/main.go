// Command small-machine-init is the one program that runs in a small machine.
package main

import "github.com/backstay/backstay/internal/guest/inside"

func main() { inside.Main() }
