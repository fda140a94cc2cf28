//! A gateway that connects by MQTT 3.1.1, publishes at QoS 1 and counts its acknowledged packets.

use std::{io, net::SocketAddr};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// A connected gateway.
#[derive(Debug)]
pub struct Gateway {
    stream: TcpStream,
    /// Packets that were written and aren't acknowledged.
    outstanding: u64,
    acknowledged: u64,
    next_id: u16,
    received: Vec<u8>,
}

/// Why a gateway has failed. The server may have stored packets that it didn't acknowledge.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// The connection can't be made, or broke.
    #[error("the connection failed")]
    Io(#[from] io::Error),
    /// The server refused the connection with this return code (MQTT 3.1.1 §3.2.2.3).
    #[error("the server refused the connection with code {0}")]
    Refused(u8),
    /// The server sent a control packet of this type, which isn't CONNACK, PUBACK or PINGRESP.
    #[error("the server sent a packet of type {0}, which a gateway doesn't expect")]
    Unexpected(u8),
    /// A client id or topic name has more than 65,535 bytes (MQTT 3.1.1 §1.5.3).
    #[error("a client id or topic name of {0} bytes is longer than MQTT allows")]
    TooLong(usize),
}

/// Packets that may wait for their acknowledgement at once.
const WINDOW: u64 = 1000;

impl Gateway {
    /// Connects under a client id, with a keep-alive of 60 s.
    ///
    /// # Errors
    /// [`GatewayError`].
    pub async fn connect(server: SocketAddr, client_id: &str) -> Result<Self, GatewayError> {
        let mut stream = TcpStream::connect(server).await?;
        stream.set_nodelay(true)?;
        let mut connect = vec![0, 4];
        connect.extend_from_slice(b"MQTT\x04\x02\x00\x3c");
        push_text(&mut connect, client_id)?;
        stream.write_all(&with_header(0x10, &connect)).await?;
        let mut connack = [0; 4];
        stream.read_exact(&mut connack).await?;
        match connack {
            [0x20, 2, _, 0] => Ok(Self { stream, outstanding: 0, acknowledged: 0, next_id: 1, received: Vec::new() }),
            [0x20, 2, _, code] => Err(GatewayError::Refused(code)),
            [other, ..] => Err(GatewayError::Unexpected(other >> 4)),
        }
    }

    /// How many packets the server has acknowledged. It does so in the order of publishing.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// Publishes packets (topic and payload), and waits until the server has acknowledged all of them.
    ///
    /// # Errors
    /// [`GatewayError`]; [`Gateway::acknowledged`] counts the packets before it.
    pub async fn publish(&mut self, packets: &[(String, Vec<u8>)]) -> Result<(), GatewayError> {
        let mut written = Vec::new();
        for (topic, payload) in packets {
            self.push_publish(topic, payload, &mut written)?;
            if written.len() > 32 << 10 || self.outstanding >= WINDOW {
                self.stream.write_all(&written).await?;
                written.clear();
            }
            while self.outstanding >= WINDOW {
                self.read_acks().await?;
            }
        }
        self.stream.write_all(&written).await?;
        while self.outstanding > 0 {
            self.read_acks().await?;
        }
        Ok(())
    }

    /// Publishes one packet at QoS 0, which the server never acknowledges.
    ///
    /// # Errors
    /// [`GatewayError`].
    pub async fn publish_unacknowledged(&mut self, topic: &str, payload: &[u8]) -> Result<(), GatewayError> {
        let mut body = Vec::new();
        push_text(&mut body, topic)?;
        body.extend_from_slice(payload);
        Ok(self.stream.write_all(&with_header(0x30, &body)).await?)
    }

    fn push_publish(&mut self, topic: &str, payload: &[u8], into: &mut Vec<u8>) -> Result<(), GatewayError> {
        let mut body = Vec::with_capacity(topic.len() + payload.len() + 4);
        push_text(&mut body, topic)?;
        body.extend_from_slice(&self.next_id.to_be_bytes());
        body.extend_from_slice(payload);
        into.extend_from_slice(&with_header(0x32, &body));
        self.next_id = self.next_id.checked_add(1).unwrap_or(1);
        self.outstanding += 1;
        Ok(())
    }

    async fn read_acks(&mut self) -> Result<(), GatewayError> {
        if self.stream.read_buf(&mut self.received).await? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        let mut rest = self.received.as_slice();
        loop {
            match rest {
                [0x40, 2, _, _, after @ ..] => {
                    self.acknowledged += 1;
                    self.outstanding -= 1;
                    rest = after;
                }
                [0xd0, 0, after @ ..] => rest = after,
                [0x40] | [0x40, 2] | [0x40, 2, _] | [0xd0] | [] => break,
                [other, ..] => return Err(GatewayError::Unexpected(other >> 4)),
            }
        }
        let used = self.received.len() - rest.len();
        self.received.drain(..used);
        Ok(())
    }
}

fn push_text(into: &mut Vec<u8>, text: &str) -> Result<(), GatewayError> {
    let length = u16::try_from(text.len()).map_err(|_| GatewayError::TooLong(text.len()))?;
    into.extend_from_slice(&length.to_be_bytes());
    into.extend_from_slice(text.as_bytes());
    Ok(())
}

/// A control packet: its first byte, its length as MQTT writes it (MQTT 3.1.1 §2.2.3), and its rest.
fn with_header(first: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = Vec::with_capacity(body.len() + 5);
    packet.push(first);
    let mut length = body.len();
    while length > 0x7f {
        packet.push(seven_bits(length) | 0x80);
        length >>= 7;
    }
    packet.push(seven_bits(length));
    packet.extend_from_slice(body);
    packet
}

fn seven_bits(length: usize) -> u8 {
    u8::try_from(length & 0x7f).expect("seven bits fit into a byte")
}
