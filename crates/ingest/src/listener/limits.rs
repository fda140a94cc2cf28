//! The limits of a listener, and how many connections it has: in all, from one address, and before CONNECT. Pure.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use pushline_model::{ByteRate, Rate};

use super::DisconnectReason;

/// The limits of a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Connections in all.
    pub connections: usize,
    /// Connections from one address.
    pub connections_per_address: usize,
    /// Connections whose CONNECT hasn't come yet.
    pub handshakes: usize,
    /// How often a connection is accepted; `None`: as often as one comes. Beyond it, clients wait.
    pub connect_rate: Option<Rate>,
    /// The longest client id, in bytes.
    pub client_id_bytes: usize,
    /// Bytes of all clients' wills. Beyond it, a CONNECT with a will is refused.
    pub will_bytes: usize,
    /// Bytes of one connection that aren't durable yet. Beyond it, that socket isn't read.
    pub unacknowledged_bytes: usize,
    /// Packets at QoS 1 and 2 of one connection whose last acknowledgement hasn't left (MQTT 5 §3.2.2.3.3). MQTT 3.1.1 has no such limit.
    pub receive_maximum: u16,
    /// How long a session may live after its connection. Zero: every session ends with its connection.
    pub session_expiry: Duration,
    /// While the queue keeps this many sessions, a client without one gets a session that ends with its connection.
    pub sessions: usize,
    /// Control packets of one connection; `None`: as many as come. Beyond it, that socket isn't read.
    pub packet_rate: Option<Rate>,
    /// The same for bytes of MQTT.
    pub byte_rate: Option<ByteRate>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 1_000_000,
            connections_per_address: 1_000_000,
            handshakes: 10_000,
            connect_rate: None,
            client_id_bytes: 256,
            will_bytes: 256 << 20,
            unacknowledged_bytes: 16 << 20,
            receive_maximum: u16::MAX,
            session_expiry: Duration::from_hours(7 * 24),
            sessions: 1_000_000,
            packet_rate: None,
            byte_rate: None,
        }
    }
}

/// The connections of a listener, counted.
#[derive(Debug)]
pub(crate) struct Seats {
    limits: Limits,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    connections: usize,
    handshakes: usize,
    /// Only where an address may have fewer than all.
    by_address: HashMap<IpAddr, usize>,
}

/// The right to be connected, until it is dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    seats: Arc<Seats>,
    address: Option<IpAddr>,
    is_connected: bool,
}

impl Seats {
    pub(crate) fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self { limits, taken: Mutex::default() })
    }

    /// Takes a seat for a connection whose CONNECT is still to come.
    ///
    /// # Errors
    /// All are taken.
    pub(crate) fn take(self: &Arc<Self>) -> Result<Seat, DisconnectReason> {
        let mut taken = self.lock();
        if taken.connections >= self.limits.connections {
            return Err(DisconnectReason::TooManyConnections);
        }
        if taken.handshakes >= self.limits.handshakes {
            return Err(DisconnectReason::TooManyHandshakes);
        }
        taken.connections += 1;
        taken.handshakes += 1;
        Ok(Seat { seats: Arc::clone(self), address: None, is_connected: false })
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// Counts the connection for its client's address, once it is known.
    ///
    /// # Errors
    /// The address has as many as it may.
    pub(crate) fn belongs_to(&mut self, address: IpAddr) -> Result<(), DisconnectReason> {
        let (max, all) = (self.seats.limits.connections_per_address, self.seats.limits.connections);
        if max >= all {
            return Ok(());
        }
        let mut taken = self.seats.lock();
        let count = taken.by_address.entry(address).or_default();
        if *count >= max {
            return Err(DisconnectReason::TooManyConnections);
        }
        *count += 1;
        self.address = Some(address);
        Ok(())
    }

    /// CONNECT has come.
    pub(crate) fn connected(&mut self) {
        if !std::mem::replace(&mut self.is_connected, true) {
            self.seats.lock().handshakes -= 1;
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.connected();
        let mut taken = self.seats.lock();
        taken.connections -= 1;
        if let Some(address) = self.address
            && let Some(count) = taken.by_address.get_mut(&address)
        {
            *count -= 1;
            if *count == 0 {
                taken.by_address.remove(&address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_holds_until_a_connection_ends() {
        let limits = Limits { connections: 3, connections_per_address: 1, handshakes: 2, ..Limits::default() };
        let seats = Seats::new(limits);
        let (mut first, second) = (seats.take().unwrap(), seats.take().unwrap());
        assert_eq!(seats.take().unwrap_err(), DisconnectReason::TooManyHandshakes);
        first.connected();
        first.connected();
        let mut third = seats.take().unwrap();
        third.connected();
        drop(second);
        let fourth = seats.take().unwrap();
        assert_eq!(seats.take().unwrap_err(), DisconnectReason::TooManyConnections);
        let (here, there) = (IpAddr::from([127, 0, 0, 1]), IpAddr::from([127, 0, 0, 2]));
        assert_eq!((first.belongs_to(here), third.belongs_to(here)), (Ok(()), Err(DisconnectReason::TooManyConnections)));
        assert_eq!(third.belongs_to(there), Ok(()));
        drop((first, fourth));
        let mut fifth = seats.take().unwrap();
        assert_eq!(fifth.belongs_to(here), Ok(()));
        drop((third, fifth));
        let taken = seats.lock();
        assert_eq!((taken.connections, taken.handshakes, taken.by_address.len()), (0, 0, 0));
    }
}
