//! The tables of docs/hostile-device.md about connections: slow and half-open clients, limits and rates, TLS, WebSocket, the PROXY protocol. The clock is
//! tokio's paused one, so a wait takes no time.

use std::{
    fmt::Write as _,
    io::{self, ErrorKind},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use pushline_ingest::Options;
use rustls::{
    AlertDescription, ClientConfig, RootCertStore,
    crypto::ring::default_provider,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{
    Listening, MUST_COME_WITHIN,
    authority::Authority,
    hostile::{Cell, PING, Version, answer, behind_connect, cells, connect, connect_of, first_packet, text},
    listen,
};

/// The sections of the page that this test plays.
const SECTIONS: [&str; 5] = ["Slow, silent and half-open", "Too many and too fast", "TLS", "WebSocket", "Load balancers"];

/// Longer than every timeout of the listener.
const LONG: Duration = Duration::from_hours(24);

const UPGRADE: &str = "GET /mqtt HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// The listener of a row, and the files that its clients use.
struct Scene {
    listening: Listening,
    authority: Authority,
}

impl Scene {
    async fn of(cell: &Cell) -> Self {
        let authority = Authority::new(&["right", "revoked", "expired"]);
        authority.revoke(&[1]);
        let define = |options: &mut Options| match (cell.section, cell.row.as_str()) {
            ("Too many and too fast", "connections") => options.limits.connections = 1,
            ("Too many and too fast", "connections-of-an-address") => options.limits.connections_per_address = 1,
            ("Too many and too fast", "connections-before-connect") => options.limits.handshakes = 1,
            ("Too many and too fast", "packets") => options.limits.packet_rate = Some("10/s".parse().unwrap()),
            ("Too many and too fast", "bytes") => options.limits.byte_rate = Some("1KiB/s".parse().unwrap()),
            ("TLS", "tls-without-tls") => {}
            ("TLS", row) => options.tls = Some(authority.files(!row.starts_with("plain") && row != "encrypted")),
            ("WebSocket", _) => options.websocket = true,
            ("Load balancers", _) => options.proxy_protocol = vec!["127.0.0.0/8".parse().unwrap()],
            _ => {}
        };
        let listening = listen(define).await;
        Self { listening, authority }
    }

    fn address(&self) -> SocketAddr {
        self.listening.address
    }

    async fn tcp(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address()).await.unwrap();
        // The paused clock doesn't wait for a byte that the system holds back.
        stream.set_nodelay(true).unwrap();
        stream
    }

    /// A client that was let in.
    async fn client(&self, version: Version) -> TcpStream {
        let mut stream = self.tcp().await;
        stream.write_all(&first_packet("connect", version)).await.unwrap();
        assert_eq!(answer(&mut stream, version).await, "CONNACK 0");
        stream
    }

    /// A TLS client of the listener's authority, with the certificate of this name.
    async fn tls(&self, certificate: Option<(&Authority, &str)>) -> io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.authority.path("ca.pem")).unwrap()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()));
        let builder = builder.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots);
        let config = match certificate {
            None => builder.with_no_client_auth(),
            Some((authority, name)) => {
                let chain = vec![CertificateDer::from_pem_file(authority.path(&format!("{name}.pem"))).unwrap()];
                let key = PrivateKeyDer::from_pem_file(authority.path(&format!("{name}.key"))).unwrap();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        };
        TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("localhost").unwrap(), self.tcp().await).await
    }

    async fn play(&self, cell: &Cell) -> String {
        match cell.section {
            "Slow, silent and half-open" => self.slow(&cell.row, cell.version).await,
            "Too many and too fast" => self.many(&cell.row, cell.version).await,
            "TLS" => self.encrypted(&cell.row, cell.version).await,
            "WebSocket" => self.websocket(&cell.row, cell.version).await,
            _ => self.balanced(&cell.row, cell.version).await,
        }
    }

    async fn slow(&self, row: &str, version: Version) -> String {
        let with_keep_alive = |seconds: u8| {
            let mut bytes = connect(version, 2, b"", &text(b"hostile"));
            bytes[11] = seconds;
            bytes
        };
        let (connect, publish) = (with_keep_alive(4), behind_connect("qos-1", version));
        let mut stream = self.tcp().await;
        match row {
            "nothing" => {}
            "half-a-connect" => stream.write_all(&connect[..connect.len() / 2]).await.unwrap(),
            "byte-by-byte" => {
                for byte in [&connect[..], &publish].concat() {
                    stream.write_all(&[byte]).await.unwrap();
                    sleep(Duration::from_millis(100)).await;
                }
                assert_eq!(answer(&mut stream, version).await, "CONNACK 0");
                return answer(&mut stream, version).await;
            }
            "slow-connect" => {
                for byte in connect {
                    drop(stream.write_all(&[byte]).await);
                    sleep(Duration::from_secs(1)).await;
                }
            }
            "silent" | "half-a-packet" => {
                let part = if row == "silent" { &[][..] } else { &publish[..publish.len() / 2] };
                stream.write_all(&[&connect[..], part].concat()).await.unwrap();
                assert_eq!(answer(&mut stream, version).await, "CONNACK 0");
            }
            "silent-without-keep-alive" => {
                stream.write_all(&with_keep_alive(0)).await.unwrap();
                assert_eq!(answer(&mut stream, version).await, "CONNACK 0");
                sleep(LONG).await;
                stream.write_all(PING).await.unwrap();
                return if answer(&mut stream, version).await == "PINGRESP" { "silence".into() } else { "closed".into() };
            }
            "half-closed" => {
                stream.write_all(&[&connect[..], &publish].concat()).await.unwrap();
                stream.shutdown().await.unwrap();
                assert_eq!(answer(&mut stream, version).await, "CONNACK 0");
                let first = answer(&mut stream, version).await;
                return format!("{first}, then {}", answer(&mut stream, version).await);
            }
            "reads-nothing" => {
                stream.write_all(&connect).await.unwrap();
                let pings = PING.repeat(32 << 10);
                while timeout(LONG, stream.write_all(&pings)).await.is_ok_and(|written| written.is_ok()) {}
                let is_gone = async {
                    while !self.listening.clients.devices.page(None, 1).is_empty() {
                        sleep(Duration::from_secs(1)).await;
                    }
                };
                return if timeout(LONG, is_gone).await.is_ok() { "closed".into() } else { "silence".into() };
            }
            _ => panic!("the row {row} isn't played"),
        }
        answer(&mut stream, version).await
    }

    async fn many(&self, row: &str, version: Version) -> String {
        let mut first = if row == "connections-before-connect" { self.tcp().await } else { self.client(version).await };
        let publish = behind_connect("qos-1", version);
        match row {
            "packets" | "bytes" => {
                first.write_all(&publish.repeat(100)).await.unwrap();
                for number in 0..100 {
                    let heard = answer(&mut first, version).await;
                    if heard != "PUBACK" {
                        return format!("{number} PUBACK, then {heard}");
                    }
                }
                "100 PUBACK".into()
            }
            _ => {
                // A connection is counted once it was accepted.
                let mut second = self.tcp().await;
                let heard = answer(&mut second, version).await;
                drop(first);
                heard
            }
        }
    }

    async fn encrypted(&self, row: &str, version: Version) -> String {
        let other = Authority::new(&["right"]);
        let hello = |highest: u8| {
            let body = [&[3, highest][..], &[7; 32], &[0, 0, 2, 0, 0x2f, 1, 0], &[0, 8, 0, 13, 0, 4, 0, 2, 4, 1]].concat();
            let length = u8::try_from(body.len()).unwrap();
            [&[22, 3, 1, 0, length + 4, 1, 0, 0, length][..], &body].concat()
        };
        let raw = match row {
            "plain" => Some(first_packet("connect", version)),
            "tls-without-tls" | "tls-1.1" => Some(hello(2)),
            "half-a-handshake" => Some(hello(3)[..20].to_vec()),
            "record-too-large" => Some([&[22, 3, 1, 0xff, 0xff][..], &[0; 100]].concat()),
            _ => None,
        };
        if let Some(raw) = raw {
            let mut stream = self.tcp().await;
            stream.write_all(&raw).await.unwrap();
            return last_words(&mut stream).await;
        }
        let certificate = match row {
            "encrypted" | "no-certificate" => None,
            "certificate" => Some((&self.authority, "right")),
            "certificate-of-another-authority" => Some((&other, "right")),
            "expired-certificate" => Some((&self.authority, "expired")),
            "revoked-certificate" => Some((&self.authority, "revoked")),
            _ => panic!("the row {row} isn't played"),
        };
        let mut stream = match self.tls(certificate).await {
            Ok(stream) => stream,
            Err(error) => return alert(&error),
        };
        drop(stream.write_all(&first_packet("connect", version)).await);
        match timeout(MUST_COME_WITHIN, stream.read_u8()).await.expect("the listener answers or closes") {
            Ok(0x20) => "CONNACK 0".into(),
            Ok(other) => format!("{other:#x}"),
            Err(error) => alert(&error),
        }
    }

    async fn websocket(&self, row: &str, version: Version) -> String {
        let connect = first_packet("connect", version);
        let upgrade = |headers: &str| format!("{UPGRADE}{headers}\r\n");
        let masked = |first: u8, payload: &[u8]| [&[first, 0x80 | u8::try_from(payload.len()).unwrap(), 0, 0, 0, 0][..], payload].concat();
        let (request, messages) = match row {
            "mqtt-without-websocket" => (String::new(), connect),
            "no-upgrade" => ("GET /mqtt HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), vec![]),
            "no-subprotocol" => (upgrade(""), vec![]),
            "other-subprotocol" => (upgrade("Sec-WebSocket-Protocol: chat\r\n"), vec![]),
            "one-of-several-subprotocols" => (upgrade("Sec-WebSocket-Protocol: chat, mqtt\r\n"), masked(0x82, &connect)),
            "endless-head" => (format!("{UPGRADE}X: {}", "x".repeat(100_000)), vec![]),
            "half-a-request" => (UPGRADE.to_owned(), vec![]),
            _ => {
                let messages = match row {
                    "text-message" => masked(0x81, b"text"),
                    "unmasked-message" => [&[0x82, u8::try_from(connect.len()).unwrap()][..], &connect].concat(),
                    "message-too-large" => b"\x82\xff\0\0\0\x01\0\0\0\0\0\0\0\0".to_vec(),
                    "reserved-opcode" => masked(0x83, b"x"),
                    "packet-over-two-messages" => [masked(0x82, &connect[..5]), masked(0x82, &connect[5..])].concat(),
                    "fragments" => [masked(0x02, &connect[..5]), masked(0x80, &connect[5..])].concat(),
                    "close" => masked(0x88, b""),
                    _ => panic!("the row {row} isn't played"),
                };
                (upgrade("Sec-WebSocket-Protocol: mqtt\r\n"), messages)
            }
        };
        let mut stream = self.tcp().await;
        drop(stream.write_all(request.as_bytes()).await);
        if !request.is_empty() && !messages.is_empty() {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(timeout(MUST_COME_WITHIN, stream.read_u8()).await.expect("the listener answers").unwrap());
            }
            assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
        }
        drop(stream.write_all(&messages).await);
        last_words(&mut stream).await
    }

    async fn balanced(&self, row: &str, version: Version) -> String {
        const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
        let connect = connect_of(b"MQTT", if version == Version::V3 { 4 } else { 5 }, 2, &first_packet("connect", version)[12..]);
        let header = match row {
            "no-header" => vec![],
            "version-1" => b"PROXY TCP4 192.0.2.7 10.0.0.1 4660 1883\r\n".to_vec(),
            "version-1-unknown" => b"PROXY UNKNOWN\r\n".to_vec(),
            "version-2" => [SIGNATURE, b"\x21\x11\0\x0c\xc0\0\x02\x07\x0a\0\0\x01\x12\x34\x07\x5b"].concat(),
            "version-2-health-check" => [SIGNATURE, b"\x20\0\0\0"].concat(),
            "malformed-header" => b"PROXY TCP4 here there 1 2\r\n".to_vec(),
            "header-too-long" => [&b"PROXY "[..], &[b'x'; 300]].concat(),
            "half-a-header" => b"PROXY TCP4".to_vec(),
            _ => panic!("the row {row} isn't played"),
        };
        let mut stream = self.tcp().await;
        stream.write_all(&if row == "half-a-header" { header } else { [header, connect].concat() }).await.unwrap();
        answer(&mut stream, version).await
    }
}

/// What a TLS client hears instead of an answer.
fn alert(error: &io::Error) -> String {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::AlertReceived(alert)) => format!("TLS alert {}", u8::from(*alert)),
        Some(other) => other.to_string(),
        None if matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => "closed".into(),
        None => error.to_string(),
    }
}

/// What is heard up to the end, or up to a CONNACK in a message of WebSocket.
async fn last_words(stream: &mut TcpStream) -> String {
    let mut heard = Vec::new();
    loop {
        let has_connack = heard.windows(4).any(|bytes: &[u8]| bytes[0] == 0x82 && bytes[2] == 0x20);
        match timeout(MUST_COME_WITHIN, stream.read_buf(&mut heard)).await.expect("the listener answers or closes") {
            Ok(1..) if !has_connack => {}
            _ => break,
        }
        if heard.windows(4).any(|bytes| bytes[0] == 0x82 && bytes[2] == 0x20) {
            return "CONNACK 0".into();
        }
    }
    match &heard[..] {
        [] => "closed".into(),
        [0x88, 0] => "close frame".into(),
        [21, 3, _, 0, 2, _, alert] => format!("TLS alert {}", u8::from(AlertDescription::from(*alert))),
        [b'H', b'T', b'T', b'P', ..] => format!("HTTP {}", String::from_utf8_lossy(&heard[9..12])),
        other => format!("{other:x?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn each_cell_about_connections_gets_its_answer() {
    let (mut wrong, mut count) = (String::new(), 0);
    for cell in cells().iter().filter(|cell| SECTIONS.contains(&cell.section)) {
        let heard = Scene::of(cell).await.play(cell).await;
        if heard != cell.answer {
            writeln!(wrong, "{}: {} in {:?}: {heard}, expected {}", cell.section, cell.row, cell.version, cell.answer).unwrap();
        }
        count += 1;
    }
    assert!(wrong.is_empty(), "\n{wrong}");
    assert!(count > 70, "{count}");
}
