//! A broker that a test plays: it speaks MQTT's bytes and does nothing by itself, but answers pings.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    time::timeout,
};

use super::ProtocolVersion;
use crate::manual_queue::MUST_COME_WITHIN;

/// The size of sockets' buffers, so that a peer that isn't read soon can't write.
const BUFFER: u32 = 4096;

/// A listening broker.
pub(super) struct Broker {
    socket: TcpListener,
    version: ProtocolVersion,
}

/// A client that has sent CONNECT and waits for CONNACK.
pub(super) struct Connecting {
    stream: TcpStream,
    version: ProtocolVersion,
    connect: Vec<u8>,
}

/// A client that has subscribed.
pub(super) struct Session {
    stream: TcpStream,
    version: ProtocolVersion,
    /// CONNECT without its fixed header.
    pub(super) connect: Vec<u8>,
    /// Filters with their options.
    pub(super) subscribed: Vec<(String, u8)>,
}

impl Broker {
    pub(super) async fn listen(version: ProtocolVersion) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(BUFFER).unwrap();
        socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
        Self { socket: socket.listen(10).unwrap(), version }
    }

    pub(super) fn port(&self) -> u16 {
        self.socket.local_addr().unwrap().port()
    }

    /// Waits for a client, and takes its subscriptions.
    pub(super) async fn accept(&self, session_present: bool) -> Session {
        self.accept_without_answer().await.answer(session_present).await
    }

    pub(super) async fn accept_without_answer(&self) -> Connecting {
        let (mut stream, _) = self.socket.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        let packet = read_packet(&mut stream).await.expect("a client sends CONNECT");
        assert_eq!(packet[0], 0x10);
        Connecting { stream, version: self.version, connect: body(&packet).to_vec() }
    }
}

impl Connecting {
    /// Answers with CONNACK, reads SUBSCRIBE, and grants what it asks for.
    pub(super) async fn answer(self, session_present: bool) -> Session {
        self.answer_granting(session_present, &[1, 1]).await
    }

    pub(super) async fn answer_granting(mut self, session_present: bool, granted: &[u8]) -> Session {
        let flags = u8::from(session_present);
        let (connack, properties): (&[u8], &[u8]) =
            if self.version == ProtocolVersion::V5 { (&[0x20, 3, flags, 0, 0], &[0]) } else { (&[0x20, 2, flags, 0], &[]) };
        self.stream.write_all(connack).await.unwrap();
        let subscribe = timeout(MUST_COME_WITHIN, read_packet(&mut self.stream)).await.expect("it subscribes").expect("it subscribes");
        assert_eq!(subscribe[0], 0x82);
        let body = body(&subscribe);
        let suback = [&[0x90, u8::try_from(2 + properties.len() + granted.len()).unwrap()], &body[..2], properties, granted].concat();
        self.stream.write_all(&suback).await.unwrap();
        let subscribed = filters(&body[2 + properties.len()..]);
        Session { stream: self.stream, version: self.version, connect: self.connect, subscribed }
    }
}

impl Session {
    /// PUBLISH at QoS 1.
    pub(super) fn publish_bytes(&self, id: u16, topic: &str, payload: &[u8]) -> Vec<u8> {
        let properties: &[u8] = if self.version == ProtocolVersion::V5 { &[0] } else { &[] };
        let topic_length = u16::try_from(topic.len()).unwrap().to_be_bytes();
        let body = [&topic_length, topic.as_bytes(), &id.to_be_bytes(), properties, payload].concat();
        let length = body.len();
        let length = [u8::try_from(length & 0x7f).unwrap() | 0x80, u8::try_from(length >> 7).unwrap()];
        [&[0x32][..], &length, &body].concat()
    }

    pub(super) async fn publish(&mut self, id: u16, topic: &str, payload: &[u8]) {
        let packet = self.publish_bytes(id, topic, payload);
        self.send(&packet).await;
    }

    pub(super) async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// Sends, and ends the connection at once.
    pub(super) async fn send_and_close(mut self, bytes: &[u8]) {
        self.send(bytes).await;
    }

    /// A packet that isn't a ping; `None` at the end of the connection.
    pub(super) async fn read_packet(&mut self) -> Option<Vec<u8>> {
        loop {
            match read_packet(&mut self.stream).await {
                Some(packet) if packet[0] == 0xc0 => self.send(&[0xd0, 0]).await,
                packet => return packet,
            }
        }
    }

    /// The ids of the next PUBACKs.
    pub(super) async fn pubacks(&mut self, count: usize) -> Vec<u16> {
        let mut ids = Vec::new();
        while ids.len() < count {
            let packet = timeout(MUST_COME_WITHIN, self.read_packet()).await.expect("packets are acknowledged").expect("the client stays");
            assert_eq!(packet[0], 0x40, "{packet:x?}");
            ids.push(u16::from_be_bytes([packet[2], packet[3]]));
        }
        ids
    }

    /// What the client still sends until it closes the connection, without pings.
    pub(super) async fn rest(mut self) -> Vec<Vec<u8>> {
        let mut rest = Vec::new();
        while let Some(packet) = timeout(MUST_COME_WITHIN, self.read_packet()).await.expect("the client closes the connection") {
            rest.push(packet);
        }
        rest
    }

    /// Waits until the client has handled everything that was sent to it: a packet on a topic of the broker's own is acknowledged at once.
    pub(super) async fn until_answered(&mut self) {
        self.publish(65_535, "$SYS/x", b"").await;
        assert_eq!(self.pubacks(1).await, [65_535]);
    }
}

/// A whole packet; `None` at the end of the connection.
async fn read_packet(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut packet = vec![stream.read_u8().await.ok()?];
    let (mut length, mut place) = (0, 0);
    loop {
        let byte = stream.read_u8().await.ok()?;
        packet.push(byte);
        length |= usize::from(byte & 0x7f) << (7 * place);
        place += 1;
        if byte & 0x80 == 0 {
            break;
        }
    }
    let header = packet.len();
    packet.resize(header + length, 0);
    stream.read_exact(&mut packet[header..]).await.ok()?;
    Some(packet)
}

/// What stands behind the fixed header.
fn body(packet: &[u8]) -> &[u8] {
    let header = 2 + packet[1..].iter().take_while(|byte| **byte & 0x80 != 0).count();
    &packet[header..]
}

fn filters(mut bytes: &[u8]) -> Vec<(String, u8)> {
    let mut filters = Vec::new();
    while let [high, low, rest @ ..] = bytes {
        let (filter, rest) = rest.split_at(u16::from_be_bytes([*high, *low]).into());
        filters.push((String::from_utf8(filter.to_vec()).unwrap(), rest[0]));
        bytes = &rest[1..];
    }
    filters
}
