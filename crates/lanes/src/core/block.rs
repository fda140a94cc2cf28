//! Offering a block of a catch-up read to the lanes that are behind (docs/delivery.md, Catch-up reads). A lane on the way joins the block at its own place; it
//! rebuilds evicted messages there, takes records, or finds some that become dead letters.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use pushline_model::{Cause, Offset, Packet};
use pushline_queue::{Frame, Kind};

use super::{
    Core, Effects, LaneKey, Now,
    dead_letters::{Found, held_by},
    lane::{Offer, Offered},
    live::Owner,
    windows::BlockWindows,
};

/// A block on its way through the lanes.
#[derive(Debug, Default)]
struct Block {
    /// Lanes that it hasn't come to yet, the last one first, with their `read_until`.
    ahead: Vec<(Offset, LaneKey)>,
    /// Lanes that it has come to and that go on.
    joined: BTreeSet<LaneKey>,
    /// All lanes that it has come to.
    met: Vec<LaneKey>,
    windows: BlockWindows,
    found: BTreeMap<LaneKey, Found>,
}

impl Block {
    /// No lane wants the rest.
    fn is_done(&self) -> bool {
        self.joined.is_empty() && self.ahead.is_empty()
    }
}

impl Core {
    /// Offers the records of a block, from `from` on, to their lanes, and takes in each lane on the way that wants it.
    pub(super) fn offer_block(&mut self, from: Offset, frames: &[Frame], now: Now, effects: &mut Effects) {
        let read = frames.last().map_or(from, Frame::end);
        let to = if read >= self.passed() { self.live_offset } else { read };
        let mut block = Block { ahead: self.lanes_on_the_way(from, to), ..Block::default() };
        let unwritten = self.dead_letters.unwritten;
        let mut at = from;
        for frame in frames {
            // A frame may begin before the end of the one before it, and end above what live reading has passed.
            let begin = std::mem::replace(&mut at, frame.end());
            self.offer_frame(&mut block, frame, begin..to);
        }
        let Block { ahead, joined, met, mut found, .. } = block;
        self.find_expired(&met, &mut found);
        for key in joined.into_iter().chain(ahead.into_iter().map(|(_, key)| key)) {
            self.lanes[key].advance(to, self.live_offset);
            self.place(key);
        }
        // Until here it was a guess; each letter counts itself.
        self.dead_letters.unwritten = unwritten;
        if !found.is_empty() {
            // What comes next in these lanes becomes dead letters too, most likely.
            found.keys().for_each(|&key| self.lanes[key].waits_to_dead_letter = true);
            self.write_found(found, now, effects);
            self.dead_letters.unwritten.pause(unwritten);
        }
    }

    /// Lanes that want the block, by their `read_until`, the last one first.
    fn lanes_on_the_way(&self, from: Offset, to: Offset) -> Vec<(Offset, LaneKey)> {
        let meets = |&key: &LaneKey| {
            let lane = &self.lanes[key];
            let read_until = lane.read_until(self.live_offset);
            ((from..to).contains(&read_until) && (self.wants(lane) || self.may_dead_letter(lane))).then_some((read_until, key))
        };
        let mut lanes: Vec<(Offset, LaneKey)> = self.behind.iter().filter_map(meets).collect();
        lanes.sort_unstable_by_key(|&(read_until, _)| Reverse(read_until));
        lanes
    }

    /// Offers the records of a frame that lie within these offsets.
    fn offer_frame(&mut self, block: &mut Block, frame: &Frame, within: Range<Offset>) {
        let (end, log_time) = (frame.end().min(within.end), frame.log_time());
        self.close_by_block_frame(&mut block.windows, &block.joined, end, log_time);
        for (offset, record) in frame.records(within.start).take_while(|(offset, _)| *offset < within.end) {
            while let Some((_, key)) = block.ahead.pop_if(|(read_until, _)| *read_until <= offset) {
                block.joined.insert(key);
                block.met.push(key);
                self.join_block(&mut block.windows, key, end, log_time);
            }
            if block.is_done() {
                return;
            }
            let Some(&key) = Owner::of(&record).key().and_then(|group| self.by_group.get(group)) else { continue };
            if block.joined.contains(&key) {
                self.offer_joined(block, key, &Offer { offset, log_time, record: &record, partition: self.partition });
            }
        }
    }

    /// Offers a record to its lane, which the block has come to.
    fn offer_joined(&mut self, block: &mut Block, key: LaneKey, offer: &Offer<'_>) {
        let window_end = self.lanes[key].window_end();
        if !self.offer_behind(key, offer, &mut block.found) {
            self.lanes[key].stop_at(offer.offset, self.live_offset);
            block.joined.remove(&key);
        } else if self.lanes[key].window_end() != window_end {
            self.watch_window_in_block(&mut block.windows, key);
        }
        self.line_up(key);
    }

    /// Offers a record to its lane, which is behind. Returns whether the lane goes on.
    fn offer_behind(&mut self, key: LaneKey, offer: &Offer<'_>, found: &mut BTreeMap<LaneKey, Found>) -> bool {
        let cause = self.own_cause(key, offer);
        let lane = &self.lanes[key];
        if offer.offset < lane.batched_until(self.live_offset) {
            return self.rebuild_behind(key, offer, cause, found);
        }
        let Some(packet) = offer.record.as_packet() else {
            // A replay is in no window.
            return match cause {
                Some(cause) => self.dead_letter_behind(key, offer, cause, found),
                None => self.take_behind(key, offer),
            };
        };
        let window_cause = lane.dead_lettered_window();
        match cause.or(window_cause) {
            // With a webhook, it is cut like any other packet.
            Some(Cause::Expired) if window_cause.is_none() && lane.intake.handle().is_some() => {
                self.take_expired(key, offer, packet, found)
            }
            Some(cause) if lane.cutter.first().is_none() => self.dead_letter_behind(key, offer, cause, found),
            // Dead-lettering never cuts an open message: the lane finishes it first.
            _ => self.take_behind(key, offer),
        }
    }

    /// Takes a packet that has expired into a message, which becomes a dead letter once it is cut. One that begins a message waits while no more dead letters may be
    /// written.
    fn take_expired(&mut self, key: LaneKey, offer: &Offer<'_>, packet: Packet<'_>, found: &mut BTreeMap<LaneKey, Found>) -> bool {
        let may_write = self.may_write_dead_letters();
        let lane = &mut self.lanes[key];
        lane.waits_to_dead_letter = !may_write && lane.cutter.first().is_none();
        if lane.waits_to_dead_letter || lane.is_dead_lettering() {
            return false;
        }
        lane.take_expired(offer, packet, &mut self.scratch);
        self.dead_letters.unwritten.bytes += held_by(offer.record);
        found.entry(key).or_default();
        true
    }

    /// Messages that were cut in the block, of packets that have expired.
    fn find_expired(&self, lanes: &[LaneKey], found: &mut BTreeMap<LaneKey, Found>) {
        let Some(limit) = self.expiry.limit else { return };
        for &key in lanes.iter().filter(|&&key| self.lanes[key].has_waiting()) {
            for first in self.lanes[key].expired(limit) {
                found.entry(key).or_default().messages.push((first, Cause::Expired));
            }
        }
    }

    /// Adds a record to the outstanding message that it belongs to. One that becomes a dead letter waits for its turn to be written, too.
    fn rebuild_behind(&mut self, key: LaneKey, offer: &Offer<'_>, cause: Option<Cause>, found: &mut BTreeMap<LaneKey, Found>) -> bool {
        let may_write = self.may_write_dead_letters();
        let lane = &mut self.lanes[key];
        lane.waits_to_dead_letter = cause.is_some() && !may_write && lane.would_rebuild(offer.offset);
        if lane.waits_to_dead_letter {
            return false;
        }
        if cause.is_none() {
            lane.fresh_at = self.expiry.checks;
        }
        let Ok(complete) = lane.rebuild(offer, cause) else { return false };
        if let Some(dead) = complete {
            self.dead_letters.unwritten.bytes += held_by(offer.record);
            found.entry(key).or_default().messages.push(dead);
        }
        true
    }

    /// Makes a dead letter of a record in no message, if more may be written.
    fn dead_letter_behind(&mut self, key: LaneKey, offer: &Offer<'_>, cause: Cause, found: &mut BTreeMap<LaneKey, Found>) -> bool {
        let may_write = self.may_write_dead_letters();
        let lane = &mut self.lanes[key];
        lane.waits_to_dead_letter = !may_write;
        if lane.waits_to_dead_letter {
            return false;
        }
        if matches!(offer.record.kind, Kind::Replay) {
            lane.close_window(self.partition, &mut self.scratch);
        }
        lane.dead_letter(offer, cause, self.live_offset);
        self.dead_letters.unwritten.bytes += held_by(offer.record);
        found.entry(key).or_default().add(offer, cause);
        true
    }

    /// Offers a record at or above `batched_until` to the webhook.
    fn take_behind(&mut self, key: LaneKey, offer: &Offer<'_>) -> bool {
        let lane = &mut self.lanes[key];
        (lane.fresh_at, lane.waits_to_dead_letter) = (self.expiry.checks, false);
        if lane.is_dead_lettering() {
            return false; // it begins no message before its dead letters are durable
        }
        if matches!(offer.record.kind, Kind::Replay) {
            // Also where no webhook takes it: else a dead-lettered window would go on asking for it.
            lane.close_window(self.partition, &mut self.scratch);
        }
        lane.offer(offer, &mut self.scratch) != Offered::Refused
    }
}
