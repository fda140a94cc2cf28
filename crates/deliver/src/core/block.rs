//! Offering a block of a catch-up read to the lanes that are behind (docs/delivery.md, Catch-up reads). A lane on the way joins the block at its own place; it
//! rebuilds evicted messages there, takes records, or finds some that become dead letters.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use pushline_model::Offset;
use pushline_queue::{Frame, Kind};

use super::{
    Core, Effects, LaneKey, Now,
    dead_letters::{Found, held_by},
    lane::{Offer, Offered},
    live::Owner,
    windows::BlockWindows,
};

impl Core {
    /// Offers the records of a block, from `from` on, to their lanes, and takes in each lane on the way that wants it.
    pub(super) fn offer_block(&mut self, from: Offset, frames: &[Frame], now: Now, effects: &mut Effects) {
        let read = frames.last().map_or(from, Frame::end);
        let to = if read >= self.passed() { self.live_offset } else { read };
        let mut ahead = self.lanes_on_the_way(from, to);
        ahead.sort_unstable_by_key(|&(read_until, _)| Reverse(read_until));
        let (mut joined, mut windows, mut found) = (BTreeSet::new(), BlockWindows::default(), BTreeMap::new());
        let unwritten = self.dead_letters.unwritten;
        let mut at = from;
        'block: for frame in frames {
            // A frame may begin before the end of the one before it, and end above what live reading has passed.
            let (begin, end, log_time) = (std::mem::replace(&mut at, frame.end()), frame.end().min(to), frame.log_time());
            self.close_by_block_frame(&mut windows, &joined, end, log_time);
            for (offset, record) in frame.records(begin).take_while(|(offset, _)| *offset < to) {
                while let Some((_, key)) = ahead.pop_if(|(read_until, _)| *read_until <= offset) {
                    joined.insert(key);
                    self.join_block(&mut windows, key, end, log_time);
                }
                if joined.is_empty() && ahead.is_empty() {
                    break 'block; // no lane wants the rest
                }
                let Some(&key) = Owner::of(&record).key().and_then(|group| self.by_group.get(group)) else { continue };
                if joined.contains(&key) {
                    let offer = Offer { offset, log_time, record: &record, partition: self.partition };
                    let window_end = self.lanes[key].window_end();
                    if !self.offer_behind(key, &offer, &mut found) {
                        self.lanes[key].stop_at(offset, self.live_offset);
                        joined.remove(&key);
                    } else if self.lanes[key].window_end() != window_end {
                        self.watch_window_in_block(&mut windows, key);
                    }
                    self.line_up(key);
                }
            }
        }
        joined.extend(ahead.into_iter().map(|(_, key)| key));
        for key in joined {
            self.lanes[key].advance(to, self.live_offset);
            self.place(key);
        }
        // Until here it was a guess; each letter counts itself.
        self.dead_letters.unwritten = unwritten;
        self.write_found(found, now, effects);
    }

    fn lanes_on_the_way(&self, from: Offset, to: Offset) -> Vec<(Offset, LaneKey)> {
        let meets = |&key: &LaneKey| {
            let lane = &self.lanes[key];
            let read_until = lane.read_until(self.live_offset);
            ((from..to).contains(&read_until) && (self.wants(lane) || self.may_dead_letter(lane))).then_some((read_until, key))
        };
        self.behind.iter().filter_map(meets).collect()
    }

    /// Offers a record to its lane, which is behind. Returns whether the lane goes on.
    fn offer_behind(&mut self, key: LaneKey, offer: &Offer<'_>, found: &mut BTreeMap<LaneKey, Found>) -> bool {
        let cause = self.own_cause(key, offer);
        let may_write = self.may_write_dead_letters();
        let (checks, live_offset) = (self.expiry.checks, self.live_offset);
        let lane = &mut self.lanes[key];
        if offer.offset < lane.batched_until(live_offset) {
            // A message that becomes a dead letter waits for its turn to be written, too.
            lane.waits_to_dead_letter = cause.is_some() && !may_write && lane.would_rebuild(offer.offset);
            if lane.waits_to_dead_letter {
                return false;
            }
            if cause.is_none() {
                lane.fresh_at = checks;
            }
            return match lane.rebuild(offer, cause) {
                Ok(complete) => {
                    if let Some(dead) = complete {
                        self.dead_letters.unwritten += held_by(offer.record);
                        found.entry(key).or_default().messages.push(dead);
                    }
                    true
                }
                Err(_) => false,
            };
        }
        let is_replay = matches!(offer.record.kind, Kind::Replay);
        let cause = cause.or_else(|| lane.dead_lettered_window().filter(|_| !is_replay));
        if let Some(cause) = cause
            && (is_replay || lane.cutter.first().is_none())
        {
            lane.waits_to_dead_letter = !may_write;
            if lane.waits_to_dead_letter {
                return false;
            }
            if is_replay {
                lane.close_window(self.partition, &mut self.scratch);
            }
            lane.dead_letter(offer, cause, live_offset);
            self.dead_letters.unwritten += held_by(offer.record);
            found.entry(key).or_default().add(offer, cause);
            return true;
        }
        lane.fresh_at = checks;
        if lane.is_dead_lettering() {
            return false; // it begins no message before its dead letters are durable
        }
        if is_replay {
            // Also where no webhook takes it: else a dead-lettered window would go on asking for it.
            lane.close_window(self.partition, &mut self.scratch);
        }
        lane.offer(offer, &mut self.scratch) != Offered::Refused
    }
}
