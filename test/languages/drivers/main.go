// Runs what docs/other-languages.md has for Go, and prints a line for each thing that came of it.
package main

import (
	"context"
	"fmt"
	"os"
	"sync"
	"time"

	keywardv1 "example.com/you/keyward/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
)

func main() {
	connection, err := connect(os.Args[1], os.Args[2], os.Args[3], os.Args[4])
	check(err)
	if len(os.Args) > 5 {
		flood(connection)
		return
	}
	ctx := context.Background()
	opened, err := roundTrip(ctx, connection, []byte("hello"))
	check(err)
	fmt.Printf("opened %s\n", opened)

	encryption := keywardv1.NewEncryptionServiceClient(connection)
	_, err = encryption.Decrypt(ctx, &keywardv1.DecryptRequest{Parent: "tenants/acme", Ciphertext: []byte("none")})
	report("failure", status.Convert(err))

	batch, err := encryption.BatchEncrypt(ctx, &keywardv1.BatchEncryptRequest{
		Parent: "tenants/acme",
		Requests: []*keywardv1.EncryptRequest{
			{Name: "tenants/acme/keys/orders", Plaintext: []byte("hello")},
			{Name: "tenants/acme/keys/none", Plaintext: []byte("hello")},
		},
	})
	check(err)
	for _, result := range batch.Results {
		if failure := result.GetError(); failure != nil {
			report("item", status.FromProto(failure))
		} else {
			fmt.Printf("item %t\n", len(result.GetResponse().Ciphertext) > 0)
		}
	}

	audit := keywardv1.NewAuditServiceClient(connection)
	page, err := audit.ListEntries(ctx, &keywardv1.ListEntriesRequest{Parent: "tenants/acme", PageSize: 1000})
	check(err)
	bytes := 0
	for _, entry := range page.Entries {
		bytes += len(entry.Leaf)
	}
	fmt.Printf("page %d\n", bytes)

	entries, err := audit.ReadEntries(ctx, &keywardv1.ReadEntriesRequest{Parent: "tenants/acme"})
	check(err)
	for first := true; err == nil; first = false {
		_, err = entries.Recv()
		if first && err == nil {
			fmt.Println("reading")
		}
	}
	report("ended", status.Convert(err))
}

func report(what string, failure *status.Status) {
	info, again, _ := explain(failure)
	fmt.Printf("%s %d %s %s %t\n", what, failure.Code(), info.GetReason(), info.GetDomain(), again)
}

// flood keeps 256 calls in flight on one connection, each with less time than it takes.
func flood(connection *grpc.ClientConn) {
	encryption := keywardv1.NewEncryptionServiceClient(connection)
	request := &keywardv1.EncryptRequest{Name: "tenants/acme/keys/orders", Plaintext: make([]byte, 1024)}
	end := time.Now().Add(4 * time.Second)
	var all sync.WaitGroup
	for range 256 {
		all.Go(func() {
			for time.Now().Before(end) {
				ctx, cancel := context.WithTimeout(context.Background(), 40*time.Millisecond)
				_, _ = encryption.Encrypt(ctx, request)
				cancel()
			}
		})
	}
	all.Wait()
	fmt.Println("flooded")
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
