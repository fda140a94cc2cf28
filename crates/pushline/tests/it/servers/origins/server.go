// A receiver on Go's net/http: records each request in a file, then answers.
//
//	server PORT FOLDER http1|http2 plain|tls|certificate
package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"
)

func main() {
	port, folder, protocol, security := os.Args[1], os.Args[2], os.Args[3], os.Args[4]
	file := func(name string) string { return filepath.Join(folder, name) }
	record, err := os.OpenFile(file("record"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		log.Fatal(err)
	}
	var writing sync.Mutex
	server := &http.Server{
		Addr:        "127.0.0.1:" + port,
		IdleTimeout: 300 * time.Millisecond,
		Handler: http.HandlerFunc(func(answer http.ResponseWriter, request *http.Request) {
			body, err := io.ReadAll(request.Body)
			if err != nil {
				answer.WriteHeader(http.StatusBadRequest)
				return
			}
			writing.Lock()
			defer writing.Unlock()
			fmt.Fprintf(record, "%s\t%s\t%s\n", request.Proto, request.Header.Get("webhook-id"), body)
		}),
	}
	if protocol == "http1" {
		// HTTP/2 is on by default: an empty map switches it off.
		server.TLSNextProto = map[string]func(*http.Server, *tls.Conn, http.Handler){}
	}
	if security == "plain" {
		log.Fatal(server.ListenAndServe())
	}
	if security == "certificate" {
		authority, err := os.ReadFile(file("ca.pem"))
		if err != nil {
			log.Fatal(err)
		}
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(authority)
		server.TLSConfig = &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool}
	}
	log.Fatal(server.ListenAndServeTLS(file("server.pem"), file("server.key")))
}
