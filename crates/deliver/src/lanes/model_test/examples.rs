//! Schedules that are written down.

use super::*;

/// Two groups of one webhook under traffic as much as it can take; a burst of one is refused. The webhook never holds less than half of what it may while the
/// other group's messages go on beginning, so it has to refuse those too until it is woken (L2, L5).
#[test]
fn a_group_that_was_refused_is_not_starved_by_steady_traffic_of_its_webhooks_other_group() {
    const BURST_IN: usize = 10;
    let define = |webhook: &mut Webhook| (webhook.max_packets, webhook.concurrency) = (3, 1000);
    let append = |group| Step::Append { group, after: 0, size: 1, replay: 0, late: 0 };
    // What one message holds.
    let mut measured = World::with(1 << 20, define);
    (0..3).for_each(|_| measured.step(&append(1)));
    measured.step(&Step::Live(1));
    let message = (1 << 20) - usize::try_from(measured.task.room.free()).unwrap();

    let mut world = World::with(400 * message, define);
    let (mut flying, mut owed, mut refused) = (VecDeque::new(), Vec::new(), 0);
    for round in 0..200 {
        world.now += 1100;
        while flying.front().is_some_and(|(due, _)| *due == round) {
            let (_, id) = flying.pop_front().unwrap();
            let place = world.task.flying.iter().position(|sending| sending.id == id).unwrap();
            world.answer(place, How::Accepted);
        }
        (0..24).for_each(|_| world.step(&append(1)));
        if round == BURST_IN {
            owed.extend(world.end()..world.end() + 42);
            (0..42).for_each(|_| world.step(&append(0)));
        }
        while world.task.lanes.head() < world.end() {
            world.live();
        }
        refused += world.task.lanes.count().1;
        (0..8).for_each(|_| [Sweep::Near, Sweep::Far].into_iter().for_each(|sweep| world.sweep(sweep)));
        world.step(&Step::Time(0));
        let before = world.task.flying.len();
        world.send();
        flying.extend(world.task.flying[before..].iter().map(|sending| (round + 4, sending.id)));
        world.check();
        if round > BURST_IN && !owed.iter().any(|offset| world.unsettled.contains(offset)) {
            assert!(refused > 0, "nothing was refused: this shows nothing");
            return;
        }
    }
    panic!("starved: {}", world.describe());
}

/// The worked example of LANES.md, step by step.
#[test]
fn the_worked_example_goes_as_it_is_written() {
    let mut world = World::new(1 << 20, Order::Arrival, 2);
    // Offsets 0 to 9 for 10 to 19: A is o/c (webhook Q), B is o/d (webhook R).
    for group in [2, 3, 3, 2, 3, 3, 3, 2, 3, 2] {
        world.step(&Step::Append { group, after: 1, size: 1, replay: 0, late: 0 });
    }
    let room = world.task.outlets.of(&"o/d".parse::<GroupId>().unwrap()).unwrap();
    world.step(&Step::Live(2));
    world.step(&Step::Send);
    assert_eq!(world.task.flying.len(), 3, "A{{0,3}}, B{{1,2}}, B{{4,5}}");
    // Room for two messages of B.
    let mut lease = room.share.lease();
    lease.resize(1 << 19);
    world.task.lanes.live(&world.frame(6), world.end(), world.instant());
    world.task.lanes.live(&world.frame(9), world.end(), world.instant());
    assert_eq!((world.task.lanes.head(), world.task.lanes.count()), (10, (1, 1)));
    drop(lease);
    world.step(&Step::Send);
    while let Some(a) = world.task.flying.iter().position(|sending| sending.outlet.webhook.name == "Q") {
        world.answer(a, How::Accepted);
    }
    assert_eq!(world.task.lanes.watermark(), 1);
    let checkpoint = world.task.lanes.checkpoint().unwrap();
    let b = checkpoint.lanes.iter().find(|lane| lane.group == "o/d").unwrap();
    assert_eq!((b.next, b.messages.len(), b.window.unwrap().cut_from), (6, 2, true));
    let a = checkpoint.lanes.iter().find(|lane| lane.group == "o/c").unwrap();
    assert_eq!((a.next, a.messages.len(), a.window.unwrap().cut_from), (10, 0, true));
    let ids: Vec<MessageId> = world.task.flying.iter().map(|sending| sending.id).collect();
    world.step(&Step::Save { commit: true });
    world.step(&Step::Crash { checkpoint: 0 });
    assert_eq!((world.task.lanes.head(), world.task.lanes.count()), (10, (1, 1)));
    world.sweep(Sweep::Near);
    world.sweep(Sweep::Near);
    world.step(&Step::Send);
    assert_eq!(world.task.flying.iter().map(|sending| sending.id).collect::<Vec<_>>(), ids, "rebuilt with the same ids");
    // No answer: suspect. The first message keeps its place, the second is let go.
    world.answer(0, How::Timeout);
    world.answer(0, How::Timeout);
    world.step(&Step::Time(1));
    for _ in 0..2 {
        world.step(&Step::Send);
        assert_eq!(world.task.flying.len(), 1, "one connection");
        world.answer(0, How::Timeout);
        world.step(&Step::Time(1));
    }
    assert_eq!(world.task.dying.len(), 1);
    world.bury(0);
    assert_eq!(world.task.lanes.watermark(), 4);
    for _ in 0..3 {
        world.sweep(Sweep::Near);
        world.step(&Step::Send);
    }
    assert_eq!(offsets(&world.task.flying[0].body), [4, 5]);
    world.drain("none");
}

/// Whoever is always at the end of the log closes windows by the clock, whoever is always behind it by the log's time: neither keeps a window that is over.
#[test]
fn windows_that_are_over_leave_nothing_behind() {
    for behind in [false, true] {
        let mut world = World::new(1 << 20, Order::Arrival, 10);
        for _ in 0..1000 {
            world.step(&Step::Append { group: 0, after: 1100, size: 1, replay: 0, late: 0 });
            if behind {
                (0..2).for_each(|_| world.step(&Step::Append { group: 1, after: 1, size: 1, replay: 0, late: 0 }));
                let frame = world.frame(world.task.lanes.head());
                world.task.lanes.live(&frame, Offset::MAX, world.instant());
            } else {
                world.step(&Step::Live(1));
                world.step(&Step::Time(1000));
            }
            world.step(&Step::Send);
            while !world.task.flying.is_empty() {
                world.answer(0, How::Accepted);
            }
        }
        let kept = (world.task.lanes.closes_by_log.len(), world.task.lanes.closes_by_clock.len());
        assert!(kept.0 + kept.1 <= 256, "{kept:?} windows are kept, behind the end: {behind}");
    }
}
