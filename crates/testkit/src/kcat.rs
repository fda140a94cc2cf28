//! `kcat`, a client of Kafka that knows nothing of Pushline.

use std::process::Stdio;

use tokio::{io::AsyncWriteExt, process::Command};

/// Runs `kcat` with options and something to read. Returns what it printed.
///
/// # Panics
/// With what it says, when it isn't installed or fails.
pub async fn kcat(brokers: &str, options: &[&str], input: &[u8]) -> Vec<u8> {
    let mut command = Command::new("kcat");
    command.args(["-q", "-b", brokers]).args(options).kill_on_drop(true);
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.expect("kcat is installed (Debian: apt-get install kcat)");
    let mut its_input = child.stdin.take().expect("it is piped");
    its_input.write_all(input).await.expect("it reads");
    drop(its_input);
    let output = child.wait_with_output().await.expect("it ends");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}
