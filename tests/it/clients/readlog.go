// Reads a log that is served as static files with the packages of Go's own checksum database, and checks all of it:
// the signature, every record against the tiles, the tiles against the root, and that the log grew from what it was.
//
// usage: readlog URL VKEY
package main

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const height = 8

func get(url string) ([]byte, error) {
	answer, err := http.Get(url)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", url, answer.Status)
	}
	return io.ReadAll(answer.Body)
}

// tlog-tiles fixes the height, and its paths leave it out.
func path(tile tlog.Tile) string {
	return strings.Replace(tile.Path(), fmt.Sprintf("tile/%d/", height), "tile/", 1)
}

type files struct{ url string }

func (files) Height() int                         { return height }
func (files) SaveTiles(_ []tlog.Tile, _ [][]byte) {}

func (f files) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	var all [][]byte
	for _, tile := range tiles {
		data, err := get(f.url + "/" + path(tile))
		if err != nil {
			return nil, err
		}
		all = append(all, data)
	}
	return all, nil
}

func checkpoint(url, vkey string) (tree tlog.Tree, err error) {
	verifier, err := note.NewVerifier(vkey)
	if err != nil {
		return tree, err
	}
	bytes, err := get(url + "/checkpoint")
	if err != nil {
		return tree, err
	}
	opened, err := note.Open(bytes, note.VerifierList(verifier))
	if err != nil {
		return tree, err
	}
	lines := strings.Split(opened.Text, "\n")
	if len(lines) < 4 || lines[0] != verifier.Name() {
		return tree, errors.New("the checkpoint is not of this log")
	}
	if tree.N, err = strconv.ParseInt(lines[1], 10, 64); err != nil {
		return tree, err
	}
	root, err := base64.StdEncoding.DecodeString(lines[2])
	if err != nil || copy(tree.Hash[:], root) != tlog.HashSize {
		return tree, errors.New("the checkpoint has no root")
	}
	return tree, nil
}

// The records of a bundle: each behind its length in two bytes.
func records(bundle []byte) (all [][]byte, err error) {
	for len(bundle) > 0 {
		if len(bundle) < 2 {
			return nil, errors.New("a bundle is cut")
		}
		length := int(bundle[0])<<8 | int(bundle[1])
		if len(bundle) < 2+length {
			return nil, errors.New("a bundle is cut")
		}
		all, bundle = append(all, bundle[2:2+length]), bundle[2+length:]
	}
	return all, nil
}

func read(url, vkey string) (int64, error) {
	tree, err := checkpoint(url, vkey)
	if err != nil {
		return 0, err
	}
	reader := tlog.TileHashReader(tree, files{url})
	root, err := tlog.TreeHash(tree.N, reader)
	if err != nil || root != tree.Hash {
		return 0, fmt.Errorf("the tiles do not lead to the root: %v", err)
	}
	var seq int64
	for first := int64(0); first < tree.N; first += 1 << height {
		tile := tlog.Tile{H: height, L: 0, N: first >> height, W: 1 << height}
		if left := tree.N - first; left < 1<<height {
			tile.W = int(left)
		}
		bundle, err := get(url + "/" + strings.Replace(path(tile), "tile/0/", "tile/entries/", 1))
		if err != nil {
			return 0, err
		}
		all, err := records(bundle)
		if err != nil || len(all) != tile.W {
			return 0, fmt.Errorf("%d records in place of %d: %v", len(all), tile.W, err)
		}
		var places []int64
		for n := range all {
			places = append(places, tlog.StoredHashIndex(0, seq+int64(n)))
		}
		hashes, err := reader.ReadHashes(places)
		if err != nil {
			return 0, err
		}
		for n, record := range all {
			if tlog.RecordHash(record) != hashes[n] {
				return 0, fmt.Errorf("record %d is not the one that was logged", seq+int64(n))
			}
		}
		proof, err := tlog.ProveRecord(tree.N, seq, reader)
		if err != nil {
			return 0, err
		}
		if err := tlog.CheckRecord(proof, tree.N, tree.Hash, seq, tlog.RecordHash(all[0])); err != nil {
			return 0, err
		}
		seq += int64(len(all))
		old, err := tlog.TreeHash(seq, reader)
		if err != nil {
			return 0, err
		}
		growth, err := tlog.ProveTree(tree.N, seq, reader)
		if err != nil {
			return 0, err
		}
		if err := tlog.CheckTree(growth, tree.N, tree.Hash, seq, old); err != nil {
			return 0, err
		}
	}
	return seq, nil
}

func main() {
	count, err := read(os.Args[1], os.Args[2])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(count)
}
