//! The packets of a client that aren't acknowledged to their end: how many there are, and which packet ids are held at QoS 2 (MQTT 5 §4.3.3, §4.9). Pure.

use pushline_queue::PacketIds;

use super::{DisconnectReason, encode::Ack};

/// The packets in flight of one connection.
#[derive(Debug)]
pub(crate) struct InFlight {
    /// From PUBLISH at QoS 2 to PUBREL.
    held: PacketIds,
    /// Packets at QoS 1 and 2 of this connection whose last acknowledgement hasn't left.
    count: usize,
    /// The Receive Maximum of CONNACK (§3.2.2.3.3).
    max: usize,
}

impl InFlight {
    /// `held`: the ids that the session holds already.
    pub(crate) fn new(held: PacketIds, max: usize) -> Self {
        Self { held, count: 0, max }
    }

    /// Counts a packet at QoS 1, or a new one at QoS 2.
    ///
    /// # Errors
    /// The client has more in flight than CONNACK allowed.
    pub(crate) fn publish(&mut self) -> Result<(), DisconnectReason> {
        self.count += 1;
        if self.count <= self.max { Ok(()) } else { Err(DisconnectReason::ReceiveMaximumExceeded) }
    }

    pub(crate) fn holds(&self, id: u16) -> bool {
        self.held.contains(id)
    }

    pub(crate) fn hold(&mut self, id: u16) {
        self.held.insert(id);
    }

    /// Returns whether the id was held.
    pub(crate) fn release(&mut self, id: u16) -> bool {
        self.held.remove(id)
    }

    /// Acknowledgements leave. Ids that the session held from an earlier connection on aren't counted, so the count may be too low, never too high.
    pub(crate) fn acknowledged(&mut self, acks: &[Ack]) {
        let ended = acks.iter().filter(|ack| ack.ends_packet()).count();
        self.count = self.count.saturating_sub(ended);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listener::encode::PublishReason;

    #[test]
    fn packets_of_both_qualities_count_together_until_their_last_acknowledgement() {
        let mut in_flight = InFlight::new([7].into_iter().collect(), 2);
        assert!(in_flight.holds(7) && !in_flight.holds(8));
        assert_eq!((in_flight.publish(), in_flight.publish()), (Ok(()), Ok(())));
        in_flight.acknowledged(&[Ack::Pubrec(8, PublishReason::Success)]);
        assert_eq!(in_flight.publish(), Err(DisconnectReason::ReceiveMaximumExceeded));
        let last = [Ack::Puback(1, PublishReason::Success), Ack::Pubrec(9, PublishReason::NotAuthorized), Ack::Pubcomp(8, true)];
        in_flight.acknowledged(&last);
        assert_eq!((in_flight.publish(), in_flight.publish()), (Ok(()), Ok(())));
        // Of an earlier connection, and one that was never held.
        in_flight.acknowledged(&[Ack::Pubcomp(7, true), Ack::Pubcomp(100, false), Ack::Pubcomp(7, true), Ack::Pubcomp(7, true)]);
        assert_eq!((in_flight.publish(), in_flight.publish()), (Ok(()), Ok(())));
        assert_eq!(in_flight.publish(), Err(DisconnectReason::ReceiveMaximumExceeded));
    }

    #[test]
    fn an_id_is_released_once() {
        let mut in_flight = InFlight::new(PacketIds::default(), 1);
        in_flight.hold(7);
        assert_eq!((in_flight.release(7), in_flight.release(7), in_flight.holds(7)), (true, false, false));
    }
}
