package server_test

import (
	"net/url"
	"testing"

	backstay "github.com/backstay/backstay"
)

// TestAUnitIsFoundByItsURL: a URL is one part of the path, slashes and all.
func TestAUnitIsFoundByItsURL(t *testing.T) {
	w := start(t)
	for _, at := range []string{"file:///srv/new unit", "s3://bucket/a/b?endpoint=https://s3.example.org&path-style=true"} {
		made := as[backstay.Unit](t, w, backstay.Owner, "POST", "/v1/units", `{"url":"`+at+`","zone":"1"}`)
		found := as[backstay.Unit](t, w, backstay.Reader, "GET", "/v1/units/"+url.PathEscape(at), "")
		if made.URL != at || found.URL != at || found.Zone != "1" {
			t.Errorf("made %+v, found %+v", made, found)
		}
	}
	refused(t, w, "GET", "/v1/units/"+url.PathEscape("file:///nowhere"), "", 404, backstay.CodeUnknownUnit)
	refused(t, w, "POST", "/v1/units", `{"url":"relative"}`, 422, backstay.CodeUsage)
}

// TestAPointSaysOfHowManyCopiesItIsShort: that is what its vault's units say now.
func TestAPointSaysOfHowManyCopiesItIsShort(t *testing.T) {
	w := start(t)
	v, err := w.Catalog.Vaults.Vault(t.Context(), "default")
	if err != nil {
		t.Fatal(err)
	}
	v.Units[0].Standing = backstay.Behind
	if err := w.Catalog.Vaults.UpdateVault(t.Context(), v); err != nil {
		t.Fatal(err)
	}
	for _, p := range as[[]backstay.RecoveryPoint](t, w, backstay.Reader, "GET", "/v1/points", "") {
		want := 0
		if p.Has(backstay.VaultTier) && p.Vault == "default" {
			want = 1
		}
		one := as[backstay.RecoveryPoint](t, w, backstay.Reader, "GET", "/v1/points/"+string(p.ID), "")
		if p.ShortCopies != want || one.ShortCopies != want {
			t.Errorf("%s: %d and %d, want %d", p.ID, p.ShortCopies, one.ShortCopies, want)
		}
	}
}
