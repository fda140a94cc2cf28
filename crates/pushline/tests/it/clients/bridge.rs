//! A Mosquitto that passes the packets of its devices on to Pushline, as a bridge.

use std::path::Path;

use pushline_testkit::Mosquitto;

/// Starts one in a version of the protocol, by Mosquitto's name. It keeps packets that Pushline hasn't acknowledged.
pub(super) async fn bridge(version: &str, pushline: u16, qos: u8, folder: &Path) -> Mosquitto {
    let lines = format!(
        "connection pushline\naddress 127.0.0.1:{pushline}\nbridge_protocol_version {version}\ntopic # out {qos}\n\
         cleansession false\nrestart_timeout 1\nnotifications false"
    );
    Mosquitto::start(folder, &lines).await
}
