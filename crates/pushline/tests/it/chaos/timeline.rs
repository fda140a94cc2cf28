//! What a test did and when, and so which second ids it caused itself. Only one of the excuses can arise here: no test deletes a checkpoint
//! (excuse 1), exchanges a log (excuse 2) or takes a group's webhook away (excuse 4).

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    time::{Duration, Instant},
};

use pushline_testkit::{RepeatedPacket, Sighting};

/// What a crash may take back: a checkpoint is made durable every second, later on a disk that stalls or while brokers change.
const UNSAVED: Duration = Duration::from_secs(6);

/// The excuse that a test may cause.
pub(super) const CHANGED_FORM: &str = "3, a changed form and a crash at once";

/// What was done.
#[derive(Debug)]
pub(super) struct Timeline {
    began: Instant,
    /// How long a process may go on with the forms of before a reload.
    old_forms: Duration,
    /// kill -9, SIGSTOP: what a process hadn't saved may be done again.
    crashes: Vec<(Instant, String)>,
    /// With the customers whose forms changed.
    reloads: Vec<(Instant, BTreeSet<&'static str>)>,
}

/// Which second ids are excused and which aren't.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    /// Packets, by excuse.
    pub(super) excused: BTreeMap<&'static str, usize>,
    /// A text for each packet.
    pub(super) failures: Vec<String>,
}

impl Timeline {
    pub(super) fn begin(old_forms: Duration) -> Self {
        Self { began: Instant::now(), old_forms, crashes: Vec::new(), reloads: Vec::new() }
    }

    pub(super) fn crashed(&mut self, what: String) {
        self.crashes.push((Instant::now(), what));
    }

    pub(super) fn reloaded(&mut self, reshaped: BTreeSet<&'static str>) {
        self.reloads.push((Instant::now(), reshaped));
    }

    pub(super) fn judge(&self, repeated: &[RepeatedPacket]) -> Verdict {
        let mut verdict = Verdict::default();
        for packet in repeated {
            let excuses: Option<BTreeSet<_>> =
                packet.sightings.windows(2).map(|pair| self.excuse(&packet.packet, &pair[0], &pair[1])).collect();
            match excuses {
                Some(excuses) => excuses.into_iter().for_each(|excuse| *verdict.excused.entry(excuse).or_default() += 1),
                None => verdict.failures.push(self.describe(packet)),
            }
        }
        verdict
    }

    /// Why the second id is the test's own doing.
    fn excuse(&self, packet: &str, before: &Sighting, after: &Sighting) -> Option<&'static str> {
        let crashed_soon_after =
            |limit: Instant| self.crashes.iter().any(|(at, _)| *at >= before.first && *at <= after.first && *at <= limit);
        let customer = packet.split(|letter: char| !letter.is_ascii_alphabetic()).next().unwrap_or_default();
        let since = before.first.checked_sub(self.old_forms).unwrap_or(self.began);
        let reshaped = self.reloads.iter().any(|(at, customers)| customers.contains(customer) && (since..=after.first).contains(at));
        (reshaped && crashed_soon_after(before.first + UNSAVED)).then_some(CHANGED_FORM)
    }

    fn describe(&self, packet: &RepeatedPacket) -> String {
        let mut text = format!("{:?}\n", packet.packet);
        for Sighting { id, first, last, packets, array, answers } in &packet.sightings {
            let shape = if *array { "array" } else { "object" };
            let (first, last) = (self.seconds(*first), self.seconds(*last));
            let _ = writeln!(text, "  {id} from {first:.3} s to {last:.3} s, an {shape} of {packets:?}, answered {answers:?}");
        }
        let second = packet.sightings[1].first;
        let apart = |at: &Instant| at.max(&second).duration_since(*at.min(&second));
        match self.crashes.iter().min_by_key(|(at, _)| apart(at)) {
            Some((at, what)) => _ = writeln!(text, "  nearest: {what} at {:.3} s", self.seconds(*at)),
            None => text.push_str("  no crash\n"),
        }
        text
    }

    fn seconds(&self, at: Instant) -> f64 {
        at.saturating_duration_since(self.began).as_secs_f64()
    }
}

#[test]
fn only_a_changed_form_beside_a_crash_excuses_a_second_id() {
    let began = Instant::now();
    let at = |millis| began + Duration::from_millis(millis);
    let sighting = |id: &str, millis| Sighting {
        id: id.to_owned(),
        first: at(millis),
        last: at(millis),
        packets: vec![],
        array: true,
        answers: vec![Some(200)],
    };
    let repeated = |customer: &str| RepeatedPacket {
        packet: format!("{customer}2-0 1.1"),
        sightings: vec![sighting("msg_1", 20_000), sighting("msg_2", 21_000)],
    };
    let judge = |crash, reload| {
        let timeline = Timeline {
            began,
            old_forms: Duration::from_secs(2),
            crashes: vec![(at(crash), "a kill".to_owned())],
            reloads: vec![(at(reload), BTreeSet::from(["shaped"]))],
        };
        let verdict = timeline.judge(&[repeated("busy"), repeated("shaped")]);
        (verdict.excused.get(CHANGED_FORM).copied().unwrap_or_default(), verdict.failures.len())
    };
    assert_eq!(judge(20_500, 20_400), (1, 1), "the one that has another form");
    assert_eq!(judge(19_000, 20_400), (0, 2), "the crash was before");
    assert_eq!(judge(20_500, 21_500), (0, 2), "the reload was after");
    assert_eq!(judge(20_500, 1_000), (0, 2), "the reload was long before");
}
