// MQTT.js. See ../publisher.rs for what each of these programs does.

const mqtt = require("mqtt");
const readline = require("node:readline");

const [port, clientId, qos, topic] = process.argv.slice(2);
const options = { host: "127.0.0.1", port: Number(port), clientId, clean: false, reconnectPeriod: 100 };
const client = mqtt.connect(options);
// It connects again by itself.
client.on("error", () => {});

let unacknowledged = 0;
let atEnd = false;
const endIfDone = () => atEnd && unacknowledged === 0 && client.end();
const lines = readline.createInterface({ input: process.stdin });
const publish = (line) =>
  client.publish(topic, line, { qos: Number(qos) }, (error) => {
    // The connection broke while the library was sending older packets again: it has neither sent nor kept this one.
    if (error) return setTimeout(publish, 100, line);
    process.stdout.write(`${line}\n`);
    unacknowledged -= 1;
    endIfDone();
  });
lines.on("line", (line) => {
  unacknowledged += 1;
  publish(line);
});
lines.on("close", () => {
  atEnd = true;
  endIfDone();
});
