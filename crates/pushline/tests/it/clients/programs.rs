//! The client programs: most are small programs around a library, in `programs/`.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use super::publisher::payload;
use crate::packages;

/// The topic that all publish to.
pub(super) const TOPIC: &str = "mti/1";

/// A client.
pub(super) struct Client {
    pub(super) name: &'static str,
    /// What makes or finds its program, which takes port, client id, QoS and topic behind these arguments.
    program: fn(&Path) -> Command,
    /// What the program prints when a packet is acknowledged, as the packet's payload.
    pub(super) acknowledged: fn(&str) -> Option<String>,
    /// Whether arguments are options of `mosquitto_pub`.
    is_mosquitto_pub: bool,
}

impl Client {
    /// The command that publishes to a port of this machine. The folder is the test's own.
    pub(super) fn command(&self, port: u16, qos: u8, folder: &Path) -> Command {
        let mut command = (self.program)(folder);
        let (port, qos) = (port.to_string(), qos.to_string());
        if self.is_mosquitto_pub {
            command.args(["-p", &port, "-i", self.name, "-q", &qos, "-t", TOPIC]);
        } else {
            command.args([&port, self.name, &qos, TOPIC]);
        }
        command
    }
}

/// A program that prints the payload of each acknowledged packet.
const fn printing(name: &'static str, program: fn(&Path) -> Command) -> Client {
    Client { name, program, acknowledged: |line| Some(line.to_owned()), is_mosquitto_pub: false }
}

/// `mosquitto_pub` with a session that outlives a connection. Its packet ids count its packets from 1.
pub(super) const MOSQUITTO_PUB: Client = Client {
    name: "mosquitto_pub",
    program: |_| {
        // It writes its lines at once only where it is told to.
        let mut command = Command::new("stdbuf");
        command.args(["-oL", "mosquitto_pub", "-h", "127.0.0.1", "-c", "-d", "-l"]);
        command
    },
    acknowledged: |line| {
        let (_, rest) = line.split_once("received PUBACK (Mid: ").or_else(|| line.split_once("received PUBCOMP (Mid: "))?;
        let id: usize = rest.split([',', ')']).next()?.parse().ok()?;
        Some(payload(id - 1))
    },
    is_mosquitto_pub: true,
};

pub(super) const PAHO_PYTHON: Client = printing("paho_python", |folder| {
    let mut command = Command::new("python3");
    command.arg(written(folder, "paho_python.py", include_str!("programs/paho_python.py")));
    command.env("PYTHONPATH", packages::of_pypi(&["paho-mqtt==2.2.0"]));
    command
});

pub(super) const PAHO_JAVA: Client = printing("paho_java", |folder| {
    let mut command = Command::new("java");
    command.args(["-cp", &packages::of_maven("org.eclipse.paho", "org.eclipse.paho.client.mqttv3", "1.2.5")]);
    command.arg(written(folder, "Paho.java", include_str!("programs/Paho.java")));
    command
});

pub(super) const MQTT_JS: Client = printing("mqtt_js", |folder| {
    let mut command = Command::new("node");
    command.arg(written(folder, "mqtt.js", include_str!("programs/mqtt.js"))).env("NODE_PATH", packages::of_npm(&["mqtt@5.16.0"]));
    command
});

pub(super) const PAHO_GOLANG: Client = printing("paho_golang", |_| {
    Command::new(packages::go_module(&[
        ("main.go", include_str!("programs/paho_golang/main.go")),
        ("go.mod", include_str!("programs/paho_golang/go.mod")),
        ("go.sum", include_str!("programs/paho_golang/go.sum")),
    ]))
});

pub(super) const PAHO_MQTT_GOLANG: Client = printing("paho_mqtt_golang", |_| {
    Command::new(packages::go_module(&[
        ("main.go", include_str!("programs/paho_mqtt_golang/main.go")),
        ("go.mod", include_str!("programs/paho_mqtt_golang/go.mod")),
        ("go.sum", include_str!("programs/paho_mqtt_golang/go.sum")),
    ]))
});

fn written(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path
}
