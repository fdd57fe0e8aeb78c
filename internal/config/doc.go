// Package config reads and writes the two configuration files: the server's
// (backstay.yaml) and the client's (client.yaml). Each is one documented
// struct, read strictly: an unknown key or a bad value is an error that names
// file and line and says what would be right.
//
// It also holds the options of the commands that are daemons rather than
// clients (init, agent), so that the command line and the daemon need not know
// each other. It starts nothing and opens no other file.
package config
