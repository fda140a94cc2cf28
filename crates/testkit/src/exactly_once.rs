//! A device that publishes at QoS 2 and has a session: it sends again what isn't acknowledged to its end, as MQTT 3.1.1 §4.4 wants it.

use std::{collections::VecDeque, io, net::SocketAddr};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::PATIENCE;

/// The device, connected or not.
#[derive(Debug)]
pub struct ExactlyOnceDevice {
    client_id: String,
    topic: String,
    stream: Option<TcpStream>,
    /// Whether the server has a session. `None`: a CONNECT got no answer.
    has_session: Option<bool>,
    unfinished: VecDeque<Unfinished>,
    next_id: u16,
    resent: usize,
}

#[derive(Debug)]
struct Unfinished {
    id: u16,
    payload: String,
    /// PUBREC has come: PUBREL is what has to be sent.
    is_received: bool,
}

/// An answer of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// PUBREC.
    Received(u16),
    /// PUBCOMP.
    Complete(u16),
}

impl ExactlyOnceDevice {
    /// A device that was never connected. It publishes to one topic.
    #[must_use]
    pub fn new(client_id: &str, topic: &str) -> Self {
        let (client_id, topic) = (client_id.to_owned(), topic.to_owned());
        Self { client_id, topic, stream: None, has_session: Some(false), unfinished: VecDeque::new(), next_id: 0, resent: 0 }
    }

    /// How many packets aren't acknowledged to their end.
    #[must_use]
    pub fn unfinished(&self) -> usize {
        self.unfinished.len()
    }

    /// How many PUBLISHes were sent again.
    #[must_use]
    pub fn resent(&self) -> usize {
        self.resent
    }

    /// Connects, and sends again what isn't acknowledged to its end.
    ///
    /// # Errors
    /// The connection can't be made, or breaks.
    ///
    /// # Panics
    /// When the server has forgotten the session, or has one that it can't have.
    pub async fn connect(&mut self, server: SocketAddr) -> io::Result<()> {
        let mut stream = TcpStream::connect(server).await?;
        let had_session = self.has_session;
        self.has_session = had_session.filter(|had_session| *had_session);
        let id = self.client_id.as_bytes();
        let length = |length: usize| u8::try_from(length).expect("the client id is short");
        let connect = [&[0x10, length(12 + id.len())], &b"\0\x04MQTT\x04\0\0\x3c\0"[..], &[length(id.len())], id].concat();
        stream.write_all(&connect).await?;
        let mut connack = [0; 4];
        stream.read_exact(&mut connack).await?;
        assert_eq!((connack[0], connack[3]), (0x20, 0), "{connack:x?}");
        let is_present = connack[2] == 1;
        assert!(had_session.is_none_or(|had_session| had_session == is_present), "session present of {}: {is_present}", self.client_id);
        self.has_session = Some(true);
        let again: Vec<u8> = self.unfinished.iter().flat_map(|packet| self.bytes(packet, true)).collect();
        self.resent += self.unfinished.iter().filter(|packet| !packet.is_received).count();
        stream.write_all(&again).await?;
        self.stream = Some(stream);
        Ok(())
    }

    /// The same unless it is connected.
    ///
    /// # Errors
    /// As [`ExactlyOnceDevice::connect`].
    ///
    /// # Panics
    /// Likewise.
    pub async fn connect_if_away(&mut self, server: SocketAddr) -> io::Result<()> {
        if self.stream.is_some() { Ok(()) } else { self.connect(server).await }
    }

    /// Publishes a packet, now or on the next connection.
    pub async fn publish(&mut self, payload: &str) {
        self.next_id = self.next_id % u16::MAX + 1;
        let packet = Unfinished { id: self.next_id, payload: payload.to_owned(), is_received: false };
        let bytes = self.bytes(&packet, false);
        self.unfinished.push_back(packet);
        self.write(&bytes).await;
    }

    /// Sends PUBREL for a packet whose PUBREC has come.
    pub async fn release(&mut self, id: u16) {
        let [high, low] = id.to_be_bytes();
        self.write(&[0x62, 2, high, low]).await;
    }

    /// Waits for the next answer, and takes note of it. A broken connection ends here. Not cancel safe: a caller that stops waiting closes the connection.
    ///
    /// # Errors
    /// The connection broke, or there is none.
    ///
    /// # Panics
    /// When another packet comes, or none in a long time.
    pub async fn answer(&mut self) -> io::Result<Answer> {
        let stream = self.stream.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        let mut bytes = [0; 4];
        if let Err(error) = timeout(PATIENCE, stream.read_exact(&mut bytes)).await.expect("the server answers or closes") {
            self.stream = None;
            return Err(error);
        }
        let id = u16::from_be_bytes([bytes[2], bytes[3]]);
        assert!(matches!(bytes[..2], [0x50 | 0x70, 2]), "an unexpected packet: {bytes:x?}");
        if bytes[0] == 0x50 {
            self.unfinished.iter_mut().filter(|packet| packet.id == id).for_each(|packet| packet.is_received = true);
            return Ok(Answer::Received(id));
        }
        self.unfinished.retain(|packet| packet.id != id);
        Ok(Answer::Complete(id))
    }

    /// Answers each PUBREC until every packet is acknowledged to its end.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn finish(&mut self) -> io::Result<()> {
        while !self.unfinished.is_empty() {
            if let Answer::Received(id) = self.answer().await? {
                self.release(id).await;
            }
        }
        Ok(())
    }

    /// Names the next packets by the ids of packets that are acknowledged to their end.
    pub fn reuse_ids(&mut self) {
        self.next_id = self.unfinished.iter().map(|packet| packet.id).max().unwrap_or(0);
    }

    /// Closes the connection without a word.
    pub fn vanish(&mut self) {
        self.stream = None;
    }

    /// A connection that breaks is noticed when the next answer is read.
    async fn write(&mut self, bytes: &[u8]) {
        if let Some(stream) = &mut self.stream {
            drop(stream.write_all(bytes).await);
        }
    }

    fn bytes(&self, Unfinished { id, payload, is_received }: &Unfinished, again: bool) -> Vec<u8> {
        let [high, low] = id.to_be_bytes();
        if *is_received {
            return vec![0x62, 2, high, low];
        }
        let first = if again { 0x3c } else { 0x34 };
        let length = |length: usize| u8::try_from(length).ok().filter(|length| *length < 0x80).expect("topic and payload are short");
        let (topic, payload) = (self.topic.as_bytes(), payload.as_bytes());
        [&[first, length(4 + topic.len() + payload.len()), 0, length(topic.len())], topic, &[high, low], payload].concat()
    }
}
