package config

import (
	"fmt"
	"net/url"
	"path/filepath"
)

func (c *Config) checkKeyServices(d *document) error {
	seen := map[string]bool{}
	for i, s := range c.KeyServices {
		at := fmt.Sprintf("$.keyServices[%d]", i)
		if !nameForm.MatchString(s.Name) || seen[s.Name] {
			return d.bad(at+".name", fmt.Sprintf("key service %q cannot be a name", s.Name),
				"a name has lower-case letters, digits, dot, dash and underscore, and is there once", "use a name such as `corp`")
		}
		seen[s.Name] = true
		if s.Key == "" {
			return d.bad(at+".key", fmt.Sprintf("key service %s names no key", s.Name), "a service has many", "say `key: NAME`")
		}
		if err := s.check(d, at); err != nil {
			return err
		}
	}
	return nil
}

func (s *KeyService) check(d *document, at string) error {
	switch s.Kind {
	case KeyFolder:
		if !filepath.IsAbs(s.Dir) {
			return d.bad(at+".dir", fmt.Sprintf("the folder %q of key service %s is not an absolute path", s.Dir, s.Name),
				"it is one as seen from the hosts", "use a path such as `/mnt/keys`")
		}
	case KeyTransit:
		if u, err := url.Parse(s.URL); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil {
			return d.bad(at+".url", fmt.Sprintf("the address of key service %s is none", s.Name), "it is http or https, without a credential in it",
				"use one such as `https://vault.example:8200`")
		}
		if !filepath.IsAbs(s.CredentialFile) {
			return d.bad(at+".credentialFile", fmt.Sprintf("key service %s has no file with its credential", s.Name),
				"it is an absolute path; the file holds a token, or a role id and a secret id in two lines", "use a path such as `/etc/backstay/corp.token`")
		}
	default:
		return d.bad(at+".kind", fmt.Sprintf("key service %s is of kind %q", s.Name, s.Kind), "there are folder and transit", "say one of them")
	}
	return nil
}
