"""paho Python. See ../publisher.rs for what each of these programs does."""

import queue
import sys
import threading

import paho.mqtt.client as mqtt

port, client_id, qos, topic = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4]
client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=client_id, clean_session=False)
client.reconnect_delay_set(min_delay=1, max_delay=1)
acknowledged = queue.SimpleQueue()
client.on_publish = lambda _client, _data, mid, _reason, _properties: acknowledged.put(mid)

published, has_changed = {}, threading.Condition()


def report():
    while True:
        mid = acknowledged.get()
        with has_changed:
            has_changed.wait_for(lambda: mid in published)
            print(published.pop(mid), flush=True)
            has_changed.notify_all()


client.connect("127.0.0.1", port)
client.loop_start()
threading.Thread(target=report, daemon=True).start()
for line in sys.stdin:
    payload = line.rstrip("\n")
    with has_changed:
        mid = client.publish(topic, payload, qos).mid
        published[mid] = payload
        has_changed.notify_all()
with has_changed:
    has_changed.wait_for(lambda: not published)
client.disconnect()
