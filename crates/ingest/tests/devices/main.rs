//! The listener on real sockets, with a queue in memory: what docs/listeners.md and docs/hostile-device.md promise.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that panics has failed, as it should")]

mod authority;
mod conversations;
mod hostile;
mod hostile_connections;
mod logins;
mod security;
mod sessions;
mod wills;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use pushline_ingest::{Clients, Ingest, Listener, Options};
use pushline_model::{RegistryBuilder, Webhook};
use pushline_queue::{Queue, memory::Memory};
use tokio::{io::AsyncReadExt, sync::watch, time::timeout};

/// How long a test waits for what must come.
const MUST_COME_WITHIN: Duration = Duration::from_secs(60);

/// A running listener. It ends with the test.
struct Listening {
    address: SocketAddr,
    clients: Arc<Clients>,
    queue: Arc<dyn Queue>,
    stop: watch::Sender<bool>,
}

/// Starts a listener whose queue has a group for each ICCID of organisation `mti`.
async fn listen(define: impl FnOnce(&mut Options)) -> Listening {
    listen_on(Memory::new(), define).await
}

/// The same on another queue.
async fn listen_on(queue: Arc<dyn Queue>, define: impl FnOnce(&mut Options)) -> Listening {
    let mut registry = RegistryBuilder::default();
    registry.webhook(Webhook::new("w", "http://a.example/".parse().unwrap())).unwrap();
    registry.group("mti/line".parse().unwrap(), Some("w"), true).unwrap();
    let mut options = Options::new(([127, 0, 0, 1], 0).into(), vec!["{org}/{iccid}".parse().unwrap()]);
    define(&mut options);
    let (stop, stopped) = watch::channel(false);
    let registry = Arc::new(ArcSwap::from_pointee(registry.build()));
    let ingest = Ingest::new(Arc::clone(&queue), registry, Ingest::UNACKNOWLEDGED_BYTES, stopped);
    let clients = Arc::new(Clients::default());
    let listener = Listener::bind(options, ingest, Arc::clone(&clients)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(listener.run());
    Listening { address, clients, queue, stop }
}

impl Listening {
    /// How many packets the queue has.
    async fn packets(&self) -> usize {
        let partition = Arc::clone(&self.queue.partitions().borrow()[0]);
        let (mut at, mut packets, mut reader) = (0, 0, partition.reader(0));
        while at < partition.end() {
            let frame = reader.next().await.unwrap();
            packets += frame.records(at).filter(|(_, record)| record.as_packet().is_some()).count();
            at = frame.end();
        }
        packets
    }
}

/// Reads a packet: its first byte, and what follows the fixed header; `None` where the connection is closed instead.
async fn read_packet(stream: &mut (impl AsyncReadExt + Unpin)) -> Option<(u8, Vec<u8>)> {
    let packet = async {
        let first = stream.read_u8().await.ok()?;
        let mut length = 0;
        for place in 0.. {
            let byte = stream.read_u8().await.ok()?;
            length |= usize::from(byte & 0x7f) << (7 * place);
            if byte & 0x80 == 0 {
                break;
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.ok()?;
        Some((first, body))
    };
    timeout(MUST_COME_WITHIN, packet).await.expect("the listener answers or closes")
}
