// Package show is what the project's benchmarks share: goals and the line that
// each ends with, tables, a chart, and a description of the machine. It measures
// nothing.
package show
