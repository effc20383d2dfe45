// An HTTP server of Go that nobody changed: it logs what it takes for a request.
package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
)

func main() {
	serve := func(response http.ResponseWriter, request *http.Request) {
		bytes, err := io.Copy(io.Discard, request.Body)
		if err == nil {
			fmt.Printf("\"%s %s %s\" %d\n", request.Method, request.RequestURI, request.Proto, bytes)
		}
		io.WriteString(response, "good")
	}
	if err := http.ListenAndServe("127.0.0.1:"+os.Args[1], http.HandlerFunc(serve)); err != nil {
		panic(err)
	}
}
