//! Lanes at edges that random schedules seldom come to.

use std::{sync::LazyLock, time::Duration};

use pushline_model::{Attempt, Cause, DeadPacket, Iccid, MessageId, Outcome, Packet, Registry, RegistryBuilder, Webhook};
use pushline_queue::{FrameBuilder, Kind};

use super::{reload::UNKNOWN_FOR, *};
use crate::{
    Egress, Network,
    checkpoint::{Checkpoint, LaneCheckpoint, LastPassed, OpenWindow, Restart, Saved},
    room::Room,
};

const GROUP: &str = "o/a";
const WALL: Timestamp = Timestamp(1 << 50);

fn registry(knows: bool) -> Arc<Registry> {
    registry_of(Webhook::new("w", "http://a.example/".parse().unwrap()), knows)
}

fn registry_of(webhook: Webhook, knows: bool) -> Arc<Registry> {
    let mut builder = RegistryBuilder::default();
    builder.webhook(webhook).unwrap();
    builder.group(GROUP.parse().unwrap(), knows.then_some("w"), false).unwrap();
    Arc::new(builder.build())
}

fn outlets(knows: bool) -> Arc<Outlets> {
    outlets_of(registry(knows))
}

fn outlets_of(registry: Arc<Registry>) -> Arc<Outlets> {
    static NETWORK: LazyLock<Arc<Network>> = LazyLock::new(|| Network::new(Egress::default()).unwrap());
    Arc::new(Outlets::new(registry, &Room::new(1 << 20), &NETWORK).unwrap())
}

fn at(seconds: u64) -> Timestamp {
    WALL.plus(Duration::from_secs(seconds))
}

/// One packet of the group for each time.
fn frame(base: Offset, times: &[Timestamp]) -> Frame {
    let mut builder = FrameBuilder::default();
    for &received_at in times {
        let iccid = Iccid::from_bytes(b"897612653856781234").unwrap();
        builder.push(&Record::packet(GROUP, &Packet { iccid, topic: "o/897612653856781234", received_at, payload: b"ABC" }));
    }
    builder.seal(base, base, WALL)
}

/// A start with one lane, behind from 0 on or at the head, and maybe with an open window.
fn restarted(head: Offset, next: Offset, window: Option<OpenWindow>, knows: bool, now: Instant) -> Lanes {
    let lane = LaneCheckpoint { group: GROUP.into(), next, unsettled: head - next, window, messages: Vec::new() };
    let last = LastPassed { offset: head - 1, at: WALL };
    let checkpoint = Checkpoint { head, last, lanes: vec![lane] };
    Lanes::new(0, outlets(knows), Restart::new(Saved { checkpoint: Some(checkpoint), watermark: Some(next) }, &(0..head), true), now)
}

fn accept(lanes: &mut Lanes, now: Instant) {
    let mut sent = Vec::new();
    lanes.dispatch(|sending| sent.push(sending.key));
    for key in sent {
        let attempt = Attempt { at: WALL, took: Duration::ZERO, status: Some(200), no_response: None };
        lanes.outcome(key, Outcome::Accepted { status: 200 }, attempt, 0.5, now);
    }
}

#[test]
fn windows_that_came_and_went_leave_nothing_behind() {
    let began = Instant::now();
    // Always at the end of the log, and always behind it.
    for end in [0, Offset::MAX] {
        let mut lanes = Lanes::new(0, outlets(true), Restart::new(Saved::default(), &(0..0), false), began);
        for second in 0..1000 {
            let now = began + Duration::from_secs(2 * second);
            lanes.live(&frame(second, &[at(2 * second)]), end.max(second + 1), now);
            assert!(!lanes.tick(end.max(second + 1), now + Duration::from_secs(1)), "a window that ends gives sweeps nothing to do");
            accept(&mut lanes, now);
        }
        let entries = (lanes.closes_by_log.len(), lanes.closes_by_clock.len());
        assert!(entries.0 < 5 && entries.1 < 5, "{entries:?} entries after a thousand windows");
    }
}

#[test]
fn a_message_never_goes_across_a_packet_that_expired() {
    let now = Instant::now();
    let mut lanes = restarted(3, 0, None, true, now);
    // The clock of received_at isn't monotonic: the second is older than the first.
    let frames = [frame(0, &[at(100), at(99), at(100)])];
    assert!(lanes.expire(Some(Expiry { before: at(100), below: 0 }), WALL).is_empty());
    let burials = lanes.sweep(0, &frames, now, WALL);
    let [Burial { key: BurialKey::Packets { lane: 0, to: 2, count: 1, .. }, .. }] = &burials[..] else { panic!("{burials:?}") };
    assert_eq!(lanes.buried(burials[0].key), 1);
    lanes.sweep(2, &frames, now, WALL);
    lanes.tick(3, now + Duration::from_secs(1));
    let mut sent = Vec::new();
    lanes.dispatch(|sending| sent.push((sending.key.first, sending.packets)));
    assert_eq!(sent, [(0, 1), (2, 1)], "the one between them is a dead letter");
}

#[test]
fn a_turn_goes_on_while_a_lane_wants_what_comes_next_or_soon() {
    let now = Instant::now();
    let mut lanes = restarted(100, 10, None, true, now);
    assert!(!lanes.goes_on(0, 5), "it stands at 10, not from 5 to 10");
    assert!(lanes.goes_on(0, 6));
    lanes.sweep(10, &[frame(10, &[at(0); 5])], now, WALL);
    assert!(lanes.goes_on(10, 15), "it has an unfinished message");
    assert!(!lanes.goes_on(90, 100), "there is nothing beyond the head");
    lanes.sweep(15, &[frame(15, &[at(0); 5])], now, WALL);
    let share = Arc::clone(&lanes.outlets.of(&GROUP.parse().unwrap()).unwrap().share);
    share.suspect();
    assert!(!lanes.goes_on(10, 20), "it holds a message, and may begin no other");
}

#[test]
fn lanes_of_suspect_webhooks_have_a_turn_after_a_tenth_of_a_second() {
    let now = Instant::now();
    let mut lanes = restarted(100, 10, None, true, now);
    assert_eq!(lanes.next_turn(now), Some(10));
    let share = Arc::clone(&lanes.outlets.of(&GROUP.parse().unwrap()).unwrap().share);
    share.suspect();
    assert_eq!(lanes.next_turn(now), None);
    let until = lanes.next_tick(100).unwrap();
    assert_eq!(until, now + Duration::from_millis(100));
    lanes.next_turn(now + Duration::from_millis(60));
    assert_eq!(lanes.next_tick(100), Some(until), "another look doesn't put it off");
    lanes.tick(100, until);
    assert_eq!((lanes.next_turn(until), lanes.next_tick(100)), (Some(10), None));
}

#[test]
fn a_replay_that_expires_keeps_its_id_and_its_packets_together() {
    let now = Instant::now();
    let mut lanes = restarted(1, 0, None, true, now);
    let replay = Replay { message_id: Some(MessageId([7; 16]).to_string()), array: true, packets: vec![dead_packet("1"); 2] };
    let mut builder = FrameBuilder::default();
    builder.push(&Record { group: GROUP, at: at(0), kind: Kind::Replay, payload: &replay.encode() });
    lanes.expire(Some(Expiry { before: at(1), below: 0 }), WALL);
    let burials = lanes.sweep(0, &[builder.seal(0, 0, WALL)], now, WALL);
    let [Burial { key: BurialKey::Packets { count: 2, .. }, letters, .. }] = &burials[..] else { panic!("{burials:?}") };
    assert_eq!(letters.iter().map(Replay::new).collect::<Vec<_>>(), [replay]);
}

/// A replay of one packet.
fn replay(base: Offset, at: Timestamp, message_id: Option<MessageId>, packet: DeadPacket) -> Frame {
    let replay = Replay { message_id: message_id.map(|id| id.to_string()), array: false, packets: vec![packet] }.encode();
    let mut builder = FrameBuilder::default();
    builder.push(&Record { group: GROUP, at, kind: Kind::Replay, payload: &replay });
    builder.seal(base, base, WALL)
}

fn dead_packet(iccid: &str) -> DeadPacket {
    DeadPacket { received_at: at(0), topic: "o/1".into(), iccid: iccid.into(), payload: b"ABC".to_vec() }
}

#[test]
fn a_replay_that_was_in_no_message_is_an_array_where_every_message_is_one() {
    let now = Instant::now();
    let mut webhook = Webhook::new("w", "http://a.example/".parse().unwrap());
    webhook.always_array = true;
    let mut lanes = Lanes::new(0, outlets_of(registry_of(webhook, true)), Restart::new(Saved::default(), &(0..0), false), now);
    lanes.live(&replay(0, at(0), None, dead_packet("1")), 2, now);
    lanes.live(&replay(1, at(0), Some(MessageId([7; 16])), dead_packet("1")), 2, now);
    let mut arrays = Vec::new();
    lanes.dispatch(|sending| arrays.push(sending.body.starts_with(b"[")));
    assert_eq!(arrays, [true, false], "the second keeps the shape that it had");
}

#[test]
fn a_replay_of_a_device_that_is_none_is_unreadable() {
    let now = Instant::now();
    let mut lanes = Lanes::new(0, outlets(true), Restart::new(Saved::default(), &(0..0), false), now);
    let frames = [replay(0, at(0), None, dead_packet("no ICCID"))];
    assert!(lanes.live(&frames[0], 1, now), "only a sweep can do something with it");
    assert_eq!(lanes.next_turn(now), Some(0));
    let burials = lanes.sweep(0, &frames, now, WALL);
    let [Burial { key, cause: Cause::Unreadable, letters }] = &burials[..] else { panic!("{burials:?}") };
    assert_eq!((letters.len(), lanes.buried(*key), lanes.count()), (1, 1, (0, 0)));
}

#[test]
fn a_replay_of_old_packets_does_not_expire_before_it_is_sent() {
    let now = Instant::now();
    let mut lanes = Lanes::new(0, outlets(true), Restart::new(Saved::default(), &(0..0), false), now);
    lanes.live(&replay(0, at(1000), None, dead_packet("1")), 1, now);
    let burials = lanes.expire(Some(Expiry { before: at(500), below: 0 }), WALL);
    assert!(burials.is_empty(), "{burials:?}");
}

#[test]
fn a_suspicion_from_before_the_start_lets_nothing_go_and_one_after_it_asks_for_a_sweep() {
    let (now, outlets) = (Instant::now(), outlets(true));
    let suspect = || outlets.shares().for_each(|share| assert!(share.suspect()));
    suspect();
    outlets.shares().for_each(|share| assert!(share.answered()));
    let mut lanes = Lanes::new(0, Arc::clone(&outlets), Restart::new(Saved::default(), &(0..0), false), now);
    lanes.live(&frame(0, &[at(0)]), 1, now);
    assert_eq!((lanes.woken(), lanes.count()), (false, (1, 0)));
    suspect();
    assert_eq!((lanes.woken(), lanes.count()), (true, (0, 1)));
}

#[test]
fn an_attempt_keeps_its_slot_though_its_message_was_evicted() {
    let now = Instant::now();
    let mut webhook = Webhook::new("w", "http://a.example/".parse().unwrap());
    webhook.concurrency = 1;
    let mut lanes = Lanes::new(0, outlets_of(registry_of(webhook, true)), Restart::new(Saved::default(), &(0..0), false), now);
    let mut in_flight = Vec::new();
    for offset in 0..2 {
        lanes.live(&frame(offset, &[at(2 * offset)]), offset + 1, now);
        lanes.tick(offset + 1, now + Duration::from_secs(1));
        lanes.dispatch(|sending| in_flight.push(sending));
        let burials = lanes.expire(Some(Expiry { before: at(0), below: 1 }), WALL);
        burials.iter().for_each(|burial| _ = lanes.buried(burial.key));
    }
    assert_eq!((in_flight.len(), lanes.watermark()), (1, 1), "the first has gone, and its attempt is still under way");
    in_flight.clear();
    lanes.dispatch(|sending| in_flight.push(sending));
    assert_eq!(in_flight.len(), 1);
}

#[test]
fn a_window_that_was_cut_from_keeps_no_lane_that_nobody_will_serve() {
    let now = Instant::now();
    let window = Some(OpenWindow { opened: WALL, cut_from: true });
    let mut lanes = restarted(3, 3, window, false, now);
    assert_eq!(lanes.count(), (1, 0));
    lanes.tick(3, now + UNKNOWN_FOR);
    assert_eq!(lanes.count(), (0, 0));
}

/// Three packets of a group without webhook wait from this moment on.
fn is_lost_five_minutes_after(lanes: &mut Lanes, since: Instant) {
    let frames = [frame(0, &[at(0), at(0), at(0)])];
    let sweep = |lanes: &mut Lanes, now| {
        let wanted = lanes.tick(3, now);
        let from = lanes.next_turn(now).filter(|_| wanted)?;
        Some(lanes.sweep(from, &frames, now, WALL))
    };
    let due = since + Duration::from_mins(5);
    assert_eq!(lanes.next_tick(3), Some(due), "a timer starts the sweep, whatever else happens");
    assert!(sweep(lanes, due.checked_sub(Duration::from_millis(1)).unwrap()).is_none(), "too early");
    assert_eq!(lanes.watermark(), 0);
    let burials = sweep(lanes, due).expect("five minutes are over");
    let [Burial { key, cause: Cause::NoWebhook, letters }] = &burials[..] else { panic!("{burials:?}") };
    assert_eq!(letters.len(), 3, "one for each packet, since no message was cut");
    assert_eq!((lanes.watermark(), lanes.unsettled()), (0, 3), "not settled before they are durable");
    assert_eq!(lanes.buried(*key), 3);
    assert_eq!((lanes.watermark(), lanes.unsettled(), lanes.count()), (3, 0, (0, 0)));
}

/// Two lanes with more than may be written at once: what nobody can read lies behind what nobody wants.
#[test]
fn no_more_dead_letters_are_made_than_can_be_written() {
    let now = Instant::now();
    let mut lanes = Lanes::new(0, outlets(false), Restart::new(Saved::default(), &(0..0), false), now);
    let mut foreign = FrameBuilder::default();
    (0..1000).for_each(|_| foreign.push(&Record { group: "", at: at(0), kind: Kind::Foreign { why: "" }, payload: b"" }));
    let frames = [frame(0, &vec![at(0); 3000]), foreign.seal(3000, 3000, WALL)];
    frames.iter().for_each(|frame| _ = lanes.live(frame, 4000, now));
    lanes.tick(4000, now + UNKNOWN_FOR);
    let mut letters = Vec::new();
    while let Some(from) = lanes.next_turn(now) {
        let burials = lanes.sweep(from, &frames[usize::from(from >= 3000)..], now, WALL);
        letters.push(burials.iter().map(|burial| burial.letters.len()).sum::<usize>());
        assert!(lanes.unwritten < UNWRITTEN || lanes.next_turn(now).is_none(), "more while those before aren't durable");
        burials.iter().for_each(|burial| _ = lanes.buried(burial.key));
    }
    assert!(letters.iter().all(|letters| *letters <= 2100) && letters.iter().sum::<usize>() == 4000, "{letters:?}");
    assert_eq!((lanes.unwritten, lanes.count()), (0, (0, 0)));
}

#[test]
fn a_group_without_webhook_keeps_its_packets_for_five_minutes_from_the_birth_of_its_lane() {
    let began = Instant::now();
    let mut lanes = Lanes::new(0, outlets(false), Restart::new(Saved::default(), &(0..0), false), began);
    let born = began + Duration::from_mins(2);
    lanes.live(&frame(0, &[at(0), at(0), at(0)]), 3, born);
    is_lost_five_minutes_after(&mut lanes, born);
}

#[test]
fn a_group_without_webhook_keeps_its_packets_for_five_minutes_from_the_start() {
    let now = Instant::now();
    is_lost_five_minutes_after(&mut restarted(3, 0, None, false, now), now);
}

#[test]
fn a_group_that_lost_its_webhook_keeps_its_packets_for_five_minutes_from_the_reload() {
    let began = Instant::now();
    let (mut lanes, reload) = (restarted(3, 0, None, true, began), began + Duration::from_mins(4));
    lanes.redirect(Arc::new(lanes.outlets.read_again(registry(false)).unwrap()), reload);
    is_lost_five_minutes_after(&mut lanes, reload);
}

#[test]
fn what_comes_for_a_group_that_was_lost_while_a_message_is_in_flight_wakes_a_sweep() {
    let began = Instant::now();
    let known = outlets(true);
    let mut lanes = Lanes::new(0, Arc::clone(&known), Restart::new(Saved::default(), &(0..0), false), began);
    lanes.live(&frame(0, &[at(0)]), 1, began);
    lanes.tick(1, began + Duration::from_secs(1));
    let mut in_flight = Vec::new();
    lanes.dispatch(|sending| in_flight.push(sending));
    lanes.redirect(Arc::new(known.read_again(registry(false)).unwrap()), began);
    assert!(lanes.tick(1, began + UNKNOWN_FOR));
    let now = began + Duration::from_mins(6);
    assert_eq!(lanes.next_turn(now), None);
    assert!(lanes.live(&frame(1, &[at(0)]), 2, now), "nobody else tells of it");
    assert_eq!(lanes.next_turn(now), Some(1));
}

#[test]
fn a_group_that_gets_its_webhook_within_five_minutes_has_its_packets_sent() {
    let began = Instant::now();
    let unknown = outlets(false);
    let mut lanes = Lanes::new(0, Arc::clone(&unknown), Restart::new(Saved::default(), &(0..0), false), began);
    lanes.live(&frame(0, &[at(0), at(0), at(0)]), 3, began);
    let (reload, later) = (began + Duration::from_mins(4), began + Duration::from_mins(10));
    lanes.redirect(Arc::new(unknown.read_again(registry(true)).unwrap()), reload);
    lanes.tick(3, later);
    let from = lanes.next_turn(later).expect("it may begin");
    assert!(lanes.sweep(from, &[frame(0, &[at(0), at(0), at(0)])], later, WALL).is_empty(), "nothing of it is dead");
    lanes.tick(3, later + Duration::from_secs(1));
    let mut sent = Vec::new();
    lanes.dispatch(|sending| sent.push(sending.packets));
    assert_eq!(sent, [3]);
}
