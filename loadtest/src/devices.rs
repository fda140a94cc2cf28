//! Devices that connect and stay, and publish nothing: a process of its own, since each of its sockets is a descriptor. It connects from several addresses,
//! because one address has no more than 28,000 ports.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    net::TcpSocket,
    process::Child,
    sync::Semaphore,
    task::JoinSet,
    time::sleep,
};
use tokio_rustls::TlsConnector;

use crate::{process, protocol::Version, tls};

/// The addresses that devices connect from: 127.1.0.1 and following.
const ADDRESSES: usize = 16;

/// The delay before a device whose connection failed connects again.
const RETRY_DELAY: Duration = Duration::from_millis(100);

/// Connected devices. Dropping them resets their connections.
pub(crate) struct Devices {
    /// How long it took until all had their CONNACK.
    pub(crate) took: Duration,
    /// How many connections failed and were made again.
    pub(crate) retries: usize,
    _process: Child,
}

/// Some of the devices, by their numbers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fleet {
    pub(crate) first: usize,
    pub(crate) count: usize,
    /// How many connect at once.
    pub(crate) at_once: usize,
}

impl Devices {
    /// Waits until all are connected. With TLS, the server's certificate is in a folder.
    pub(crate) async fn connect(server: SocketAddr, fleet: Fleet, tls_folder: Option<&Path>) -> Result<Self> {
        let numbers = [fleet.first, fleet.count, fleet.at_once].map(|number| number.to_string());
        let (server, tls_folder) = (server.to_string(), tls_folder.map(|folder| folder.display().to_string()));
        let mut arguments = vec!["devices", &server, &numbers[0], &numbers[1], &numbers[2]];
        arguments.extend(tls_folder.as_deref());
        let mut child = process::this(&arguments)?;
        let output = child.stdout.take().context("its output is piped")?;
        let line = BufReader::new(output).lines().next_line().await?.context("the devices can't connect")?;
        let (micros, retries) = line.split_once(' ').context("it prints two numbers")?;
        Ok(Self { took: Duration::from_micros(micros.parse()?), retries: retries.parse()?, _process: child })
    }
}

/// Connects all, prints how long it took and how many connections failed meanwhile, and stays.
pub(crate) async fn stay_connected(server: SocketAddr, fleet: Fleet, tls_folder: Option<PathBuf>) -> Result<()> {
    let connector = tls_folder.map(|folder| tls::connector(&folder, Version::Http1)).transpose()?;
    let (permits, retries) = (Arc::new(Semaphore::new(fleet.at_once)), Arc::new(AtomicUsize::new(0)));
    let (began, mut connecting) = (Instant::now(), JoinSet::new());
    for number in fleet.first..fleet.first + fleet.count {
        let (connector, permits, retries) = (connector.clone(), Arc::clone(&permits), Arc::clone(&retries));
        connecting.spawn(async move {
            let _permit = permits.acquire().await?;
            loop {
                match connect(server, number, connector.as_ref()).await {
                    Ok(stream) => return anyhow::Ok(stream),
                    Err(_) => retries.fetch_add(1, Ordering::Relaxed),
                };
                sleep(RETRY_DELAY).await;
            }
        });
    }
    let mut connected = Vec::with_capacity(fleet.count);
    while let Some(stream) = connecting.join_next().await {
        connected.push(stream??);
    }
    println!("{} {}", began.elapsed().as_micros(), retries.load(Ordering::Relaxed));
    std::future::pending().await
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// MQTT 3.1.1, without keep-alive: the listener waits for the device for ever.
async fn connect(server: SocketAddr, number: usize, tls: Option<&TlsConnector>) -> Result<Box<dyn Stream>> {
    let socket = TcpSocket::new_v4()?;
    let address = u8::try_from(1 + number % ADDRESSES)?;
    socket.bind(([127, 1, 0, address], 0).into())?;
    let tcp = socket.connect(server).await?;
    tcp.set_nodelay(true)?;
    let mut stream: Box<dyn Stream> = match tls {
        None => Box::new(tcp),
        Some(tls) => Box::new(tls.connect("127.0.0.1".try_into()?, tcp).await?),
    };
    let client_id = format!("device-{number:06}");
    let length = u8::try_from(client_id.len())?;
    stream.write_all(&[&[0x10, 12 + length][..], b"\x00\x04MQTT\x04\x02\x00\x00", &[0, length], client_id.as_bytes()].concat()).await?;
    let mut connack = [0; 4];
    stream.read_exact(&mut connack).await?;
    if connack != [0x20, 2, 0, 0] {
        bail!("the listener refused the device: {connack:x?}");
    }
    Ok(stream)
}
