//go:build integration

package azure_test

import (
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/sas"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/blob/azure"
	"github.com/backstay/backstay/internal/blob/blobserver"
	"github.com/backstay/backstay/internal/blob/blobtest"
	"github.com/backstay/backstay/internal/blob/conform"
)

func open(t *testing.T, addr string, o azure.Options) blob.Store {
	t.Helper()
	o.Endpoint = "http://" + addr + "/" + blobserver.Account
	if len(o.AccountKey.Reveal())+len(o.SASToken.Reveal()) == 0 {
		o.AccountKey = backstay.NewSecret([]byte(blobserver.AccountKey))
	}
	s, err := azure.New(blobserver.Account, "container", o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func client(t *testing.T, server *blobserver.Server) *container.Client {
	t.Helper()
	key, err := container.NewSharedKeyCredential(blobserver.Account, blobserver.AccountKey)
	if err != nil {
		t.Fatal(err)
	}
	c, err := container.NewClientWithSharedKeyCredential("http://"+server.Addr+"/"+blobserver.Account+"/container", key, nil)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// server returns one with the container.
func server(t *testing.T) *blobserver.Server {
	t.Helper()
	s := blobserver.Azure(t)
	if _, err := client(t, s).Create(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestConformance(t *testing.T) {
	server := server(t)
	var n atomic.Int32
	blobtest.RunSized(t, conform.Options{Many: 5100}, func(t *testing.T) blob.Store { // pages have 5,000
		return open(t, server.Addr, azure.Options{Prefix: fmt.Sprintf("site/%d", n.Add(1))})
	})
}

func TestTroubles(t *testing.T) {
	blobserver.Troubles(t, server(t), func(t *testing.T, addr string, idle time.Duration) blob.Store {
		return open(t, addr, azure.Options{Prefix: "p", Idle: idle})
	})
}

func TestATokenLetsIn(t *testing.T) {
	server := server(t)
	all := sas.ContainerPermissions{Read: true, Write: true, Create: true, Delete: true, List: true}
	url, err := client(t, server).GetSASURL(all, time.Now().Add(time.Hour), nil)
	if err != nil {
		t.Fatal(err)
	}
	token := url[len("http://"+server.Addr+"/"+blobserver.Account+"/container?"):]
	blobtest.Run(t, func(t *testing.T) blob.Store {
		return open(t, server.Addr, azure.Options{SASToken: backstay.NewSecret([]byte(token)), Prefix: t.Name()})
	})
}

// I5: whoever is not let in learns nothing of any object.
func TestWrongCredentialsAndNoContainerSayNothingOfObjects(t *testing.T) {
	server, none := server(t), blobserver.Azure(t)
	for name, s := range map[string]blob.Store{
		"wrong key":    open(t, server.Addr, azure.Options{AccountKey: backstay.NewSecret([]byte("AAAA"))}),
		"no container": open(t, none.Addr, azure.Options{}),
	} {
		_, getErr := s.Get(t.Context(), "a", 0, -1)
		_, statErr := s.Stat(t.Context(), "a")
		for call, err := range map[string]error{
			"get": getErr, "stat": statErr, "put": s.Put(t.Context(), "a", nil), "delete": s.Delete(t.Context(), "a"),
			"list": s.List(t.Context(), "", func(blob.Info) error { return nil }),
		} {
			if !errors.Is(err, blob.ErrAway) || !errors.Is(err, blob.ErrDenied) || errors.Is(err, blob.ErrNotExist) {
				t.Errorf("%s, %s: %v", name, call, err)
			}
		}
	}
}
