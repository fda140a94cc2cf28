//! Mosquitto, the broker that everybody has, and its client `mosquitto_pub`.

use std::{
    fs::{self, File},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use rustix::process::Signal;
use tokio::{
    net::TcpStream,
    process::{Child, Command},
    time::{Instant, sleep, timeout},
};

use crate::{PATIENCE, free_port, signals};

/// A running Mosquitto that keeps sessions and their packets in its folder. Dropping it kills the process.
#[derive(Debug)]
pub struct Mosquitto {
    /// Where it listens.
    pub address: SocketAddr,
    folder: PathBuf,
    child: Child,
}

impl Mosquitto {
    /// Starts it on a free port, with more lines of configuration. It queues any number of packets for a client that is away.
    ///
    /// # Panics
    /// When it isn't installed, or doesn't start.
    pub async fn start(folder: &Path, more: &str) -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let location = folder.display();
        let configuration = format!(
            "user root\npersistence true\npersistence_location {location}/\nmax_queued_messages 0\nallow_anonymous true\n\
             listener {} 127.0.0.1\n{more}\n",
            address.port()
        );
        fs::write(folder.join("mosquitto.conf"), configuration).expect("the folder is writable");
        let child = spawn(folder);
        let mut this = Self { address, folder: folder.to_owned(), child };
        this.listens().await;
        this
    }

    /// Stops it: it writes down its sessions and ends.
    ///
    /// # Panics
    /// When it doesn't end.
    pub async fn stop(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        // It forgets a signal that comes before its main loop has begun.
        while let Some(id) = self.child.id() {
            assert!(Instant::now() < deadline, "it doesn't end");
            signals::signal(id, Signal::TERM);
            drop(timeout(Duration::from_secs(1), self.child.wait()).await);
        }
    }

    /// Starts it again where it was.
    ///
    /// # Panics
    /// When it doesn't start.
    pub async fn start_again(&mut self) {
        self.child = spawn(&self.folder);
        self.listens().await;
    }

    async fn listens(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(self.address).await.is_err() {
            let ended = self.child.try_wait().ok().flatten();
            let log = || fs::read_to_string(self.folder.join("mosquitto.log")).unwrap_or_default();
            assert!(ended.is_none() && Instant::now() < deadline, "it doesn't listen:\n{}", log());
            sleep(Duration::from_millis(10)).await;
        }
    }
}

fn spawn(folder: &Path) -> Child {
    let log = File::create(folder.join("mosquitto.log")).expect("the folder is writable");
    let mut command = Command::new(program());
    command.arg("-c").arg(folder.join("mosquitto.conf")).stdin(Stdio::null());
    command.stdout(log.try_clone().expect("a file can be shared")).stderr(log).kill_on_drop(true);
    command.spawn().expect("mosquitto is installed (Debian: apt-get install mosquitto)")
}

/// Debian puts it where only root's PATH looks.
fn program() -> &'static str {
    if Path::new("/usr/sbin/mosquitto").exists() { "/usr/sbin/mosquitto" } else { "mosquitto" }
}

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
