//! The core at edges that random schedules seldom come to.

use pushline_model::{
    Cause, DeadLetter, DeadPacket, LocalFailure, LocalFailureKind, MessageId, NoResponse, Outcome, RecordPlace, ResponseHeaders,
};
use pushline_queue::{Kind, Record, Replay};

use super::{
    bench::{
        BEGIN, Bench, GROUP, at, checkpoint, frame, frame_of, record_frame, registry, replay_frame, restart, seconds, tick_frame, webhook,
    },
    expiry::Limit,
    *,
};
use crate::checkpoint::{Checkpoint, OpenWindow};

const BEFORE_100: Option<Limit> = Some(Limit { before: Timestamp((1 << 50) + 1_000_000_000), below: 0 });

fn window(opened: Timestamp, cut_from: bool) -> Option<OpenWindow> {
    Some(OpenWindow { opened, cut_from, dead_lettered: None })
}

/// A start with a lane that is behind, from `batched_until` on.
fn restarted(checkpoint: Checkpoint) -> Bench {
    Bench::with(registry(webhook(), true), restart(checkpoint), 1 << 20)
}

/// The same, without a webhook of the group.
fn restarted_without_webhook(checkpoint: Checkpoint) -> Bench {
    Bench::with(registry(webhook(), false), restart(checkpoint), 1 << 20)
}

fn accept(bench: &mut Bench) {
    bench.pass(seconds(2));
    bench.accept_all();
}

fn dead_packet(iccid: &str) -> DeadPacket {
    DeadPacket { received_at: at(0), topic: "o/1".into(), iccid: iccid.into(), payload: b"ABC".to_vec() }
}

fn replay(iccid: &str) -> Replay {
    Replay { message_id: MessageId([7; 16]), array: false, packets: vec![dead_packet(iccid)] }
}

// --- windows

#[test]
fn a_window_closes_by_the_horizon_one_length_after_its_first_record_was_stored() {
    let mut bench = Bench::new(webhook(), true);
    bench.live(&frame(0, at(0), 1));
    bench.pass(seconds(1) - Duration::from_nanos(200));
    assert!(bench.in_flight.is_empty(), "too early");
    bench.pass(Duration::from_millis(1));
    assert_eq!(bench.shapes(), [(0, 1, false)]);
}

#[test]
fn a_horizon_that_stands_still_closes_nothing_and_burns_no_core() {
    let mut bench = Bench::new(webhook(), true);
    bench.live(&frame(0, at(0), 1));
    let (mut looks, began) = (0, bench.now.monotonic);
    while bench.now.monotonic < began + seconds(10) {
        bench.now.monotonic = bench.effects.wake_at.unwrap().max(bench.now.monotonic);
        let log = LogState { end: 1, horizon: bench.core.windows_horizon() };
        bench.on(Event::TimePassed { log, overflow: None });
        looks += 1;
    }
    assert!(bench.in_flight.is_empty() && looks < 50, "{looks} looks in 10 s");
    bench.pass(seconds(2));
    assert_eq!(bench.shapes(), [(0, 1, false)]);
}

#[test]
fn a_tick_is_appended_once_when_a_window_is_due_and_closes_it_when_it_is_read() {
    let mut bench = Bench::new(webhook(), true).without_horizon();
    bench.live(&frame(0, at(0), 1));
    bench.pass(seconds(1));
    assert_eq!(bench.ticks, 0);
    bench.pass(Duration::from_millis(10));
    assert_eq!(bench.ticks, 1);
    bench.on(Event::TickEnded(Ok(1)));
    bench.pass(seconds(5));
    assert_eq!((bench.ticks, bench.in_flight.len()), (1, 0), "none while one is out, and nothing closes before it is read");
    bench.live(&tick_frame(1, at(1)));
    assert_eq!((bench.shapes(), bench.core.status(bench.now).unsettled), (vec![(0, 1, false)], 1));
}

#[test]
fn a_tick_that_closed_nothing_says_when_the_next_one_can() {
    let mut bench = Bench::new(webhook(), true).without_horizon();
    bench.live(&frame(0, at(100), 1));
    bench.pass(Duration::from_millis(1010));
    bench.on(Event::TickEnded(Ok(1)));
    // The broker's clock stepped back by less than a window.
    bench.live(&tick_frame(1, BEGIN.plus(Duration::from_millis(99_500))));
    bench.pass(Duration::from_millis(1500));
    assert_eq!(bench.ticks, 1);
    bench.pass(Duration::from_millis(10));
    assert_eq!((bench.ticks, bench.in_flight.len()), (2, 0));
}

#[test]
fn refused_ticks_are_tried_again_ever_more_seldom_and_told_once() {
    let mut bench = Bench::new(webhook(), true).without_horizon();
    bench.live(&frame(0, at(0), 1));
    bench.pass(Duration::from_millis(1010));
    let mut tried = 0;
    for _ in 0..60 {
        if bench.ticks > tried {
            tried = bench.ticks;
            bench.on(Event::TickEnded(Err(TickRefused("not authorised".to_owned()))));
        }
        bench.pass(Duration::from_millis(500));
    }
    assert!((8..14).contains(&tried), "{tried} ticks in 30 s");
    assert_eq!(bench.notices, [Notice::TicksRefused { why: "not authorised".to_owned() }]);
    bench.pass(seconds(5));
    bench.on(Event::TickEnded(Ok(1)));
    assert_eq!(bench.notices.last(), Some(&Notice::TicksResumed));
}

#[test]
fn a_record_far_before_the_opening_closes_a_window_too() {
    let mut bench = Bench::new(webhook(), true).without_horizon();
    bench.live(&frame(0, at(100), 1));
    bench.live(&frame(1, at(101), 1));
    assert_eq!(bench.shapes(), [(0, 1, false)]);
    bench.live(&frame(2, at(100), 1));
    assert_eq!(bench.shapes(), [(0, 1, false), (1, 1, false)]);
}

#[test]
fn a_lane_that_is_behind_is_cut_by_the_records_on_its_way_as_a_live_one_is() {
    let other = |base, at: Timestamp| record_frame(base, at, &Record { group: "", at, kind: Kind::Foreign { why: "" }, payload: b"" });
    let log = || [frame(0, at(0), 2), other(2, at(1)), frame(3, at(0), 1), frame(4, at(0), 1)];
    let mut live = Bench::new(webhook(), true).without_horizon();
    log().iter().for_each(|frame| live.live(frame));
    let mut behind = restarted(checkpoint(5, 0, None)).without_horizon();
    behind.frames = log().to_vec();
    behind.pass(Duration::ZERO);
    behind.catch_up_all();
    for bench in [&mut live, &mut behind] {
        bench.live(&tick_frame(5, at(1)));
        assert_eq!(bench.shapes(), [(0, 2, true), (3, 2, true)]);
    }
}

#[test]
fn a_record_below_what_was_batched_touches_no_window() {
    let mut saved = checkpoint(4, 3, window(at(5), true));
    saved.lanes[0].messages = vec![crate::checkpoint::MessageSpan { first: 0, last: 1, count: 2, array: true, replay: false }];
    let mut bench = restarted(saved);
    bench.horizon = Some(at(5));
    bench.frames = vec![frame(0, at(0), 2), tick_frame(2, at(0)), frame(3, at(5), 1)];
    bench.pass(Duration::ZERO);
    bench.catch_up_all();
    bench.pass(seconds(1));
    assert_eq!(bench.shapes(), [(0, 2, true), (3, 1, true)], "the last is an array, for its window was cut from");
}

#[test]
fn an_open_window_keeps_its_lane_until_it_is_over() {
    let mut webhook = webhook();
    webhook.max_packets = 2;
    let mut bench = Bench::new(webhook, true);
    bench.live(&frame(0, at(0), 2));
    bench.accept_all();
    assert_eq!(bench.lanes(), (1, 0));
    bench.live(&frame(2, at(0), 1));
    bench.pass(seconds(1));
    assert_eq!(bench.shapes(), [(2, 1, true)]);
    bench.accept_all();
    assert_eq!(bench.lanes(), (0, 0));
}

#[test]
fn windows_that_came_and_went_leave_nothing_behind() {
    let mut bench = Bench::new(webhook(), true);
    for second in 0..1000 {
        bench.live(&frame(second, at(2 * second), 1));
        accept(&mut bench);
    }
    assert!(bench.core.windows.ends.len() < 5 && bench.core.lanes.is_empty(), "{} entries", bench.core.windows.ends.len());
}

// --- catch-up reads

#[test]
fn a_slice_goes_on_while_a_lane_wants_what_comes_next_or_soon_and_is_bounded() {
    let payload = vec![b'x'; 64 << 10];
    let iccid = "1".parse().unwrap();
    let packet = pushline_model::Packet { iccid, topic: "o/1", received_at: BEGIN, payload: &payload };
    let mut bench = restarted(checkpoint(1000, 0, None));
    bench.frames = (0..1000).map(|base| record_frame(base, BEGIN, &Record::packet(GROUP, &packet))).collect();
    bench.pass(Duration::ZERO);
    let (mut blocks, mut next) = (Vec::new(), 0);
    // Its webhook takes what it may; the rest of the slice is read while it fills a body.
    while let Some(block) = bench.block {
        assert_eq!(block.from, next, "the blocks of a slice follow each other");
        let most = if blocks.is_empty() { 256 << 10 } else { 512 << 10 };
        assert!(block.bytes <= most || blocks.len() > 1, "{block:?}");
        blocks.push(block.bytes);
        bench.catch_up();
        next = bench.core.lanes[0].read_until(1000);
        if bench.core.lanes[0].read_until(1000) == 0 {
            break;
        }
    }
    assert!(blocks.iter().sum::<usize>() <= 8 << 20, "{blocks:?}");
}

#[test]
fn while_live_reading_is_behind_the_end_catch_up_reads_get_at_most_half() {
    let mut bench = restarted(checkpoint(100, 10, None));
    (bench.core.tuning.first_block, bench.core.tuning.slice) = (1, 1);
    bench.frames = (10..100).map(|base| frame(base, at(0), 1)).collect();
    bench.pass(Duration::ZERO);
    bench.core.log_is(LogState { end: 1000, horizon: None }, bench.now);
    assert_eq!(bench.catch_up(), Some(10));
    bench.on(Event::Woken { for_catch_up: true });
    assert_eq!(bench.block, None, "live reading comes first");
    let log = LogState { end: 1000, horizon: None };
    bench.on(Event::LiveFrame { frame: &frame(100, at(0), 1), log });
    assert_eq!(bench.block.map(|block| block.from), Some(11), "it has read as much");
    assert_eq!(bench.catch_up(), Some(11));
    assert_eq!(bench.block, None);
    bench.on(Event::LiveFrame { frame: &frame(101, at(0), 1), log: LogState { end: 102, horizon: None } });
    assert!(bench.block.is_some() && bench.catch_up().is_some() && bench.block.is_some(), "at the end of the log nothing waits for it");
}

#[test]
fn lanes_of_unresponsive_webhooks_have_a_slice_after_a_tenth_of_a_second() {
    let mut bench = restarted(checkpoint(100, 10, None));
    bench.frames = vec![frame(10, at(0), 90)];
    bench.handle().budgets.breaker.open();
    bench.pass(Duration::ZERO);
    assert_eq!(bench.block, None);
    bench.pass(Duration::from_millis(60));
    bench.on(Event::Woken { for_catch_up: true });
    assert_eq!(bench.block, None, "another look doesn't put it off");
    bench.pass(Duration::from_millis(40));
    assert_eq!(bench.block.map(|block| block.from), Some(10));
}

// --- dead letters

#[test]
fn a_packet_that_expires_within_an_open_message_never_cuts_it() {
    // The clock of received_at isn't monotonic: the second is older than the first.
    let mut bench = restarted(checkpoint(3, 0, None));
    bench.frames = vec![frame_of(0, at(0), &[at(100), at(99), at(100)])];
    bench.expire(BEFORE_100);
    bench.catch_up_all();
    assert!(bench.dead_letters.is_empty());
    bench.pass(seconds(2));
    assert_eq!(bench.shapes(), [(0, 3, true)]);
}

#[test]
fn packets_that_expire_are_cut_like_others_and_keep_the_id_that_they_would_have_been_sent_under() {
    let frames = vec![frame_of(0, at(0), &[at(99), at(100), at(100)]), frame(3, at(1), 1)];
    let mut sent = restarted(checkpoint(4, 0, None));
    sent.frames = frames.clone();
    sent.pass(Duration::ZERO);
    sent.catch_up_all();
    let mut bench = restarted(checkpoint(4, 0, None));
    bench.frames = frames;
    bench.expire(BEFORE_100);
    bench.catch_up_all();
    let its = |letter: &DeadLetter| (letter.message_id.clone(), letter.record, letter.array, letter.packets.len());
    let letters: Vec<_> = bench.dead_letters.iter().flat_map(|batch| &batch.letters).map(its).collect();
    assert_eq!(
        letters,
        [(Some(sent.in_flight[0].id.to_string()), None, true, 3)],
        "the first decides, and the window isn't over for the last"
    );
    assert_eq!((bench.core.watermark(), bench.in_flight.len()), (0, 0));
    assert_eq!(bench.dead(), [Cause::Expired]);
    assert_eq!((bench.core.watermark(), bench.core.unsettled), (3, 1));
}

#[test]
fn packets_expire_though_their_webhook_may_begin_no_message() {
    let mut webhook = webhook();
    webhook.max_packets = 2;
    let mut bench = Bench::with(registry(webhook, true), restart(checkpoint(5, 0, None)), 1 << 20);
    bench.frames = vec![frame_of(0, at(0), &[at(1); 5])];
    bench.handle().budgets.suspension.extend(bench.now.monotonic + seconds(3600));
    assert!(!bench.handle().may_begin());
    bench.expire(BEFORE_100);
    bench.catch_up_all();
    assert_eq!(bench.dead(), [Cause::Expired; 2], "two messages; the third is open");
    assert_eq!((bench.core.watermark(), bench.in_flight.len()), (4, 0));
}

#[test]
fn a_window_in_which_a_packet_of_no_message_expired_is_dead_lettered_to_its_end() {
    let mut bench = restarted_without_webhook(checkpoint(4, 0, None));
    bench.frames = vec![frame_of(0, at(0), &[at(99), at(100), at(100)]), frame(3, at(1), 1)];
    bench.expire(BEFORE_100);
    bench.catch_up_all();
    assert_eq!(bench.core.checkpoint().unwrap().lanes[0].window, None, "it names the window that was open at the first of them");
    assert_eq!((bench.core.watermark(), bench.dead_letters[0].letters.len()), (0, 4), "the last was received before, too");
    bench.expire(None);
    assert_eq!(bench.dead(), [Cause::Expired; 4]);
    assert_eq!((bench.core.watermark(), bench.core.unsettled), (4, 0));
}

#[test]
fn a_live_lane_in_a_dead_lettered_window_falls_behind_without_a_refusal() {
    let mut bench = restarted_without_webhook(checkpoint(1, 0, None));
    bench.frames = vec![frame_of(0, at(0), &[at(1)])];
    bench.expire(BEFORE_100);
    bench.catch_up_all();
    assert_eq!(bench.dead(), [Cause::Expired]);
    bench.expire(None);
    bench.reload(registry(webhook(), true));
    assert_eq!(bench.lanes(), (1, 0));
    bench.live(&frame_of(1, at(0), &[at(200)]));
    assert_eq!(bench.lanes(), (0, 1));
    assert!(bench.handle().may_begin());
    bench.catch_up_all();
    assert_eq!(bench.dead(), [Cause::Expired], "it isn't old itself, and has its window's cause");
    bench.live(&frame_of(2, at(1), &[at(200)]));
    bench.pass(seconds(1));
    assert_eq!(bench.shapes(), [(2, 1, false)], "the next window is sent");
}

#[test]
fn a_replay_that_waits_for_its_webhook_in_a_dead_lettered_window_asks_for_no_read_again_and_again() {
    let mut bench = restarted_without_webhook(checkpoint(2, 0, None));
    let young = Record { group: GROUP, at: at(200), kind: Kind::Replay, payload: &replay("1").encode() };
    bench.frames = vec![frame_of(0, at(0), &[at(1)]), record_frame(1, at(0), &young)];
    bench.expire(BEFORE_100);
    bench.catch_up_all();
    bench.expire(None);
    assert_eq!(bench.dead(), [Cause::Expired]);
    for _ in 0..10 {
        bench.catch_up();
        bench.on(Event::Woken { for_catch_up: true });
    }
    assert_eq!((bench.block, bench.lanes()), (None, (0, 1)));
}

#[test]
fn dead_letters_on_their_way_keep_their_window_in_the_checkpoint() {
    let mut bench = restarted_without_webhook(checkpoint(2, 1, window(at(0), true)));
    bench.frames = vec![frame_of(1, at(0), &[at(1)])];
    bench.expire(BEFORE_100);
    bench.catch_up_all();
    bench.expire(None);
    bench.reload(registry(webhook(), true));
    bench.live(&frame_of(2, at(5), &[at(200)]));
    let lane = bench.core.checkpoint().unwrap().lanes.remove(0);
    assert_eq!((lane.batched_until, lane.window), (1, window(at(0), true)));
    assert_eq!(bench.dead(), [Cause::Expired]);
    bench.pass(seconds(1));
    assert_eq!(bench.shapes(), [(2, 1, false)]);
}

#[test]
fn a_replay_that_expires_keeps_its_id_and_its_packets_together_and_closes_the_window() {
    let mut bench = restarted(checkpoint(1, 0, window(at(0), true)));
    let replay = Replay { message_id: MessageId([7; 16]), array: true, packets: vec![dead_packet("1"); 2] };
    bench.frames = vec![replay_frame(0, at(0), &replay)];
    bench.expire(BEFORE_100);
    bench.catch_up_all();
    let letters = bench.write_dead_letters();
    let kept = (Some(replay.message_id.to_string()), replay.array, replay.packets);
    assert_eq!(letters.into_iter().map(|letter| (letter.message_id, letter.array, letter.packets)).collect::<Vec<_>>(), [kept]);
    assert_eq!(bench.lanes(), (0, 0), "its window is closed");
}

#[test]
fn a_replay_is_sent_under_its_id_and_in_its_shape_whatever_its_webhook_prefers() {
    let mut webhook = webhook();
    webhook.always_array = true;
    let mut bench = Bench::new(webhook, true);
    bench.live(&replay_frame(0, at(0), &replay("1")));
    bench.live(&replay_frame(1, at(0), &Replay { array: true, ..replay("1") }));
    assert_eq!(bench.shapes(), [(0, 1, false), (1, 1, true)]);
    assert_eq!(bench.notices, []);
}

#[test]
fn a_dead_letter_of_a_packet_in_no_message_names_its_record() {
    let mut bench = restarted_without_webhook(checkpoint(2, 1, None));
    bench.frames = vec![frame_of(1, at(0), &[at(1)])];
    bench.expire(BEFORE_100);
    bench.catch_up_all();
    let places: Vec<_> = bench.write_dead_letters().into_iter().map(|letter| (letter.message_id, letter.record)).collect();
    assert_eq!(places, [(None, Some(RecordPlace { partition: 0, offset: 1 }))]);
}

#[test]
fn a_replay_of_a_device_that_is_none_is_unreadable() {
    let mut bench = Bench::new(webhook(), true);
    bench.live(&replay_frame(0, at(0), &replay("no ICCID")));
    bench.catch_up_all();
    assert_eq!(bench.dead(), [Cause::Unreadable]);
    assert_eq!((bench.lanes(), bench.core.unsettled), ((0, 0), 0));
}

#[test]
fn a_replay_of_old_packets_does_not_expire_before_it_is_sent() {
    let mut bench = Bench::new(webhook(), true);
    bench.live(&replay_frame(0, at(1000), &replay("1")));
    bench.expire(BEFORE_100);
    assert!(bench.dead_letters.is_empty());
}

#[test]
fn no_more_dead_letters_are_made_than_can_be_written() {
    let mut bench = Bench::new(webhook(), false);
    bench.live(&frame(0, at(0), 3000));
    for base in 3000..4000 {
        bench.live(&record_frame(base, at(0), &Record { group: "", at: at(0), kind: Kind::Foreign { why: "" }, payload: b"" }));
    }
    bench.catch_up_all();
    let most = bench.core.tuning.dead_letter_bytes;
    let mut letters = Vec::new();
    bench.pass(bench.core.tuning.unknown_for);
    loop {
        bench.catch_up_all();
        assert!(bench.core.dead_letters.unwritten.bytes < most + 4096, "{}", bench.core.dead_letters.unwritten.bytes);
        if bench.dead_letters.is_empty() {
            break;
        }
        letters.push(bench.write_dead_letters().len());
    }
    bench.pass(seconds(2));
    assert_eq!((letters.iter().sum::<usize>(), bench.core.dead_letters.unwritten.bytes, bench.lanes()), (4000, 0, (0, 0)), "{letters:?}");
}

#[test]
fn an_attempt_keeps_its_permit_though_its_message_was_dead_lettered() {
    let mut webhook = webhook();
    webhook.concurrency = 1;
    let mut bench = Bench::new(webhook, true);
    for base in 0..2 {
        bench.live(&frame(base, bench.horizon.unwrap(), 1));
        bench.pass(seconds(1));
        bench.expire(Some(Limit { before: BEGIN, below: 1 }));
        bench.dead();
    }
    assert_eq!((bench.in_flight.len(), bench.core.watermark()), (1, 1), "the first is gone, and its attempt still in flight");
    bench.end_attempt(Outcome::Accepted { status: 200 });
    assert_eq!((bench.in_flight.len(), bench.delivered), (1, 0));
}

// --- breakers

#[test]
fn an_opening_from_before_the_start_evicts_nothing_and_one_after_it_does() {
    let mut bench = Bench::new(webhook(), true);
    let breaker = Arc::clone(&bench.handle().budgets.breaker);
    breaker.open();
    breaker.close();
    let webhooks = Arc::clone(&bench.core.webhooks);
    let start = Start { log: LogState { end: 0, horizon: None }, now: bench.now };
    bench.core = Core::new(0, webhooks, Restart::default(), bench.core.tuning, start, &bench.budgets);
    bench.live(&frame(0, at(0), 1));
    assert_eq!(bench.lanes(), (1, 0));
    breaker.open();
    bench.on(Event::Woken { for_catch_up: true });
    assert_eq!(bench.lanes(), (0, 1));
}

#[test]
fn an_unresponsive_webhook_probes_with_one_message_until_it_answers() {
    let mut webhook = webhook();
    webhook.max_packets = 1;
    let mut bench = Bench::new(webhook, true);
    bench.live(&frame(0, at(0), 5));
    assert_eq!(bench.in_flight.len(), 5);
    for _ in 0..5 {
        bench.end_attempt(Outcome::NoResponse(NoResponse::ConnectionLost("reset".into())));
    }
    bench.pass(seconds(10));
    bench.catch_up_all();
    assert_eq!(bench.shapes(), [(0, 1, false)]);
    bench.end_attempt(Outcome::ErrorResponse { status: 500, response: Vec::new(), headers: ResponseHeaders::default() });
    assert_eq!(bench.dead(), [Cause::ErrorResponse]);
    bench.catch_up_all();
    assert_eq!(bench.in_flight.len(), 4);
}

#[test]
fn beside_the_probe_of_an_unresponsive_webhook_a_local_failure_keeps_no_body() {
    let mut webhook = webhook();
    webhook.max_packets = 1;
    let mut bench = Bench::new(webhook, true);
    bench.live(&frame(0, at(0), 3));
    bench.end_attempt(Outcome::NoResponse(NoResponse::ConnectionLost("reset".into())));
    let local = LocalFailure { kind: LocalFailureKind::Route, retry_after: seconds(1) };
    bench.end_attempt(Outcome::LocalFailure(local));
    bench.end_attempt(Outcome::LocalFailure(local));
    let lane = bench.core.lanes.iter_mut().next().unwrap().1;
    let evicted: Vec<bool> = (0..3).map(|first| lane.message(first).unwrap().is_evicted()).collect();
    assert_eq!(evicted, [false, true, true]);
}

// --- suspension and rate

fn busy(retry_after: &str) -> Outcome {
    Outcome::ErrorResponse {
        status: 503,
        response: Vec::new(),
        headers: ResponseHeaders { retry_after: Some(retry_after.into()), location: None },
    }
}

#[test]
fn a_server_that_asks_for_it_is_left_alone_and_its_messages_wait_without_bodies() {
    let mut webhook = webhook();
    (webhook.max_packets, webhook.concurrency, webhook.retry_on_status) = (1, 2, vec![503]);
    let mut bench = Bench::new(webhook, true);
    bench.live(&frame(0, at(0), 5));
    assert_eq!(bench.in_flight.len(), 2);
    bench.end_attempt(busy("30"));
    bench.end_attempt(busy("20"));
    assert!(bench.in_flight.is_empty());
    bench.pass(seconds(2));
    bench.live(&frame(5, at(2), 1));
    bench.pass(seconds(27));
    bench.catch_up_all();
    let held = bench.handle().budgets.memory.held();
    assert_eq!(
        (bench.in_flight.len(), held, bench.core.status(bench.now).suspended),
        (0, 0, 1),
        "bodies are evicted, also when a delay ends"
    );
    bench.pass(seconds(2));
    bench.catch_up_all();
    assert_eq!((bench.shapes(), bench.core.status(bench.now).suspended), (vec![(0, 1, false), (1, 1, false)], 0));
    // The attempts before count.
    bench.end_attempt(busy("0"));
    bench.pass(seconds(6));
    bench.catch_up_all();
    while bench.in_flight.front().is_some_and(|start| start.key.first != 0) {
        bench.end_attempt(Outcome::Accepted { status: 200 });
    }
    bench.end_attempt(busy("soon"));
    let letter = bench.write_dead_letters().pop().unwrap();
    assert_eq!((letter.cause, letter.attempts.len(), letter.headers.retry_after.as_deref()), (Cause::ErrorResponse, 3, Some("soon")));
}

#[test]
fn the_last_attempt_suspends_the_webhook_too_and_a_status_that_is_not_retried_does_not() {
    let mut webhook = webhook();
    (webhook.max_packets, webhook.retries, webhook.concurrency, webhook.retry_on_status) = (1, 0, 1, vec![503]);
    let mut bench = Bench::new(webhook, true);
    bench.live(&frame(0, at(0), 3));
    let Outcome::ErrorResponse { response, headers, .. } = busy("9") else { unreachable!() };
    bench.end_attempt(Outcome::ErrorResponse { status: 429, response, headers });
    assert_eq!(bench.shapes(), [(1, 1, false)]);
    let begun = bench.now.wall;
    bench.end_attempt(busy("9"));
    assert_eq!(bench.dead(), [Cause::ErrorResponse; 2]);
    bench.pass(seconds(8));
    bench.catch_up_all();
    assert!(bench.in_flight.is_empty());
    bench.pass(seconds(1));
    bench.catch_up_all();
    assert_eq!(bench.shapes(), [(2, 1, false)]);
    // Operators read of its begin and of its end.
    let (webhook, until) = ("w".to_owned(), begun.plus(seconds(9)));
    assert_eq!(bench.notices, [Notice::Suspended { webhook: webhook.clone(), until }, Notice::SuspensionOver { webhook }]);
}

#[test]
fn a_webhook_that_moves_to_another_server_is_no_longer_suspended() {
    let mut webhook = webhook();
    (webhook.max_packets, webhook.retry_on_status) = (1, vec![503]);
    let mut bench = Bench::new(webhook.clone(), true);
    bench.live(&frame(0, at(0), 1));
    bench.end_attempt(busy("3600"));
    bench.pass(seconds(9));
    webhook.description = "the same server".into();
    bench.reload(registry(webhook.clone(), true));
    bench.catch_up_all();
    assert!(bench.in_flight.is_empty());
    webhook.url = "http://b.example/".parse().unwrap();
    bench.reload(registry(webhook, true));
    bench.catch_up_all();
    assert_eq!(bench.shapes(), [(0, 1, false)]);
}

#[test]
fn attempts_of_a_webhook_with_a_rate_start_one_interval_after_the_other() {
    let mut webhook = webhook();
    (webhook.max_packets, webhook.rate) = (1, Some("2/s".parse().unwrap()));
    let mut bench = Bench::new(webhook, true);
    bench.live(&frame(0, at(0), 5));
    for started in 1..=4 {
        assert_eq!(bench.in_flight.len(), started);
        bench.pass(Duration::from_millis(499));
        assert_eq!(bench.in_flight.len(), started);
        bench.pass(Duration::from_millis(1));
    }
}

// --- reload

/// Three packets of a group without webhook wait from this moment on, which is now.
fn becomes_dead_letters_after_five_minutes(bench: &mut Bench) {
    bench.catch_up_all();
    bench.pass(Duration::from_mins(5) - Duration::from_millis(1));
    bench.catch_up_all();
    assert!(bench.dead_letters.is_empty(), "too early");
    assert_eq!(bench.core.watermark(), 0);
    bench.pass(Duration::from_millis(1));
    bench.catch_up_all();
    assert_eq!(bench.dead_letters[0].letters.len(), 3, "one for each packet, since no message was cut");
    assert_eq!((bench.core.watermark(), bench.core.unsettled), (0, 3), "not settled before they are durable");
    assert_eq!(bench.dead(), [Cause::NoWebhook; 3]);
    bench.pass(seconds(2));
    assert_eq!((bench.core.watermark(), bench.core.unsettled, bench.lanes()), (3, 0, (0, 0)));
}

#[test]
fn a_group_without_webhook_keeps_its_packets_for_five_minutes_from_the_birth_of_its_lane() {
    let mut bench = Bench::new(webhook(), false);
    bench.pass(Duration::from_mins(2));
    bench.live(&frame(0, bench.horizon.unwrap(), 3));
    becomes_dead_letters_after_five_minutes(&mut bench);
}

#[test]
fn a_group_without_webhook_keeps_its_packets_for_five_minutes_from_the_start() {
    let mut bench = Bench::with(registry(webhook(), false), restart(checkpoint(3, 0, None)), 1 << 20);
    bench.frames = vec![frame(0, at(0), 3)];
    becomes_dead_letters_after_five_minutes(&mut bench);
}

#[test]
fn a_group_that_lost_its_webhook_keeps_its_packets_for_five_minutes_from_the_reload() {
    let mut bench = Bench::new(webhook(), true);
    bench.pass(Duration::from_mins(4));
    bench.live(&frame(0, bench.horizon.unwrap(), 3));
    bench.reload(registry(webhook(), false));
    becomes_dead_letters_after_five_minutes(&mut bench);
}

#[test]
fn what_comes_for_a_group_without_webhook_while_a_message_is_in_flight_asks_for_a_catch_up_read() {
    let mut bench = Bench::new(webhook(), true);
    bench.live(&frame(0, at(0), 1));
    bench.pass(seconds(1));
    bench.reload(registry(webhook(), false));
    bench.pass(Duration::from_mins(6));
    bench.catch_up_all();
    bench.live(&frame(1, bench.horizon.unwrap(), 1));
    assert_eq!(bench.block.map(|block| block.from), Some(1), "nothing else tells of it");
}

#[test]
fn a_group_that_gets_its_webhook_within_five_minutes_has_its_packets_sent() {
    let mut bench = Bench::new(webhook(), false);
    bench.live(&frame(0, at(0), 3));
    bench.pass(Duration::from_mins(4));
    bench.reload(registry(webhook(), true));
    bench.pass(Duration::from_mins(6));
    bench.catch_up_all();
    bench.pass(seconds(1));
    assert!(bench.dead_letters.is_empty());
    assert_eq!(bench.shapes(), [(0, 3, true)]);
}

#[test]
fn a_window_that_was_cut_from_keeps_no_lane_of_a_group_without_webhook_longer_than_the_window() {
    let mut bench = Bench::with(registry(webhook(), false), restart(checkpoint(3, 3, window(BEGIN, true))), 1 << 20);
    assert_eq!(bench.lanes(), (1, 0));
    bench.pass(seconds(2));
    assert_eq!(bench.lanes(), (0, 0));
}

#[test]
fn a_reload_is_saved_right_after() {
    let mut bench = Bench::new(webhook(), true);
    bench.pass(Duration::ZERO);
    bench.live(&frame(0, at(0), 1));
    assert_eq!(bench.save, None);
    bench.reload(registry(webhook(), true));
    assert!(bench.save.is_some());
}

#[test]
fn messages_cut_by_other_rules_than_the_checkpoints_are_excused_up_to_the_end_at_the_start() {
    let mut other = webhook();
    other.max_packets = 2;
    let mut saved = restart(checkpoint(3, 0, None));
    saved.end_at_start = 4;
    let mut bench = Bench::with(registry(other, true), saved, 1 << 20);
    bench.frames = vec![frame(0, at(0), 3)];
    bench.pass(Duration::ZERO);
    bench.catch_up_all();
    bench.live(&frame(3, at(0), 3));
    let excused = |bench: &Bench| {
        bench.notices.iter().map(|notice| if let Notice::Excused { messages, .. } = notice { *messages } else { 0 }).sum::<u64>()
    };
    assert_eq!((bench.shapes().len(), excused(&bench)), (3, 2), "{:?}", bench.notices);
}

// --- the oldest packet

#[test]
fn the_oldest_unsettled_packet_is_known_within_a_second() {
    let mut bench = Bench::new(webhook(), true);
    let oldest = |bench: &Bench| bench.core.status(bench.now).oldest;
    bench.live(&frame(0, at(0), 1));
    bench.pass(Duration::ZERO);
    let from = bench.look_at.take().expect("the first check is due at once");
    bench.on(Event::OldestRead(OldestRead { from, received_at: None, overflow: None }));
    bench.pass(seconds(2));
    assert_eq!((oldest(&bench), bench.look_at), (Some(at(0)), None), "its body tells");
    // Its body leaves memory: the record is read.
    bench.end_attempt(Outcome::NoResponse(NoResponse::ConnectionLost("reset".into())));
    bench.handle().budgets.breaker.close();
    bench.pass(seconds(30));
    bench.accept_all();
    bench.pass(seconds(2));
    assert_eq!(oldest(&bench), None);
}

#[test]
fn a_wall_clock_that_jumps_ahead_expires_nothing() {
    let mut bench = Bench::new(webhook(), false);
    bench.live(&frame(0, at(0), 1));
    let check = |bench: &mut Bench| {
        bench.pass(Duration::from_mins(2));
        let from = bench.look_at.take().expect("the oldest record is read");
        bench.on(Event::OldestRead(OldestRead { from, received_at: Some(at(0)), overflow: None }));
        bench.core.expiry.limit.is_some()
    };
    assert!(!check(&mut bench));
    let true_time = bench.now.wall;
    bench.now.wall = true_time.plus(Duration::from_hours(24 * 15));
    assert!(!check(&mut bench), "the clock was just set");
    bench.now.wall = true_time;
    assert!(!check(&mut bench));
    bench.now.wall = true_time.plus(Duration::from_hours(24 * 15));
    assert!(!check(&mut bench));
    assert!(check(&mut bench), "it stays there");
}

// --- leaving

#[test]
fn a_task_that_leaves_starts_nothing_waits_for_what_is_in_flight_and_saves_last() {
    let mut bench = Bench::new(webhook(), true);
    bench.live(&frame(0, at(0), 10));
    bench.live(&frame(10, at(0), 1));
    bench.on(Event::Leave(Leave::at_shutdown(bench.now.monotonic, seconds(10))));
    bench.pass(seconds(2));
    assert_eq!((bench.in_flight.len(), bench.left, bench.core.reads_live()), (1, false, false));
    bench.accept_all();
    assert!(std::mem::take(&mut bench.effects.abort_attempts) && bench.save.is_none());
    bench.on(Event::AttemptsAborted);
    let save = bench.save.take().expect("the last save");
    assert_eq!(save.watermark, 10);
    bench.on(Event::SaveEnded(SaveEnded::Durable));
    assert!(bench.left && bench.core.lanes.is_empty());
    assert_eq!(bench.budgets.free(), 1 << 20);
}

#[test]
fn a_task_that_leaves_waits_neither_for_an_unresponsive_webhook_nor_for_ever() {
    let mut bench = Bench::new(webhook(), true);
    bench.live(&frame(0, at(0), 10));
    bench.on(Event::Leave(Leave::revoked(bench.now.monotonic, seconds(2))));
    bench.pass(Duration::from_millis(1400));
    assert!(!bench.effects.abort_attempts);
    bench.pass(Duration::from_millis(100));
    assert!(bench.effects.abort_attempts);
    bench.on(Event::AttemptsAborted);
    assert!(bench.save.is_some() && !bench.left);
    bench.pass(Duration::from_millis(500));
    assert!(bench.left);
    assert_eq!(bench.notices, [Notice::AttemptsCutOff, Notice::LastSaveCutOff]);

    let mut bench = Bench::new(webhook(), true);
    bench.live(&frame(0, at(0), 10));
    bench.handle().budgets.breaker.open();
    bench.on(Event::Leave(Leave::at_shutdown(bench.now.monotonic, seconds(10))));
    assert!(bench.effects.abort_attempts);
}
