// Client of the matrix in Go: `matrix.go go|go-h1`, used like matrix.py.
package main

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

type app struct{ Name, At, Upload, Download, Stream, Wait string }

type refusal struct {
	path           string
	length, status int
}

type plan struct {
	Base     string
	Apps     []app
	Lengths  []int
	Refusals []refusal
}

// UnmarshalJSON reads `[path, length, status]`.
func (it *refusal) UnmarshalJSON(data []byte) error {
	return json.Unmarshal(data, &[]any{&it.path, &it.length, &it.status})
}

var (
	name   = os.Args[1]
	client = &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{
		ForceAttemptHTTP2:   name == "go",
		MaxIdleConnsPerHost: 16,
		TLSClientConfig:     &tls.Config{InsecureSkipVerify: true},
	}}
	work plan
)

func content(length int) []byte {
	return bytes.Repeat([]byte("edgeway "), length/8+1)[:length]
}

func send(method, path string, body []byte) (int, []byte, error) {
	request, err := http.NewRequest(method, work.Base+path, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	response, err := client.Do(request)
	if err != nil {
		return 0, nil, err
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	return response.StatusCode, data, err
}

func upload(app app, length int) error {
	status, body, err := send("POST", app.Upload, content(length))
	if err != nil {
		return err
	}
	var came struct {
		Bytes  int
		Digest *string
	}
	if err := json.Unmarshal(body, &came); err != nil {
		return fmt.Errorf("%d %s", status, body)
	}
	sum := sha256.Sum256(content(length))
	if came.Bytes != length || came.Digest != nil && *came.Digest != hex.EncodeToString(sum[:]) {
		return fmt.Errorf("%d %s", status, body)
	}
	return nil
}

func download(app app, length int) error {
	status, body, err := send("GET", strings.ReplaceAll(app.Download, "BYTES", strconv.Itoa(length)), nil)
	if err == nil && (status != 200 || !bytes.Equal(body, content(length))) {
		err = fmt.Errorf("%d, %d bytes", status, len(body))
	}
	return err
}

func refused(app app, it refusal) error {
	status, _, err := send("POST", app.At+it.path, content(it.length))
	if err == nil && status != it.status {
		err = fmt.Errorf("status %d", status)
	}
	return err
}

func stream(app app) error {
	response, err := client.Get(work.Base + app.Stream)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	var times []time.Time
	lines := bufio.NewScanner(response.Body)
	for lines.Scan() {
		if strings.HasPrefix(lines.Text(), "data:") {
			times = append(times, time.Now())
		}
	}
	if len(times) != 4 || times[3].Sub(times[0]) < 50*time.Millisecond {
		return fmt.Errorf("%v %v", times, lines.Err())
	}
	return nil
}

func tried(app app, scenario string, err error) {
	if err != nil {
		fmt.Printf("%s %s %s: %v\n", name, app.Name, scenario, err)
	}
}

// forAll runs a function for all apps at once, and returns when all are done.
func forAll(run func(app)) {
	var all sync.WaitGroup
	for _, it := range work.Apps {
		all.Add(1)
		go func(it app) {
			defer all.Done()
			run(it)
		}(it)
	}
	all.Wait()
}

func main() {
	input := bufio.NewReader(os.Stdin)
	line, _ := input.ReadBytes('\n')
	if err := json.Unmarshal(line, &work); err != nil {
		panic(err)
	}
	forAll(func(app app) {
		for _, length := range work.Lengths {
			tried(app, fmt.Sprint("upload ", length), upload(app, length))
			if app.Download != "" {
				tried(app, fmt.Sprint("download ", length), download(app, length))
			}
		}
		for _, it := range work.Refusals {
			tried(app, fmt.Sprint("refusal ", it), refused(app, it))
		}
		tried(app, "stream", stream(app))
	})
	fmt.Println("ready")
	input.ReadBytes('\n')
	fmt.Println("ready")
	var stopped atomic.Bool
	go func() {
		input.ReadBytes('\n')
		stopped.Store(true)
	}()
	forAll(func(app app) {
		for !stopped.Load() {
			status, body, err := send("GET", app.Wait, nil)
			if err == nil && status != 200 {
				err = fmt.Errorf("%d %s", status, body)
			}
			if err != nil {
				tried(app, "stop", err)
				return
			}
		}
	})
}
