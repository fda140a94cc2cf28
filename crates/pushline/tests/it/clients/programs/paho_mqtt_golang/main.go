// The older client of Go. See ../../publisher.rs for what each of these programs does.
package main

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/eclipse/paho.mqtt.golang/packets"
)

// What the client has sent and the server hasn't acknowledged. The library deletes a packet when it is acknowledged. Its tokens say less: one fails when the
// connection breaks, though the library sends the packet again.
type reportingStore struct {
	*mqtt.MemoryStore
	mutex    sync.Mutex
	payloads map[string]string
	reported func()
}

func (store *reportingStore) Put(key string, packet packets.ControlPacket) {
	if publish, isPublish := packet.(*packets.PublishPacket); isPublish {
		store.mutex.Lock()
		store.payloads[key] = string(publish.Payload)
		store.mutex.Unlock()
	}
	store.MemoryStore.Put(key, packet)
}

func (store *reportingStore) Del(key string) {
	store.mutex.Lock()
	payload, isKnown := store.payloads[key]
	delete(store.payloads, key)
	store.mutex.Unlock()
	if isKnown {
		fmt.Println(payload)
		store.reported()
	}
	store.MemoryStore.Del(key)
}

func main() {
	qos, err := strconv.Atoi(os.Args[3])
	check(err)
	var unacknowledged sync.WaitGroup
	sent := &reportingStore{MemoryStore: mqtt.NewMemoryStore(), payloads: map[string]string{}, reported: unacknowledged.Done}
	options := mqtt.NewClientOptions().AddBroker("tcp://127.0.0.1:" + os.Args[1]).SetClientID(os.Args[2]).SetStore(sent)
	options.SetCleanSession(false).SetMaxReconnectInterval(200 * time.Millisecond)
	client := mqtt.NewClient(options)
	token := client.Connect()
	token.Wait()
	check(token.Error())
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		unacknowledged.Add(1)
		client.Publish(os.Args[4], byte(qos), false, lines.Text())
	}
	unacknowledged.Wait()
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
