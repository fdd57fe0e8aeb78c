package daemon

import (
	"os"
	"strings"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/api"
)

func TestUnitsThatCannotHoldAVaultAreRefusedBeforeAnythingIsMade(t *testing.T) {
	dir := t.TempDir() + "/copy"
	for name, second := range map[string]string{
		"memory":              "mem://trial",
		"a password":          "s3://key:hunter2@bucket",
		"the same place":      dir + "/below",
		"an unknown option":   "s3://bucket?secret=hunter2",
		"another's prefix":    "s3://bucket/site/below",
		"the same with words": "s3://bucket/site?region=eu-central-1",
	} {
		wanted := []api.NewUnit{{URL: dir}, {URL: "s3://bucket/site"}, {URL: second}}
		_, err := unitURLs(wanted)
		if !backstay.IsCode(err, backstay.CodeUsage) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("%s: refused, and the folder was made", name)
		}
	}
}
