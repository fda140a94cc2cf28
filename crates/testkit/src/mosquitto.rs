//! `mosquitto_pub`, the client of another make that everybody has.

use std::net::SocketAddr;

use tokio::process::Command;

/// Publishes with `mosquitto_pub` and more of its options. Returns whether it says that it worked, and what it says.
///
/// # Panics
/// When it isn't installed.
pub async fn mosquitto_pub(server: SocketAddr, options: &[&str]) -> (bool, String) {
    let port = server.port().to_string();
    let output = Command::new("mosquitto_pub").args(["-h", "127.0.0.1", "-p", &port]).args(options).output().await;
    let output = output.expect("mosquitto_pub is installed (Debian: apt-get install mosquitto-clients)");
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}
