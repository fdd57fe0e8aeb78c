// Package vault is the vault tier: recovery points as sealed, deduplicated
// chunks in immutable packs on storage units.
//
// It is a ladder, one package a rung, each with its own kind of name: chunk
// (content and its keyed name), seal (keys and authenticated encryption), pack
// (the object that holds many chunks), index (which pack holds a chunk) and
// point (the table pages and the manifest of a point). This package climbs it:
// Writer carries disks into a vault and commits a point, Point reads one, Reclaim
// gives back what no point needs: nothing else deletes a pack.
//
// The formats are in docs/formats/vault.md. The package knows no hypervisor, no
// catalogue and no clock.
package vault
