// The client of Go for MQTT 5. See ../../publisher.rs for what each of these programs does.
package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net/url"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/eclipse/paho.golang/autopaho"
	"github.com/eclipse/paho.golang/packets"
	"github.com/eclipse/paho.golang/paho"
	"github.com/eclipse/paho.golang/paho/session/state"
	"github.com/eclipse/paho.golang/paho/store/memory"
)

// What the client has sent and the server hasn't acknowledged. The library deletes a packet when it is acknowledged.
type reportingStore struct {
	*memory.Store
	mutex     sync.Mutex
	payloads  map[uint16]string
	reported  func()
	forgotten func(payload string)
}

func (store *reportingStore) Put(id uint16, kind byte, packet io.WriterTo) error {
	var written bytes.Buffer
	if _, err := packet.WriteTo(&written); err != nil {
		return err
	}
	if kind == packets.PUBLISH {
		read, err := packets.ReadPacket(bytes.NewReader(written.Bytes()))
		check(err)
		store.mutex.Lock()
		store.payloads[id] = string(read.Content.(*packets.Publish).Payload)
		store.mutex.Unlock()
	}
	return store.Store.Put(id, kind, &written)
}

func (store *reportingStore) Delete(id uint16) error {
	store.mutex.Lock()
	payload, isKnown := store.payloads[id]
	delete(store.payloads, id)
	store.mutex.Unlock()
	if isKnown {
		fmt.Println(payload)
		store.reported()
	}
	return store.Store.Delete(id)
}

// The library drops all packets when it connects and the server has no session. A program then publishes them again.
func (store *reportingStore) Reset() error {
	store.mutex.Lock()
	payloads := store.payloads
	store.payloads = map[uint16]string{}
	store.mutex.Unlock()
	for _, payload := range payloads {
		go store.forgotten(payload)
	}
	return store.Store.Reset()
}

func main() {
	qos, err := strconv.Atoi(os.Args[3])
	check(err)
	server, err := url.Parse("mqtt://127.0.0.1:" + os.Args[1])
	check(err)
	var unacknowledged sync.WaitGroup
	sent := &reportingStore{Store: memory.New(), payloads: map[uint16]string{}, reported: unacknowledged.Done}
	config := autopaho.ClientConfig{
		ServerUrls:            []*url.URL{server},
		KeepAlive:             20,
		SessionExpiryInterval: 3600,
		ReconnectBackoff:      autopaho.NewConstantBackoff(100 * time.Millisecond),
		ClientConfig:          paho.ClientConfig{ClientID: os.Args[2], Session: state.New(sent, memory.New())},
	}
	connection, err := autopaho.NewConnection(context.Background(), config)
	check(err)
	check(connection.AwaitConnection(context.Background()))
	publish := func(payload string) {
		packet := paho.Publish{Topic: os.Args[4], QoS: byte(qos), Payload: []byte(payload)}
		check(connection.PublishViaQueue(context.Background(), &autopaho.QueuePublish{Publish: &packet}))
	}
	sent.forgotten = publish
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		unacknowledged.Add(1)
		publish(lines.Text())
	}
	unacknowledged.Wait()
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
