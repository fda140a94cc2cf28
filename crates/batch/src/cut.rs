//! Windows and chunks (DESIGN.md, *Window*; LANES.md L1): which packets of a group share a message, and whether it is an array.

use pushline_model::{Offset, Packet, Timestamp, Webhook};

use crate::{Body, Sealed};

/// Cuts one group's packets into messages, in offset order. It holds the open window and the message that is being put together.
#[derive(Debug, Default)]
pub struct Cutter {
    window: Option<Window>,
    first: Offset,
    last: Offset,
    body: Body,
}

/// An open window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// The `received_at` of the record that opened it.
    pub opened: Timestamp,
    /// Whether a message was cut from it. Then every later message of it is an array.
    pub cut_from: bool,
}

/// A message, cut.
#[derive(Debug)]
pub struct Cut {
    /// Offset of its first packet.
    pub first: Offset,
    /// Offset of its last packet.
    pub last: Offset,
    /// Its packets, as they will be sent.
    pub body: Sealed,
}

impl Cutter {
    /// Goes on with a window that was open before a restart. Its unfinished message is put together again from the log.
    #[must_use]
    pub fn resume(window: Option<Window>) -> Self {
        Self { window, ..Self::default() }
    }

    /// The open window.
    #[must_use]
    pub fn window(&self) -> Option<Window> {
        self.window
    }

    /// The first offset of the unfinished message, if there is one.
    #[must_use]
    pub fn first(&self) -> Option<Offset> {
        (!self.body.is_empty()).then_some(self.first)
    }

    /// Bytes of memory that the unfinished message holds.
    #[must_use]
    pub fn held(&self) -> usize {
        self.body.held()
    }

    /// Shows the group's next packet. Cuts what it can't join: a window that it lies outside of, a message that it would make too
    /// long. Then the packet is taken, and cuts the message that it makes full. Where it would begin a message, `may_begin` is asked
    /// first; on a no it isn't taken, and `false` is returned.
    pub fn show(
        &mut self,
        webhook: &Webhook,
        offset: Offset,
        packet: &Packet<'_>,
        may_begin: impl FnOnce() -> bool,
        cuts: &mut Vec<Cut>,
    ) -> bool {
        if self.window.is_some_and(|window| packet.received_at.distance(window.opened) >= webhook.window) {
            cuts.extend(self.close(webhook));
        }
        if !self.body.is_empty() && !self.body.push_if_fits(webhook, packet) {
            cuts.extend(self.cut(true));
        }
        if self.body.is_empty() {
            if !may_begin() {
                return false;
            }
            self.window.get_or_insert(Window { opened: packet.received_at, cut_from: false });
            self.first = offset;
            self.body.push(webhook, packet);
        }
        self.last = offset;
        if self.body.count() >= webhook.max_packets {
            cuts.extend(self.cut(webhook.max_packets > 1 || webhook.always_array));
        }
        true
    }

    /// The window's time is over: cuts the rest.
    #[must_use]
    pub fn close(&mut self, webhook: &Webhook) -> Option<Cut> {
        let cut_from = self.window.take().is_some_and(|window| window.cut_from);
        let array = webhook.always_array || self.body.count() > 1 || cut_from && webhook.max_packets > 1;
        self.seal(array)
    }

    /// Forgets the unfinished message, and says where it began. The window stays open.
    pub fn let_go(&mut self) -> Option<Offset> {
        let first = self.first();
        self.body = Body::default();
        first
    }

    fn cut(&mut self, array: bool) -> Option<Cut> {
        let cut = self.seal(array);
        self.window.iter_mut().for_each(|window| window.cut_from = true);
        cut
    }

    fn seal(&mut self, array: bool) -> Option<Cut> {
        if self.body.is_empty() {
            return None;
        }
        let body = std::mem::take(&mut self.body).seal(array);
        Some(Cut { first: self.first, last: self.last, body })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use pushline_model::Iccid;

    use super::*;

    /// Milliseconds of `received_at`, cut by the document's rule; `None` closes the window. First offset, packets, array.
    fn cut(webhook: &Webhook, times: &[Option<u64>]) -> Vec<(Offset, usize, bool)> {
        let (mut cutter, mut cuts) = (Cutter::default(), Vec::new());
        for (offset, time) in (0..).zip(times) {
            match time {
                None => cuts.extend(cutter.close(webhook)),
                Some(time) => {
                    let packet = packet(*time, b"ABC");
                    assert!(cutter.show(webhook, offset, &packet, || true, &mut cuts));
                }
            }
        }
        cuts.extend(cutter.close(webhook));
        cuts.iter().map(|cut| (cut.first, cut.body.count(), cut.body.is_array())).collect()
    }

    fn packet(millis: u64, payload: &[u8]) -> Packet<'_> {
        let iccid = Iccid::from_bytes(b"897612653856781234").unwrap();
        Packet { iccid, topic: "mti/897612653856781234", received_at: Timestamp(1 << 50).plus(Duration::from_millis(millis)), payload }
    }

    fn webhook() -> Webhook {
        Webhook::new("w", "http://a.example/".parse().unwrap())
    }

    fn at_once(count: usize) -> Vec<Option<u64>> {
        vec![Some(0); count]
    }

    #[test]
    fn one_packet_in_the_whole_window_is_an_object() {
        assert_eq!(cut(&webhook(), &at_once(1)), [(0, 1, false)]);
    }

    #[test]
    fn more_are_arrays_of_ten_at_most() {
        assert_eq!(cut(&webhook(), &at_once(2)), [(0, 2, true)]);
        assert_eq!(cut(&webhook(), &at_once(10)), [(0, 10, true)]);
        assert_eq!(cut(&webhook(), &at_once(25)), [(0, 10, true), (10, 10, true), (20, 5, true)]);
    }

    #[test]
    fn a_remainder_of_one_in_a_busy_window_is_still_an_array() {
        assert_eq!(cut(&webhook(), &at_once(11)), [(0, 10, true), (10, 1, true)]);
    }

    #[test]
    fn packets_715_ms_apart_share_a_window_and_1_2_s_apart_do_not() {
        assert_eq!(cut(&webhook(), &[Some(0), Some(715)]), [(0, 2, true)]);
        assert_eq!(cut(&webhook(), &[Some(0), Some(1200)]), [(0, 1, false), (1, 1, false)]);
        assert_eq!(cut(&webhook(), &[Some(0), Some(1000)]), [(0, 1, false), (1, 1, false)]);
    }

    #[test]
    fn a_record_up_to_one_window_length_before_the_opening_belongs() {
        assert_eq!(cut(&webhook(), &[Some(999), Some(0)]), [(0, 2, true)]);
        assert_eq!(cut(&webhook(), &[Some(1000), Some(0)]), [(0, 1, false), (1, 1, false)]);
    }

    #[test]
    fn a_record_after_its_window_was_closed_by_time_opens_the_next() {
        assert_eq!(cut(&webhook(), &[Some(0), None, Some(10)]), [(0, 1, false), (2, 1, false)]);
    }

    #[test]
    fn max_packets_of_one_sends_objects_and_always_array_wins() {
        let mut webhook = webhook();
        webhook.max_packets = 1;
        assert_eq!(cut(&webhook, &at_once(2)), [(0, 1, false), (1, 1, false)]);
        webhook.always_array = true;
        assert_eq!(cut(&webhook, &at_once(2)), [(0, 1, true), (1, 1, true)]);
        webhook.max_packets = 10;
        assert_eq!(cut(&webhook, &at_once(1)), [(0, 1, true)]);
    }

    #[test]
    fn what_would_pass_max_body_bytes_goes_out_before_as_an_array() {
        let mut webhook = webhook();
        webhook.max_body_bytes = 1024;
        let (mut cutter, mut cuts) = (Cutter::default(), Vec::new());
        let (small, large) = (vec![b'a'; 600], vec![b'a'; 5000]);
        for (offset, payload) in [&small, &small, &large, &small].into_iter().enumerate() {
            assert!(cutter.show(&webhook, offset as u64, &packet(0, payload), || true, &mut cuts));
        }
        cuts.extend(cutter.close(&webhook));
        let shapes: Vec<_> = cuts.iter().map(|cut| (cut.first, cut.body.count(), cut.body.is_array())).collect();
        assert_eq!(shapes, [(0, 1, true), (1, 1, true), (2, 1, true), (3, 1, true)]);
        assert!(cuts[0].body.bytes().len() <= 1024 && cuts[2].body.bytes().len() > 5000);
    }

    #[test]
    fn no_message_is_refused_in_its_middle() {
        let (mut cutter, mut cuts) = (Cutter::default(), Vec::new());
        let webhook = webhook();
        assert!(cutter.show(&webhook, 0, &packet(0, b"a"), || true, &mut cuts));
        assert!(cutter.show(&webhook, 1, &packet(0, b"a"), || panic!("asked in the middle"), &mut cuts));
        assert!(!cutter.show(&webhook, 2, &packet(2000, b"a"), || false, &mut cuts));
        assert_eq!((cuts.len(), cutter.first(), cutter.window()), (1, None, None));
    }

    #[test]
    fn what_is_let_go_leaves_its_window_open() {
        let (mut cutter, mut cuts) = (Cutter::default(), Vec::new());
        let webhook = webhook();
        for offset in 0..11 {
            assert!(cutter.show(&webhook, offset, &packet(0, b"a"), || true, &mut cuts));
        }
        assert_eq!(cutter.let_go(), Some(10));
        assert!(cutter.window().is_some_and(|window| window.cut_from));
        assert!(cutter.show(&webhook, 10, &packet(0, b"a"), || true, &mut cuts));
        assert!(cutter.close(&webhook).is_some_and(|cut| cut.body.is_array()));
    }

    proptest! {
        /// The document's rule, said naively: split the times into windows, each window into tens.
        #[test]
        fn the_cut_is_the_naive_one(steps in prop::collection::vec(0u64..700, 1..80)) {
            let times: Vec<u64> = steps.iter().scan(0, |at, step| { *at += step / 10 * (step % 3); Some(*at) }).collect();
            let mut windows: Vec<Vec<usize>> = Vec::new();
            for (place, time) in times.iter().enumerate() {
                match windows.last_mut() {
                    Some(window) if time - times[window[0]] < 1000 => window.push(place),
                    _ => windows.push(vec![place]),
                }
            }
            let naive: Vec<_> = windows.iter().flat_map(|window| {
                window.chunks(10).map(|chunk| (chunk[0] as Offset, chunk.len(), window.len() > 1))
            }).collect();
            prop_assert_eq!(cut(&webhook(), &times.into_iter().map(Some).collect::<Vec<_>>()), naive);
        }
    }
}
