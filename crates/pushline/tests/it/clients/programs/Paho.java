// paho Java. See ../publisher.rs for what each of these programs does.

import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.util.concurrent.atomic.AtomicInteger;
import org.eclipse.paho.client.mqttv3.IMqttActionListener;
import org.eclipse.paho.client.mqttv3.IMqttToken;
import org.eclipse.paho.client.mqttv3.MqttAsyncClient;
import org.eclipse.paho.client.mqttv3.MqttConnectOptions;
import org.eclipse.paho.client.mqttv3.MqttException;
import org.eclipse.paho.client.mqttv3.persist.MemoryPersistence;

class Paho {
    static final AtomicInteger unacknowledged = new AtomicInteger();

    public static void main(String[] arguments) throws Exception {
        int qos = Integer.parseInt(arguments[2]);
        var client = new MqttAsyncClient("tcp://127.0.0.1:" + arguments[0], arguments[1], new MemoryPersistence());
        var options = new MqttConnectOptions();
        options.setCleanSession(false);
        options.setAutomaticReconnect(true);
        options.setMaxReconnectDelay(1000);
        client.connect(options).waitForCompletion();

        var lines = new BufferedReader(new InputStreamReader(System.in));
        for (String line; (line = lines.readLine()) != null; ) {
            unacknowledged.incrementAndGet();
            while (!publish(client, arguments[3], line, qos)) Thread.sleep(1);
        }
        while (unacknowledged.get() > 0) Thread.sleep(1);
        System.exit(0);
    }

    /** Whether the client took it: it is connected, and its window of unacknowledged packets has space. Its buffer for times without a connection isn't used: it loses packets ("Token already in use"). */
    static boolean publish(MqttAsyncClient client, String topic, String line, int qos) throws MqttException {
        try {
            client.publish(topic, line.getBytes(), qos, false, null, listener(line));
            return true;
        } catch (MqttException exception) {
            int reason = exception.getReasonCode();
            if (reason == MqttException.REASON_CODE_MAX_INFLIGHT || reason == MqttException.REASON_CODE_CLIENT_NOT_CONNECTED) return false;
            throw exception;
        }
    }

    static IMqttActionListener listener(String line) {
        return new IMqttActionListener() {
            public void onSuccess(IMqttToken token) {
                System.out.println(line);
                unacknowledged.decrementAndGet();
            }

            /** The connection was lost. The library sends the packet again on the next one, and then there is success. */
            public void onFailure(IMqttToken token, Throwable cause) {}
        };
    }
}
