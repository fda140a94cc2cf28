//! A name server (RFC 1035) on this machine for one Pushline: it knows `live.test`, and is silent about `dead.test`.

use std::{
    collections::HashSet,
    fs::{self, Permissions},
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::Command,
    sync::{Arc, Mutex},
    time::Duration,
};

use rustix::net::sockopt;
use tokio::{net::UdpSocket, task::JoinHandle, time::sleep};

/// The resolver's port; its configuration names no other (resolv.conf(5)).
const PORT: u16 = 53;

/// The type of an IPv4 address.
const A: u16 = 1;

/// Bytes of queries that wait in the server's socket.
const RECEIVE_BUFFER: usize = 16 << 20;

/// The length of a message's header.
const HEADER: usize = 12;

/// Such a server. Dropping it ends it.
pub(super) struct NameServer {
    address: Ipv4Addr,
    asked: Arc<Mutex<HashSet<String>>>,
    answering: JoinHandle<()>,
}

impl NameServer {
    /// On an address of this machine that no other test has. `None`: this process may not listen on port 53, or not mount.
    pub(super) async fn start() -> Option<Self> {
        let may_mount = Command::new("unshare").args(["--mount", "true"]).status().is_ok_and(|status| status.success());
        let address = Ipv4Addr::new(127, fastrand::u8(1..), fastrand::u8(..), fastrand::u8(1..255));
        let socket = UdpSocket::bind((address, PORT)).await.ok().filter(|_| may_mount)?;
        // All names are asked for at once, and the resolver repeats a query that is lost only after 30 s.
        sockopt::set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER)
            .or_else(|_| sockopt::set_socket_recv_buffer_size(&socket, RECEIVE_BUFFER))
            .unwrap();
        let asked = Arc::<Mutex<HashSet<String>>>::default();
        let answering = tokio::spawn(answer(socket, Arc::clone(&asked)));
        Some(Self { address, asked, answering })
    }

    /// A script that starts a program whose resolver asks this server: in a mount namespace of its own, another file stands in for
    /// `/etc/resolv.conf`. A lookup in a silent zone takes 150 s, the longest that resolv.conf(5) permits.
    pub(super) fn for_binary(&self, binary: &str, folder: &Path) -> String {
        let (configuration, script) = (folder.join("resolv.conf"), folder.join("with-name-server"));
        fs::write(&configuration, format!("nameserver {}\noptions timeout:30 attempts:5\n", self.address)).unwrap();
        let inner = format!("mount --bind {} /etc/resolv.conf && exec {binary} \"$@\"", configuration.display());
        fs::write(&script, format!("#!/bin/sh\nexec unshare --mount sh -c '{inner}' pushline \"$@\"\n")).unwrap();
        fs::set_permissions(&script, Permissions::from_mode(0o755)).unwrap();
        script.display().to_string()
    }

    /// Waits until it was asked for this many names of a zone.
    pub(super) async fn until_asked_for(&self, zone: &str, names: usize) {
        while self.asked.lock().unwrap().iter().filter(|name| name.ends_with(zone)).count() < names {
            sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.answering.abort();
    }
}

async fn answer(socket: UdpSocket, asked: Arc<Mutex<HashSet<String>>>) {
    let mut message = [0; 512];
    loop {
        // An answer to a process that has ended is refused.
        let Ok((length, client)) = socket.recv_from(&mut message).await else { continue };
        let Some((name, kind, end)) = question(&message[..length]) else { continue };
        let is_silent = name.ends_with("dead.test");
        let address = (kind == A && name.ends_with("live.test")).then_some(Ipv4Addr::LOCALHOST);
        asked.lock().unwrap().insert(name);
        if !is_silent {
            reply(&socket, client, &message[..end], address).await;
        }
    }
}

/// The name and the type of the first question, and where it ends (RFC 1035 §4.1.2).
fn question(message: &[u8]) -> Option<(String, u16, usize)> {
    let (mut name, mut at) = (Vec::new(), HEADER);
    while let length @ 1.. = usize::from(*message.get(at)?) {
        name.push(String::from_utf8_lossy(message.get(at + 1..at + 1 + length)?).to_lowercase());
        at += 1 + length;
    }
    let kind = u16::from_be_bytes([*message.get(at + 1)?, *message.get(at + 2)?]);
    (message.len() >= at + 5).then(|| (name.join("."), kind, at + 5))
}

/// Repeats the header and the question, and adds an address for 60 s if there is one (RFC 1035 §4.1.3).
async fn reply(socket: &UdpSocket, client: SocketAddr, asked: &[u8], address: Option<Ipv4Addr>) {
    let mut message = asked.to_vec();
    // A response of a server that also resolves; one question, and no records but the answer.
    (message[2], message[3]) = (message[2] | 0x84, 0x80);
    message[4..HEADER].copy_from_slice(&[0, 1, 0, u8::from(address.is_some()), 0, 0, 0, 0]);
    if let Some(address) = address {
        message.extend_from_slice(&[0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        message.extend_from_slice(&address.octets());
    }
    drop(socket.send_to(&message, client).await);
}
