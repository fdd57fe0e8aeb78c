package main

import "github.com/backstay/backstay/test/bench/show"

// chart draws first backup, second backup and restore.
func (r *results) chart() string {
	return show.Chart("Backups and restores, in seconds", []show.Group{
		{Title: "first backup, seconds", Bars: r.bars("first")},
		{Title: "second backup, after the change, seconds", Bars: r.bars("second")},
		{Title: "restore of the newest point, seconds", Bars: r.bars("restore")},
	})
}

func (r *results) bars(step string) []show.Bar {
	var bars []show.Bar
	for _, s := range rows {
		if f := r.get(s.name + "/" + step); f.Wall > 0 {
			bars = append(bars, show.Bar{Title: s.title, Value: f.Wall, Own: s.name == "backstay" || s.name == "three"})
		}
		if n := r.get("backstay/second-nomap"); s.name == "backstay" && step == "second" && n.Wall > 0 {
			bars = append(bars, show.Bar{Title: "backstay, without a change map", Value: n.Wall, Own: true})
		}
	}
	return bars
}
