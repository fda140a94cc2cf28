//! What a lane costs in memory: at most 2 KiB while it is active, nothing when its group is idle. Counted by the allocator, for the test's own thread, so
//! that it is the same in each run.

use std::time::Duration;

use allocation_counter::measure;
use pushline_model::{Attempt, Iccid, NoResponse, Outcome, Packet, RegistryBuilder, Webhook};
use pushline_queue::{Frame, FrameBuilder, Horizon, Record};

use super::*;

const GROUPS: usize = 10_000;
const AT_MOST: u64 = 2048;

/// One record of 200 bytes for each group.
fn frame(base: Offset, log_time: Timestamp) -> Frame {
    let mut builder = FrameBuilder::default();
    let payload = [b'x'; 200];
    let packet = Packet {
        iccid: Iccid::from_bytes(b"897612653856781234").unwrap(),
        topic: "o0/897612653856781234",
        received_at: Timestamp(1 << 50),
        payload: &payload,
    };
    (0..GROUPS).for_each(|number| builder.push(&Record::packet(&format!("o{number}/line"), &packet)));
    builder.seal(base, base, log_time)
}

/// Ten groups a webhook, so that each holds little of a budget that is large enough for all.
fn core(now: Now, budgets: &Arc<Budgets>) -> Core {
    let mut builder = RegistryBuilder::default();
    for number in 0..GROUPS {
        let webhook = format!("w{}", number / 10);
        if number % 10 == 0 {
            builder.webhook(Webhook::new(&webhook, "http://a.example/".parse().unwrap())).unwrap();
        }
        builder.group(format!("o{number}/line").parse().unwrap(), Some(&webhook), false).unwrap();
    }
    let webhooks = Arc::new(Webhooks::new(Arc::new(builder.build()), budgets));
    let log = LogState { end: 0, horizon: Some(Horizon { offset: 0, time: Timestamp(1 << 50) }) };
    Core::new(0, webhooks, Restart::default(), Tuning::new(Duration::from_hours(72)), Start { log, now }, budgets)
}

/// Bytes a lane that are held since before.
fn each(held: &mut u64, during: impl FnOnce()) -> u64 {
    let more = measure(during).bytes_current;
    *held = held.checked_add_signed(more).expect("what is given back was held");
    *held / GROUPS as u64
}

#[test]
fn an_active_lane_takes_at_most_2_kib_and_an_idle_group_nothing() {
    let mut now = Now { monotonic: Instant::now(), wall: Timestamp(1 << 50) };
    let (budgets, end) = (Budgets::new(1 << 30), GROUPS as Offset);
    let (mut core, first) = (core(now, &budgets), frame(0, now.wall));
    let (mut held, mut sent, mut effects) = (0, Vec::with_capacity(GROUPS), Effects::default());
    let log = |end, now: Now| LogState { end, horizon: Some(Horizon { offset: end, time: now.wall }) };
    let later = |now: &mut Now, by: Duration| *now = Now { monotonic: now.monotonic + by, wall: now.wall.plus(by) };
    let unfinished = each(&mut held, || core.on(Event::LiveFrame { frame: &first, log: log(end, now) }, now, &budgets, &mut effects));
    assert_eq!(core.lanes.len(), GROUPS);
    later(&mut now, Duration::from_secs(2));
    let in_flight = each(&mut held, || {
        core.on(Event::TimePassed { log: log(end, now), overflow: None }, now, &budgets, &mut effects);
        sent.extend(effects.attempts.drain(..).map(|start| (start.key, start.permit)));
        effects = Effects::default();
    });
    assert_eq!(sent.len(), GROUPS);
    let attempt = Attempt { at: Timestamp(1 << 50), took: Duration::ZERO, status: None, no_response: Some(NoResponse::Timeout) };
    let ended = |key, permit, outcome| AttemptEnded { key, permit, outcome, attempt: attempt.clone(), jitter: 0.5 };
    // The first message of each webhook is sent again at once, and probes it.
    let (mut read, mut probes) = (None, Vec::with_capacity(GROUPS));
    let between = each(&mut held, || {
        for (key, permit) in sent.drain(..) {
            let outcome = Outcome::NoResponse(NoResponse::Timeout);
            core.on(Event::AttemptsEnded(&mut vec![ended(key, permit, outcome)]), now, &budgets, &mut effects);
            probes.append(&mut effects.attempts);
            read = effects.read.take().or(read);
            effects = Effects::default();
        }
    });
    println!(
        "bytes a lane: {unfinished} with an open message of one packet of 200 bytes, {in_flight} with it in flight, {between} of an unresponsive webhook"
    );
    assert!(unfinished.max(in_flight).max(between) <= AT_MOST);

    // One after the other has its answer; what is left is space for as many lanes again, and for nothing more after the next round.
    let (mut left, mut frames) = (Vec::new(), vec![first]);
    for round in 0..3 {
        let next = (round > 0).then(|| frame(round * end, now.wall));
        frames.extend(next.clone());
        left.push(each(&mut held, || {
            next.iter()
                .for_each(|frame| core.on(Event::LiveFrame { frame, log: log((round + 1) * end, now) }, now, &budgets, &mut effects));
            // Three messages each at the most, one after the other where a webhook is unresponsive.
            for _ in 0..100 {
                probes.append(&mut effects.attempts);
                read = effects.read.take().or(read);
                if let Some(ReadBlock { from, .. }) = read.take() {
                    let from = usize::try_from(from / end).unwrap();
                    core.on(Event::CatchUpBlock { frames: &frames[from..] }, now, &budgets, &mut effects);
                } else {
                    let accepted = |start: StartAttempt| ended(start.key, start.permit, Outcome::Accepted { status: 200 });
                    let mut all: Vec<AttemptEnded> = probes.drain(..).map(accepted).collect();
                    core.on(Event::AttemptsEnded(&mut all), now, &budgets, &mut effects);
                }
                probes.append(&mut effects.attempts);
                read = effects.read.take().or(read);
                later(&mut now, Duration::from_secs(2));
                core.on(Event::TimePassed { log: log((round + 1) * end, now), overflow: None }, now, &budgets, &mut effects);
            }
            effects = Effects::default();
            assert_eq!(core.lanes.len(), 0, "lanes are left");
        }));
    }
    println!("bytes a group that are left when all are idle, round by round: {left:?}");
    assert!(left[2] <= left[1] && left[1] <= AT_MOST / 2);
}
