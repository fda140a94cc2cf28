//! Schedules that are written down: the worked example of docs/delivery.md, and what random schedules found.

use std::collections::VecDeque;

use pushline_model::{MessageId, Offset};

use super::{
    schedule::{Act, Append, Change, Crash, Ending, How, Kinds, Setup, Step, What},
    world::World,
};

const CALM: Kinds = Kinds {
    stalls: 0,
    crashes: 0,
    is_careless: false,
    has_zombies: false,
    has_replays: false,
    reloads: false,
    has_gaps: false,
    late: 0,
    clock_steps: false,
    overflows: false,
    remakes: false,
    is_eager: false,
    refuses: false,
};

/// One partition with a horizon; four groups, of which the first two have one webhook; two packets a message, windows of 600 ms.
const SETUP: Setup = Setup {
    is_kafka: false,
    partitions: 1,
    memory: 1 << 20,
    groups: 4,
    webhooks: 3,
    homes: [0, 0, 1, 2],
    rules: [1, 1, 1],
    concurrency: 2,
    is_strict: false,
    has_rate: false,
    expires: false,
    block: 10_000,
    save_every: 20,
    kinds: CALM,
};

const ENDING: Ending = Ending { dead: 1, hangs: false, seed: 0 };

const CRASH: Crash = Crash { saves_land: false, records: 0, zombie_ends: true, found: 0, which: 0, change: None };

fn packet(group: usize) -> Step {
    let what = What::Packet;
    Step::Append(Append { partition: 0, group, after: 0, size: 1, what, late: 0, is_gap_before: false, is_visible: true })
}

fn act(act: Act) -> Step {
    Step::Act { zombie: false, partition: 0, act }
}

impl World {
    fn steps(&mut self, steps: impl IntoIterator<Item = Step>) {
        steps.into_iter().for_each(|step| self.step(&step));
    }

    fn ids_in_flight(&self) -> Vec<MessageId> {
        self.main.tasks[0].in_flight.iter().map(|attempt| attempt.id).collect()
    }

    /// The place of the first attempt in flight to a webhook.
    fn in_flight_to(&self, webhook: &str) -> Option<usize> {
        self.main.tasks[0].in_flight.iter().position(|attempt| attempt.handle.webhook.name == webhook)
    }
}

#[test]
fn the_worked_example_goes_as_it_is_written() {
    let mut world = World::new(&SETUP);
    // Offsets 0 to 9 for 10 to 19: A is o/c with webhook Q, B is o/d with webhook R.
    world.steps([2, 3, 3, 2, 3, 3].map(packet));
    world.step(&act(Act::Live(6)));
    assert_eq!(world.ids_in_flight().len(), 3, "A{{0,3}}, B{{1,2}}, B{{4,5}}");
    // There is memory for two messages of B.
    let b = world.main.webhooks.handles().find(|handle| handle.webhook.name == "R").unwrap().budgets.memory.clone();
    let mut lease = b.lease();
    lease.resize(1 << 19);
    [3, 2, 3, 2].into_iter().for_each(|group| world.append_packet(group));
    let (main, common) = (&mut world.main, &mut world.common);
    main.live(0, 4, common);
    let status = main.tasks[0].core.status(common.clock.now());
    assert_eq!((main.tasks[0].core.live_offset, status.live_lanes, status.lanes_behind), (10, 1, 1));
    drop(lease);
    while let Some(which) = world.in_flight_to("Q") {
        world.step(&act(Act::Outcomes(vec![(which, How::Accepted)])));
    }
    assert_eq!(world.main.tasks[0].core.watermark(), 1);
    let checkpoint = world.main.tasks[0].core.checkpoint().unwrap();
    let lane = |group: &str| checkpoint.lanes.iter().find(|lane| lane.group == group).unwrap();
    assert_eq!((lane("o/d").batched_until, lane("o/d").messages.len(), lane("o/d").window.unwrap().cut_from), (6, 2, true));
    assert_eq!((lane("o/c").batched_until, lane("o/c").messages.len(), lane("o/c").window.unwrap().cut_from), (10, 0, true));
    let ids = world.ids_in_flight();
    world.steps([Step::Time(20), act(Act::Time), act(Act::Save { commits: true, is_postponed: false })]);
    world.step(&Step::Crash(CRASH));
    assert_eq!(world.main.tasks[0].core.live_offset, 10);
    world.step(&act(Act::CatchUp));
    assert_eq!(world.ids_in_flight(), ids, "rebuilt with the same ids");
    // No response: the first message keeps its place, the second is evicted.
    world.steps([act(Act::Outcomes(vec![(1, How::Timeout)])), act(Act::Outcomes(vec![(0, How::Timeout)]))]);
    for _ in 0..2 {
        assert_eq!(world.ids_in_flight().len(), 1, "one probe at a time");
        world.step(&act(Act::Outcomes(vec![(0, How::Timeout)])));
    }
    world.end(&ENDING);
}

/// A burst of one group is refused, and its webhook never holds less than half of what it may while the other group's messages go on beginning. So the
/// webhook refuses those too until it is woken.
#[test]
fn a_group_that_was_refused_is_not_starved_by_steady_traffic_of_its_webhooks_other_group() {
    const BURST_IN: usize = 10;
    let setup = Setup { rules: [0; 3], concurrency: 1000, ..SETUP };
    // What one message holds.
    let mut measured = World::new(&setup);
    measured.steps([1, 1, 1].map(packet));
    measured.step(&act(Act::Live(3)));
    let message = setup.memory - usize::try_from(measured.main.budgets.free()).unwrap();

    let mut world = World::new(&Setup { memory: 400 * message, ..setup });
    let (mut sent, mut owed, mut refused) = (VecDeque::new(), Vec::<Offset>::new(), 0);
    for round in 0..200 {
        world.common.clock.now += 1100;
        while let Some((_, id)) = sent.pop_front_if(|(due, _)| *due == round) {
            let which = world.ids_in_flight().iter().position(|other| *other == id).unwrap();
            world.step(&act(Act::Outcomes(vec![(which, How::Accepted)])));
        }
        (0..24).for_each(|_| world.append_packet(1));
        if round == BURST_IN {
            owed.extend(world.common.logs[0].end..world.common.logs[0].end + 42);
            (0..42).for_each(|_| world.append_packet(0));
        }
        let before: Vec<MessageId> = world.ids_in_flight();
        world.step(&act(Act::Live(usize::MAX)));
        refused += world.main.tasks[0].core.status(world.common.clock.now()).lanes_behind;
        world.steps([Act::Woken, Act::CatchUp, Act::CatchUp, Act::Time].map(act));
        sent.extend(world.ids_in_flight().into_iter().filter(|id| !before.contains(id)).map(|id| (round + 4, id)));
        if round > BURST_IN && !owed.iter().any(|offset| world.common.logs[0].unsettled.contains(offset)) {
            assert!(refused > 0, "nothing was refused: this shows nothing");
            return;
        }
    }
    panic!("starved: {}", world.describe());
}

/// The breaker opens by an attempt that began under an earlier definition: lanes of the webhook have the newer one.
#[test]
fn an_unresponsive_webhook_that_was_defined_anew_meanwhile_holds_one_message() {
    let mut world = World::new(&SETUP);
    world.steps([1, 1, 0, 0].map(packet));
    world.step(&act(Act::Live(4)));
    assert_eq!(world.ids_in_flight().len(), 2);
    world.steps([0, 0, 0, 0, 1, 1, 1, 1].map(packet));
    world.step(&act(Act::Live(8)));
    world.step(&Step::Reload { change: Change::Version, reaches_zombie: false, order: 0 });
    world.steps([act(Act::CatchUp), act(Act::Outcomes(vec![(0, How::Timeout)])), act(Act::Outcomes(vec![(0, How::Timeout)]))]);
    world.end(&ENDING);
}

/// Windows of 600 ms were cut; the next process knows no webhook of the group for a while, and dead-letters what came up to then by the same windows.
#[test]
fn a_group_without_webhook_after_a_restart_keeps_the_window_length_that_it_had() {
    let mut world = World::new(&SETUP);
    let save = || act(Act::Save { commits: true, is_postponed: false });
    world.steps([packet(0), act(Act::Live(1)), Step::Time(600), act(Act::Time), save()]);
    world.steps([packet(0), act(Act::Live(1)), Step::Time(600), packet(0), packet(0), act(Act::Live(2))]);
    assert_eq!(world.common.truths[0].sent.len(), 2, "the concurrency is two");
    world.step(&act(Act::Outcomes(vec![(0, How::Error)])));
    assert_eq!(world.common.truths[0].sent.len(), 3, "{{0}}, {{1}}, {{2,3}}");
    world.step(&Step::Crash(Crash { change: Some(Change::Route { group: 0, webhook: None }), ..CRASH }));
    world.steps([act(Act::Live(3)), Step::Time(3000), act(Act::Time), act(Act::CatchUp)]);
    assert_eq!(world.main.tasks[0].writing.len(), 2, "the message, and as many records as may be written at once");
    world.end(&ENDING);
}
