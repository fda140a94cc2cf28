//! A TCP proxy that harms what passes through it: it delays, throttles, stalls, half-closes and cuts, each direction for itself.
//!
//! A test sets a fault while connections live. It takes effect at once, on all of them and on new ones.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::sleep,
};

/// The most that the proxy holds of a direction, in bytes.
const CHUNK: usize = 16 << 10;

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the server.
    ToServer,
    /// From the server to the client.
    ToClient,
}

/// What happens to the bytes of a direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing: they pass.
    None,
    /// They pass this much later.
    Delay(Duration),
    /// This many pass each second.
    Throttle(u32),
    /// None passes, and the connection stays.
    Stall,
    /// The direction ends after this many bytes of a connection, counted from its begin; the other one stays.
    HalfClose {
        /// How many pass.
        after: usize,
    },
    /// The connection is reset after this many bytes of the direction, counted from its begin.
    Cut {
        /// How many pass.
        after: usize,
    },
}

/// Such a proxy, on a free port. Dropping it closes the socket and its connections.
#[derive(Debug)]
pub struct ChaosProxy {
    address: SocketAddr,
    to_server: watch::Sender<Fault>,
    to_client: watch::Sender<Fault>,
    accepting: JoinHandle<()>,
}

/// A connection ends at once, in both directions: a fault cut it, or one of its ends reset it, which passes on.
struct Cut;

impl ChaosProxy {
    /// Listens, and connects each client to the server.
    ///
    /// # Panics
    /// When no port is free.
    pub async fn start(server: SocketAddr) -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = socket.local_addr().expect("it is bound");
        let (to_server, to_client) = (watch::Sender::new(Fault::None), watch::Sender::new(Fault::None));
        let (up, down) = (to_server.clone(), to_client.clone());
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = socket.accept().await {
                let (up, down) = (up.subscribe(), down.subscribe());
                // A connection's end is what it is about.
                connections.spawn(async move { drop(relay(client, server, up, down).await) });
            }
        });
        Self { address, to_server, to_client, accepting }
    }

    /// Its address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Harms a direction from now on; the other one stays as it is.
    pub fn set(&self, direction: Direction, fault: Fault) {
        match direction {
            Direction::ToServer => self.to_server.send_replace(fault),
            Direction::ToClient => self.to_client.send_replace(fault),
        };
    }
}

impl Drop for ChaosProxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn relay(mut client: TcpStream, server: SocketAddr, up: watch::Receiver<Fault>, down: watch::Receiver<Fault>) -> io::Result<()> {
    let mut server = TcpStream::connect(server).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let ended = {
        let ((client_read, client_write), (server_read, server_write)) = (client.split(), server.split());
        tokio::try_join!(pass(client_read, server_write, up), pass(server_read, client_write, down))
    };
    if ended.is_err() {
        client.set_zero_linger()?;
        server.set_zero_linger()?;
    }
    Ok(())
}

/// Passes one direction on until it ends.
async fn pass(mut read: ReadHalf<'_>, mut write: WriteHalf<'_>, mut fault: watch::Receiver<Fault>) -> Result<(), Cut> {
    let (mut buffer, mut passed) = (vec![0; CHUNK], 0);
    loop {
        let current = *fault.borrow_and_update();
        let most = match current {
            Fault::Stall => {
                changed(&mut fault).await;
                continue;
            }
            Fault::HalfClose { after } if passed >= after => return Ok(write.shutdown().await?),
            Fault::Cut { after } if passed >= after => return Err(Cut),
            Fault::HalfClose { after } | Fault::Cut { after } => (after - passed).min(CHUNK),
            Fault::Throttle(each_second) => (each_second as usize / 20).clamp(1, CHUNK),
            Fault::None | Fault::Delay(_) => CHUNK,
        };
        let count = tokio::select! {
            // What was set first counts first.
            biased;
            () = changed(&mut fault) => continue,
            count = read.read(&mut buffer[..most]) => count?,
        };
        if count == 0 {
            return Ok(write.shutdown().await?);
        }
        match current {
            Fault::Delay(by) => sleep(by).await,
            Fault::Throttle(each_second) => sleep(Duration::from_secs_f64(count as f64 / f64::from(each_second.max(1)))).await,
            _ => {}
        }
        write.write_all(&buffer[..count]).await?;
        passed += count;
    }
}

impl From<io::Error> for Cut {
    fn from(_: io::Error) -> Self {
        Self
    }
}

/// Until a fault is set. Once the proxy is dropped, none is.
async fn changed(fault: &mut watch::Receiver<Fault>) {
    if fault.changed().await.is_err() {
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, timeout};

    use super::*;

    /// Longer than anything on a busy machine.
    const LONG: Duration = Duration::from_secs(60);

    /// A time in which what may not happen would have happened.
    const MOMENT: Duration = Duration::from_millis(200);

    /// A proxy with a connection through it: the client's end and the server's.
    async fn connected() -> (ChaosProxy, TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = ChaosProxy::start(listener.local_addr().unwrap()).await;
        let (client, accepted) = tokio::join!(TcpStream::connect(proxy.address()), listener.accept());
        (proxy, client.unwrap(), accepted.unwrap().0)
    }

    async fn read(stream: &mut TcpStream, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        timeout(LONG, stream.read_exact(&mut bytes)).await.unwrap().unwrap();
        bytes
    }

    #[tokio::test]
    async fn without_a_fault_bytes_and_ends_pass_in_both_directions() {
        let (_proxy, mut client, mut server) = connected().await;
        client.write_all(b"request").await.unwrap();
        client.shutdown().await.unwrap();
        assert_eq!(read(&mut server, 7).await, b"request");
        assert_eq!(timeout(LONG, server.read(&mut [0])).await.unwrap().unwrap(), 0);
        server.write_all(b"response").await.unwrap();
        drop(server);
        assert_eq!(read(&mut client, 8).await, b"response");
        assert_eq!(timeout(LONG, client.read(&mut [0])).await.unwrap().unwrap(), 0);
    }

    #[tokio::test]
    async fn a_delay_holds_one_direction_and_not_the_other() {
        let (proxy, mut client, mut server) = connected().await;
        proxy.set(Direction::ToClient, Fault::Delay(MOMENT * 2));
        client.write_all(b"request").await.unwrap();
        assert_eq!(read(&mut server, 7).await, b"request");
        let sent = Instant::now();
        server.write_all(b"late").await.unwrap();
        assert_eq!(read(&mut client, 4).await, b"late");
        assert!(sent.elapsed() >= MOMENT * 2);
    }

    #[tokio::test]
    async fn a_throttle_lets_so_many_bytes_pass_each_second() {
        let (proxy, mut client, mut server) = connected().await;
        proxy.set(Direction::ToServer, Fault::Throttle(10_000));
        let sent = Instant::now();
        client.write_all(&[b'x'; 5_000]).await.unwrap();
        read(&mut server, 5_000).await;
        assert!(sent.elapsed() >= Duration::from_millis(450), "{:?}", sent.elapsed());
    }

    #[tokio::test]
    async fn a_stall_ends_when_it_is_taken_away_and_loses_nothing() {
        let (proxy, mut client, mut server) = connected().await;
        proxy.set(Direction::ToServer, Fault::Stall);
        client.write_all(b"stalled").await.unwrap();
        assert!(timeout(MOMENT, server.read(&mut [0])).await.is_err());
        server.write_all(b"flows").await.unwrap();
        assert_eq!(read(&mut client, 5).await, b"flows");
        proxy.set(Direction::ToServer, Fault::None);
        assert_eq!(read(&mut server, 7).await, b"stalled");
    }

    #[tokio::test]
    async fn a_half_close_ends_one_direction_in_its_middle_and_leaves_the_other() {
        let (proxy, mut client, mut server) = connected().await;
        proxy.set(Direction::ToClient, Fault::HalfClose { after: 4 });
        server.write_all(b"HTTP/1.1 200 OK").await.unwrap();
        assert_eq!(read(&mut client, 4).await, b"HTTP");
        assert_eq!(timeout(LONG, client.read(&mut [0])).await.unwrap().unwrap(), 0);
        client.write_all(b"still").await.unwrap();
        assert_eq!(read(&mut server, 5).await, b"still");
    }

    #[tokio::test]
    async fn a_cut_resets_both_ends_after_its_bytes() {
        let (proxy, mut client, mut server) = connected().await;
        proxy.set(Direction::ToServer, Fault::Cut { after: 3 });
        client.write_all(b"request").await.unwrap();
        assert_eq!(read(&mut server, 3).await, b"req");
        for end in [&mut client, &mut server] {
            let error = timeout(LONG, end.read(&mut [0])).await.unwrap().unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        }
    }

    #[tokio::test]
    async fn a_fault_that_is_set_later_counts_for_connections_that_live() {
        let (proxy, mut client, mut server) = connected().await;
        client.write_all(b"fine").await.unwrap();
        assert_eq!(read(&mut server, 4).await, b"fine");
        proxy.set(Direction::ToServer, Fault::Cut { after: 0 });
        assert!(timeout(LONG, server.read(&mut [0])).await.unwrap().is_err());
    }
}
