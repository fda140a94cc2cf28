//! What a lane costs in memory (DESIGN.md section 6): at most 2 KiB while it is active, nothing when its group is idle. Counted by the allocator,
//! for the test's own thread, so that it is the same in each run.

use std::time::Duration;

use allocation_counter::measure;
use pushline_model::{Attempt, Iccid, NoResponse, Outcome, Packet, RegistryBuilder, Webhook};
use pushline_queue::{FrameBuilder, Record};

use super::{sweeps::Sweep, *};
use crate::{
    Egress, Network,
    checkpoint::{Restart, Saved},
    room::Room,
};

const GROUPS: usize = 10_000;
const AT_MOST: u64 = 2048;

/// One record of 200 bytes for each group.
fn frame(base: Offset) -> Frame {
    let mut builder = FrameBuilder::default();
    let payload = [b'x'; 200];
    let packet = Packet {
        iccid: Iccid::from_bytes(b"897612653856781234").unwrap(),
        topic: "o0/897612653856781234",
        received_at: Timestamp(1 << 50),
        payload: &payload,
    };
    (0..GROUPS).for_each(|number| builder.push(&Record::packet(&format!("o{number}/line"), &packet)));
    builder.seal(base, base, pushline_model::Timestamp(base))
}

/// Ten groups a webhook, so that each holds little of a room that is large enough for all.
fn lanes(now: Instant) -> Lanes {
    let mut builder = RegistryBuilder::default();
    for number in 0..GROUPS {
        let webhook = format!("w{}", number / 10);
        if number % 10 == 0 {
            builder.webhook(Webhook::new(&webhook, "http://a.example/".parse().unwrap())).unwrap();
        }
        builder.group(format!("o{number}/line").parse().unwrap(), Some(&webhook), false).unwrap();
    }
    let (room, network) = (Room::new(1 << 30), Network::new(Egress::default()).unwrap());
    let outlets = Arc::new(Outlets::new(Arc::new(builder.build()), &room, &network).unwrap());
    Lanes::new(0, outlets, Restart::new(Saved::default(), &(0..0), false), now)
}

/// Bytes a lane that are held since before.
fn each(held: &mut u64, during: impl FnOnce()) -> u64 {
    let more = measure(during).bytes_current;
    *held = held.checked_add_signed(more).expect("what is given back was held");
    *held / GROUPS as u64
}

#[test]
fn an_active_lane_takes_at_most_2_kib_and_an_idle_group_nothing() {
    let now = Instant::now();
    let later = now + Duration::from_secs(2);
    let (mut lanes, frame, end) = (lanes(now), frame(0), GROUPS as Offset);
    let (mut held, mut sent) = (0, Vec::with_capacity(GROUPS));
    let unfinished = each(&mut held, || _ = lanes.live(&frame, end, now));
    assert_eq!(lanes.count(), (GROUPS, 0));
    let in_flight = each(&mut held, || {
        lanes.tick(end, later);
        lanes.dispatch(|sending| sent.push((sending.key, Arc::clone(&sending.outlet))));
    });
    assert_eq!(sent.len(), GROUPS);
    let attempt = Attempt { at: Timestamp(1 << 50), took: Duration::ZERO, status: None, no_response: Some(NoResponse::Timeout) };
    let between = each(&mut held, || {
        for (key, _) in &sent {
            lanes.outcome(*key, Outcome::NoResponse(NoResponse::Timeout), attempt.clone(), 0.5, later);
        }
    });
    println!(
        "bytes a lane: {unfinished} with an unfinished message of one packet of 200 bytes, {in_flight} with it in flight, {between} of a suspect webhook"
    );
    assert!(unfinished.max(in_flight).max(between) <= AT_MOST);

    // One after the other has its answer; what is left is room for as many lanes again, and for nothing more after the next round.
    let mut left = Vec::new();
    for round in 0..3 {
        let frame = if round == 0 { None } else { Some(self::frame(round * end)) };
        left.push(each(&mut held, || {
            frame.iter().for_each(|frame| _ = lanes.live(frame, (round + 1) * end, later));
            let mut at = later + Duration::from_secs(10);
            // Three messages each at the most, one after the other where a webhook is suspect.
            for _ in 0..100 {
                at += Duration::from_secs(2);
                lanes.tick(lanes.head(), at);
                if let Some(from) = lanes.sweep_from(Sweep::Near) {
                    let all: Vec<Frame> = (0..=round).map(|round| self::frame(round * end)).collect();
                    lanes.sweep(from, &all[usize::try_from(from / end).unwrap()..], at, Timestamp(1 << 50));
                }
                let mut sent = Vec::new();
                lanes.dispatch(|sending| sent.push(sending.key));
                for key in sent {
                    lanes.outcome(key, Outcome::Accepted { status: 200 }, attempt.clone(), 0.5, at);
                }
            }
            assert_eq!(lanes.count(), (0, 0), "lanes are left");
        }));
    }
    println!("bytes a group that are left when all are idle, round by round: {left:?}");
    assert!(left[2] <= left[1] && left[1] <= AT_MOST / 2);
}
