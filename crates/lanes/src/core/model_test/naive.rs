//! The naive cut: the document's rule, said once more and slowly, by the records of the log alone.

use std::collections::BTreeSet;

use pushline_batch::{Body, CutRules};
use pushline_model::{Offset, Webhook};

use super::{
    log::{GROUPS, Log, Rec},
    schedule::What,
    world::{Rules, Sent, World},
};

/// A group's packets being cut.
struct Cut {
    rules: &'static Rules,
    sent: BTreeSet<Sent>,
    body: Vec<Offset>,
    bytes: usize,
    /// Its opening, and whether a message was cut from it.
    window: Option<(u64, bool)>,
}

impl Cut {
    fn flush(&mut self, goes_on: bool) {
        let offsets = std::mem::take(&mut self.body);
        let was_cut_from = self.window.is_some_and(|(_, cut_from)| cut_from);
        let array = self.rules.always_array || offsets.len() > 1 || was_cut_from || goes_on;
        if !offsets.is_empty() {
            self.sent.insert(Sent { offsets, array });
        }
        self.window = self.window.filter(|_| goes_on).map(|(opened, _)| (opened, true));
    }

    fn take(&mut self, rec: &Rec) {
        let object = object_length(rec);
        if !self.body.is_empty() && self.bytes + ",".len() + object + "[]".len() > self.rules.max_body_bytes {
            self.flush(true);
        }
        self.bytes = if self.body.is_empty() { object } else { self.bytes + ",".len() + object };
        self.window.get_or_insert((rec.log_time, false));
        self.body.push(rec.offset);
        if self.body.len() == self.rules.max_packets {
            self.flush(true);
        }
    }
}

impl World {
    /// What all processes sent of a partition is the naive cut of its log, where nothing may have changed the cut.
    pub(super) fn check_naive(&self) {
        for (log, truth) in self.common.logs.iter().zip(&self.common.truths) {
            if truth.track > 0 || truth.is_redefined || truth.is_another_log {
                continue;
            }
            let naive: BTreeSet<Sent> = (0..GROUPS.len()).flat_map(|group| self.naive(log, group)).collect();
            let more: Vec<&Sent> = truth.sent.difference(&naive).collect();
            assert!(more.is_empty(), "not the naive cut: {more:?} of {naive:?}");
            let missing: Vec<&Sent> = naive.difference(&truth.sent).collect();
            assert!(truth.has_unsent || missing.is_empty(), "missing of the naive cut: {missing:?}");
        }
    }

    fn naive(&self, log: &Log, group: usize) -> BTreeSet<Sent> {
        let Some(rules) = self.common.configs[0].rules_of(group) else { return BTreeSet::new() };
        let mut cut = Cut { rules, sent: BTreeSet::new(), body: Vec::new(), bytes: 0, window: None };
        for rec in log.ever.values() {
            let is_own = rec.key() == GROUPS[group];
            let is_over = cut.window.is_some_and(|(opened, _)| rec.log_time.abs_diff(opened) >= rules.window);
            let is_replay = is_own && matches!(rec.what, What::Replay { .. });
            if is_over || is_replay {
                cut.flush(false);
            }
            match rec.what {
                What::Packet if is_own => cut.take(rec),
                What::Replay { packets, array } if is_own => {
                    let array = array || packets > 1;
                    cut.sent.insert(Sent { offsets: vec![rec.offset; packets], array });
                }
                _ => {}
            }
        }
        cut.flush(false);
        cut.sent
    }
}

/// Bytes of a packet in a body.
fn object_length(rec: &Rec) -> usize {
    let mut alone = Body::default();
    let rules = CutRules::of(&Webhook::new("w", "http://a.example/".parse().expect("it is one")));
    alone.push(&rules, &rec.packet(&rec.payload()));
    alone.seal(false).bytes().len()
}
