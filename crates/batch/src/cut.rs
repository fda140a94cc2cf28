//! Cutting (docs/document.md, Window; docs/delivery.md, Windows): which packets of a group share a message, and whether it is an array.
//!
//! The reader of the log decides when a window is over ([`Window::is_over_by`]) and closes it; nothing else closes one.

use std::time::Duration;

use pushline_model::{Cause, Offset, Packet, Timestamp};

use crate::{Body, CutRules, Sealed};

/// Cuts one group's packets into messages, in offset order. It holds the open window and the open message, the one that is being filled.
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
    /// The log time of the record that opened it.
    pub opened: Timestamp,
    /// Whether a message was cut from it. Then every later message of it is an array.
    pub cut_from: bool,
    /// Why a record of it became a dead letter that was in no message. Then all later records of it do.
    pub dead_lettered: Option<Cause>,
}

/// A group's next packet.
#[derive(Debug, Clone, Copy)]
pub struct NextPacket<'a> {
    /// Where it lies in the log.
    pub offset: Offset,
    /// The log time of its record.
    pub log_time: Timestamp,
    /// What was published.
    pub packet: Packet<'a>,
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

// === impl Window ===

impl Window {
    /// A window that the record with this log time opens.
    #[must_use]
    pub fn open(log_time: Timestamp) -> Self {
        Self { opened: log_time, cut_from: false, dead_lettered: None }
    }

    /// Whether a record with this log time shows that a window of this length is over. Where log time steps back, a record before it does too.
    #[must_use]
    pub fn is_over_by(&self, log_time: Timestamp, length: Duration) -> bool {
        log_time.distance(self.opened) >= length
    }
}

// === impl Cutter ===

impl Cutter {
    /// Goes on with a window that was open before a restart. Its open message is filled again from the log.
    #[must_use]
    pub fn resume(window: Option<Window>) -> Self {
        Self { window, ..Self::default() }
    }

    /// The open window.
    #[must_use]
    pub fn window(&self) -> Option<Window> {
        self.window
    }

    /// The first offset of the open message, if there is one.
    #[must_use]
    pub fn first(&self) -> Option<Offset> {
        (!self.body.is_empty()).then_some(self.first)
    }

    /// The `received_at` of the open message's first packet.
    #[must_use]
    pub fn first_received_at(&self) -> Option<Timestamp> {
        self.body.first_received_at()
    }

    /// Bytes of memory that the open message holds.
    #[must_use]
    pub fn held(&self) -> usize {
        self.body.held()
    }

    /// Offers the group's next packet. One that would make the open message too long cuts it first. Then the packet is taken, and cuts the message
    /// that it makes full. Where it would begin a message, `may_begin` is asked first; on a no it stays where it is, and `false` is returned.
    pub fn offer(&mut self, rules: &CutRules, next: &NextPacket<'_>, may_begin: impl FnOnce() -> bool, cuts: &mut Vec<Cut>) -> bool {
        if !self.body.is_empty() && !self.body.push_if_fits(rules, &next.packet) {
            cuts.extend(self.cut(rules));
        }
        if self.body.is_empty() {
            if !may_begin() {
                return false;
            }
            self.window.get_or_insert(Window::open(next.log_time));
            self.first = next.offset;
            self.body.push(rules, &next.packet);
        }
        self.last = next.offset;
        if self.body.count() >= rules.max_packets {
            cuts.extend(self.cut(rules));
        }
        true
    }

    /// The window is over: cuts the rest.
    pub fn close(&mut self, rules: &CutRules) -> Option<Cut> {
        let cut_from = self.window.take().is_some_and(|window| window.cut_from);
        self.seal(rules.is_array(self.body.count(), cut_from, false))
    }

    /// The window is over, and there is no open message.
    pub fn close_empty(&mut self) {
        debug_assert!(self.body.is_empty(), "an open message is cut, not dropped");
        self.window = None;
    }

    /// A packet in no message becomes a dead letter: so do all later ones of its window. It opens one where none is open. There is no open message.
    pub fn dead_letter(&mut self, log_time: Timestamp, cause: Cause) {
        debug_assert!(self.body.is_empty(), "an open message is finished first");
        self.window.get_or_insert(Window::open(log_time)).dead_lettered.get_or_insert(cause);
    }

    /// Evicts the open message, and returns where it began. The window stays open.
    pub fn evict(&mut self) -> Option<Offset> {
        let first = self.first();
        self.body = Body::default();
        first
    }

    /// Cuts within the window, which goes on.
    fn cut(&mut self, rules: &CutRules) -> Option<Cut> {
        let window = self.window.as_mut().expect("an open message has a window");
        let cut_from = std::mem::replace(&mut window.cut_from, true);
        self.seal(rules.is_array(self.body.count(), cut_from, true))
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
    use proptest::prelude::*;
    use pushline_model::{Iccid, Webhook};

    use super::*;

    /// Packets at these log times, in milliseconds, cut by the document's rule as a reader does: first offset, packets, array.
    fn cut(rules: &CutRules, times: &[u64]) -> Vec<(Offset, usize, bool)> {
        let (mut cutter, mut cuts) = (Cutter::default(), Vec::new());
        for (offset, time) in (0..).zip(times) {
            let next = packet(offset, *time, b"ABC");
            if cutter.window().is_some_and(|window| window.is_over_by(next.log_time, rules.window)) {
                cuts.extend(cutter.close(rules));
            }
            assert!(cutter.offer(rules, &next, || true, &mut cuts));
        }
        cuts.extend(cutter.close(rules));
        cuts.iter().map(|cut| (cut.first, cut.body.count(), cut.body.is_array())).collect()
    }

    fn packet(offset: Offset, millis: u64, payload: &[u8]) -> NextPacket<'_> {
        let iccid = Iccid::from_bytes(b"897612653856781234").unwrap();
        let packet = Packet { iccid, topic: "mti/897612653856781234", received_at: Timestamp(7), payload };
        NextPacket { offset, log_time: Timestamp(1 << 50).plus(Duration::from_millis(millis)), packet }
    }

    fn rules() -> CutRules {
        CutRules::of(&Webhook::new("w", "http://a.example/".parse().unwrap()))
    }

    #[test]
    fn one_packet_in_the_whole_window_is_an_object() {
        assert_eq!(cut(&rules(), &[0]), [(0, 1, false)]);
    }

    #[test]
    fn more_are_arrays_of_ten_at_most() {
        assert_eq!(cut(&rules(), &[0; 2]), [(0, 2, true)]);
        assert_eq!(cut(&rules(), &[0; 10]), [(0, 10, true)]);
        assert_eq!(cut(&rules(), &[0; 25]), [(0, 10, true), (10, 10, true), (20, 5, true)]);
    }

    #[test]
    fn a_remainder_of_one_in_a_busy_window_is_still_an_array() {
        assert_eq!(cut(&rules(), &[0; 11]), [(0, 10, true), (10, 1, true)]);
    }

    #[test]
    fn packets_715_ms_apart_share_a_window_and_1_2_s_apart_do_not() {
        assert_eq!(cut(&rules(), &[0, 715]), [(0, 2, true)]);
        assert_eq!(cut(&rules(), &[0, 1200]), [(0, 1, false), (1, 1, false)]);
        assert_eq!(cut(&rules(), &[0, 1000]), [(0, 1, false), (1, 1, false)]);
    }

    #[test]
    fn a_record_up_to_one_window_length_before_the_opening_belongs() {
        assert_eq!(cut(&rules(), &[999, 0]), [(0, 2, true)]);
        assert_eq!(cut(&rules(), &[1000, 0]), [(0, 1, false), (1, 1, false)]);
    }

    #[test]
    fn max_packets_of_one_sends_objects_and_always_array_wins() {
        let mut rules = rules();
        rules.max_packets = 1;
        assert_eq!(cut(&rules, &[0; 2]), [(0, 1, false), (1, 1, false)]);
        rules.always_array = true;
        assert_eq!(cut(&rules, &[0; 2]), [(0, 1, true), (1, 1, true)]);
        rules.max_packets = 10;
        assert_eq!(cut(&rules, &[0]), [(0, 1, true)]);
    }

    #[test]
    fn what_would_pass_max_body_bytes_goes_out_before_as_an_array() {
        let mut rules = rules();
        rules.max_body_bytes = 1024;
        let (mut cutter, mut cuts) = (Cutter::default(), Vec::new());
        let (small, large) = (vec![b'a'; 600], vec![b'a'; 5000]);
        for (offset, payload) in [&small, &small, &large, &small].into_iter().enumerate() {
            assert!(cutter.offer(&rules, &packet(offset as u64, 0, payload), || true, &mut cuts));
        }
        cuts.extend(cutter.close(&rules));
        let shapes: Vec<_> = cuts.iter().map(|cut| (cut.first, cut.body.count(), cut.body.is_array())).collect();
        assert_eq!(shapes, [(0, 1, true), (1, 1, true), (2, 1, true), (3, 1, true)]);
        assert!(cuts[0].body.bytes().len() <= 1024 && cuts[2].body.bytes().len() > 5000);
    }

    #[test]
    fn no_message_is_refused_in_its_middle() {
        let (mut cutter, mut cuts, rules) = (Cutter::default(), Vec::new(), rules());
        assert!(cutter.offer(&rules, &packet(0, 0, b"a"), || true, &mut cuts));
        assert!(cutter.offer(&rules, &packet(1, 0, b"a"), || panic!("asked in the middle"), &mut cuts));
        cuts.extend(cutter.close(&rules));
        assert!(!cutter.offer(&rules, &packet(2, 0, b"a"), || false, &mut cuts));
        assert_eq!((cuts.len(), cutter.first(), cutter.window()), (1, None, None));
    }

    #[test]
    fn what_is_evicted_leaves_its_window_open() {
        let (mut cutter, mut cuts, rules) = (Cutter::default(), Vec::new(), rules());
        for offset in 0..11 {
            assert!(cutter.offer(&rules, &packet(offset, 0, b"a"), || true, &mut cuts));
        }
        assert_eq!(cutter.evict(), Some(10));
        assert!(cutter.window().is_some_and(|window| window.cut_from));
        assert!(cutter.offer(&rules, &packet(10, 0, b"a"), || true, &mut cuts));
        assert!(cutter.close(&rules).is_some_and(|cut| cut.body.is_array()));
    }

    #[test]
    fn a_dead_lettered_window_keeps_its_opening_and_its_first_cause() {
        let (mut cutter, mut cuts, rules) = (Cutter::default(), Vec::new(), rules());
        (0..10).for_each(|offset| assert!(cutter.offer(&rules, &packet(offset, 0, b"a"), || true, &mut cuts)));
        let opened = cutter.window().unwrap();
        cutter.dead_letter(Timestamp(1), Cause::Expired);
        cutter.dead_letter(Timestamp(2), Cause::NoWebhook);
        assert_eq!(cutter.window(), Some(Window { dead_lettered: Some(Cause::Expired), ..opened }));
        cutter.close_empty();
        cutter.dead_letter(Timestamp(2), Cause::NoWebhook);
        assert_eq!(cutter.window(), Some(Window { dead_lettered: Some(Cause::NoWebhook), ..Window::open(Timestamp(2)) }));
    }

    #[test]
    fn each_rule_of_cutting_changes_the_hash_and_an_address_does_not() {
        use pushline_model::{IccidForm, Identify, PayloadForm};
        let hash = |change: fn(&mut Webhook)| {
            let mut webhook = Webhook::new("w", "http://a.example/".parse().unwrap());
            change(&mut webhook);
            CutRules::of(&webhook).hash()
        };
        let same = [hash(|w| w.url = "http://b.example/".parse().unwrap()), hash(|w| w.retries = 7), hash(|w| w.name = "v".to_owned())];
        assert!(same.iter().all(|same| *same == hash(|_| {})));
        let mut hashes = vec![
            hash(|_| {}),
            hash(|w| w.window = Duration::from_secs(2)),
            hash(|w| w.max_packets = 9),
            hash(|w| w.max_body_bytes = 2048),
            hash(|w| w.always_array = true),
            hash(|w| w.send = Identify::Topic),
            hash(|w| w.iccid = IccidForm::String),
            hash(|w| w.payload = PayloadForm::Json),
            hash(|w| w.payload = PayloadForm::Base64),
        ];
        hashes.sort_unstable();
        hashes.dedup();
        assert_eq!(hashes.len(), 9);
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
            prop_assert_eq!(cut(&rules(), &times), naive);
        }
    }
}
