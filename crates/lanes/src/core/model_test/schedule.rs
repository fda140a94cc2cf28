//! Steps of a schedule, and how they are drawn.

use proptest::{collection::vec, prelude::*, sample::select, strategy::Union};

use super::log::GROUPS;

/// A world, what happens in it, and how it ends.
#[derive(Debug, Clone)]
pub(super) struct Schedule {
    pub(super) setup: Setup,
    pub(super) steps: Vec<Step>,
    pub(super) ending: Ending,
}

/// What a world is like.
#[derive(Debug, Clone)]
pub(super) struct Setup {
    /// With ticks, zombies and commits; else with a horizon.
    pub(super) is_kafka: bool,
    pub(super) partitions: usize,
    /// Bytes of the memory budget.
    pub(super) memory: usize,
    pub(super) groups: usize,
    pub(super) webhooks: usize,
    /// Each group's webhook, modulo `webhooks`.
    pub(super) homes: [usize; GROUPS.len()],
    /// Each webhook's cut rules.
    pub(super) rules: [usize; 3],
    pub(super) concurrency: usize,
    pub(super) is_strict: bool,
    /// Attempts of each webhook are spread.
    pub(super) has_rate: bool,
    /// Packets expire.
    pub(super) expires: bool,
    /// Bytes of the first block of a catch-up read.
    pub(super) block: usize,
    /// Milliseconds.
    pub(super) save_every: u64,
    pub(super) kinds: Kinds,
}

/// Which kinds of steps a world has.
#[derive(Debug, Clone)]
pub(super) struct Kinds {
    /// One in this many records is visible at once; 0: each.
    pub(super) stalls: u32,
    pub(super) crashes: u32,
    /// Restarts may find an older checkpoint, or none.
    pub(super) is_careless: bool,
    pub(super) has_zombies: bool,
    pub(super) has_replays: bool,
    pub(super) reloads: bool,
    pub(super) has_gaps: bool,
    /// Records' own times are up to this many milliseconds too early.
    pub(super) late: u64,
    pub(super) clock_steps: bool,
    pub(super) overflows: bool,
    pub(super) remakes: bool,
    /// Most steps are what processes do by themselves.
    pub(super) is_eager: bool,
    pub(super) refuses: bool,
}

#[derive(Debug, Clone)]
pub(super) struct Ending {
    /// The webhook that stays dead while the others answer.
    pub(super) dead: usize,
    /// Its attempts never end; else they end without a response.
    pub(super) hangs: bool,
    /// Decides what isn't decided by effects.
    pub(super) seed: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    Packet,
    Replay { packets: usize, array: bool },
    Foreign,
    Tick,
}

/// A record to store.
#[derive(Debug, Clone)]
pub(super) struct Append {
    pub(super) partition: usize,
    pub(super) group: usize,
    /// Milliseconds pass first.
    pub(super) after: u64,
    pub(super) size: usize,
    pub(super) what: What,
    /// Its own time is this many milliseconds too early.
    pub(super) late: u64,
    pub(super) is_gap_before: bool,
    pub(super) is_visible: bool,
}

#[derive(Debug, Clone)]
pub(super) enum Step {
    Append(Append),
    /// Pending records become visible.
    Show {
        partition: usize,
        records: usize,
    },
    /// Milliseconds pass.
    Time(u64),
    /// The wall clock is set, or the broker's (Kafka).
    SetClock(i64),
    /// Something that was to happen happens to one task.
    Act {
        zombie: bool,
        partition: usize,
        act: Act,
    },
    /// What processes do by themselves.
    Run {
        append: Append,
        time: u64,
        frames: usize,
        accepted: u64,
    },
    Reload {
        change: Change,
        reaches_zombie: bool,
        order: usize,
    },
    Crash(Crash),
    /// Another process takes over. In order, the old one leaves first; else it lives on as a zombie.
    HandOver {
        in_order: bool,
        rounds: usize,
        crash: Crash,
    },
    ZombieEnds,
    /// The log is deleted below what is committed.
    Trim {
        partition: usize,
        to_segment: bool,
    },
    /// The log has no more space for its oldest segment.
    Overflow {
        partition: usize,
    },
    /// The log is recreated under the same name.
    Remake {
        partition: usize,
        appends: Vec<Append>,
        crash: Crash,
    },
}

/// What may happen to a task.
#[derive(Debug, Clone)]
pub(super) enum Act {
    /// Live reading reads this many frames.
    Live(usize),
    /// The catch-up block is read.
    CatchUp,
    /// Time is noticed.
    Time,
    /// Another task's waking is noticed.
    Woken,
    /// Attempts end together: each with its outcome.
    Outcomes(Vec<(usize, How)>),
    /// Dead letters are durable.
    DeadLetters { which: usize, is_refused: bool },
    /// The save goes on: the checkpoint is durable, the commit is accepted.
    Save { commits: bool, is_postponed: bool },
    /// The tick is stored, then acknowledged.
    Tick { is_refused: bool, is_dropped: bool },
    /// The oldest record is read.
    Oldest,
    /// A registry that was read again arrives.
    Reload,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    Accepted,
    Error,
    Timeout,
    Reset,
    /// An error response that is retried, and not before so many seconds have passed.
    Busy(u8),
    /// This machine couldn't make the attempt.
    LocalFailure,
}

#[derive(Debug, Clone)]
pub(super) enum Change {
    Route {
        group: usize,
        webhook: Option<usize>,
    },
    Rules {
        webhook: usize,
        rules: usize,
    },
    /// Anything else of the webhooks.
    Version,
}

/// How a process dies, and what the next one finds.
#[derive(Debug, Clone)]
pub(super) struct Crash {
    /// Saves that were being made have come through.
    pub(super) saves_land: bool,
    /// So many pending records have become durable (embedded).
    pub(super) records: usize,
    pub(super) zombie_ends: bool,
    /// Which checkpoint a restart finds in a careless world: below 3 the latest, below 5 an older one, else none.
    pub(super) found: usize,
    pub(super) which: usize,
    /// The next process has another configuration.
    pub(super) change: Option<Change>,
}

pub(super) fn schedule(is_kafka: bool) -> impl Strategy<Value = Schedule> {
    setup(is_kafka).prop_ind_flat_map(|setup| {
        let steps = vec(step(&setup), 20..120);
        (Just(setup), steps, ending()).prop_map(|(setup, steps, ending)| Schedule { setup, steps, ending })
    })
}

fn one_in(n: u32) -> impl Strategy<Value = bool> {
    prop_oneof![n - 1 => Just(false), 1 => Just(true)]
}

fn setup(is_kafka: bool) -> impl Strategy<Value = Setup> {
    let sizes = (1..3usize, select(vec![600usize, 2500, 6_000, 60_000, 1 << 20]), 1..=GROUPS.len(), 1..4usize);
    let rules = prop_oneof![1 => Just(0usize), 1 => 0..3usize];
    let config = (prop::array::uniform4(0..3usize), prop::array::uniform3(rules), select(vec![1usize, 2, 2, 16]), one_in(4), one_in(4));
    let pace = (one_in(3), select(vec![300usize, 1000, 10_000]), select(vec![20u64, 1000, 1000, 3_600_000]));
    (sizes, config, pace, kinds(is_kafka)).prop_map(move |(sizes, config, pace, kinds)| Setup {
        is_kafka,
        partitions: sizes.0,
        memory: sizes.1,
        groups: sizes.2,
        webhooks: sizes.3,
        homes: config.0,
        rules: config.1,
        concurrency: config.2,
        is_strict: config.3,
        has_rate: config.4,
        expires: pace.0,
        block: pace.1,
        save_every: pace.2,
        kinds,
    })
}

fn kinds(is_kafka: bool) -> impl Strategy<Value = Kinds> {
    let crashes = (select(vec![0u32, 1, 1, 3]), one_in(3), one_in(3), one_in(6), one_in(5));
    let records = (select(vec![0u32, 2, 8]), one_in(3), one_in(4), select(vec![0u64, 0, 600, 2500]));
    let rest = (one_in(4), one_in(2), one_in(2), one_in(4));
    (crashes, records, rest).prop_map(move |(crashes, records, rest)| Kinds {
        crashes: crashes.0,
        is_careless: crashes.1,
        has_zombies: is_kafka && crashes.2,
        overflows: !is_kafka && crashes.3,
        remakes: crashes.4,
        stalls: records.0,
        has_replays: records.1,
        has_gaps: records.2,
        late: records.3,
        reloads: rest.0,
        clock_steps: rest.1,
        is_eager: rest.2,
        refuses: rest.3,
    })
}

fn ending() -> impl Strategy<Value = Ending> {
    (0..3usize, any::<bool>(), any::<u64>()).prop_map(|(dead, hangs, seed)| Ending { dead, hangs, seed })
}

fn step(setup: &Setup) -> Union<BoxedStrategy<Step>> {
    let Setup { is_kafka, partitions, kinds, .. } = setup;
    let partition = || 0..*partitions;
    let (append, crash, has_zombies) = (append(setup), crash(kinds), kinds.has_zombies);
    let acts = (if has_zombies { one_in(3).boxed() } else { Just(false).boxed() }, partition(), act(setup));
    let run = (append.clone(), prop_oneof![3 => 0..800u64, 1 => 0..40u64], 1..5usize, any::<u64>());
    let clock = if *is_kafka { vec![-1200i64, -400, -100, 100, 400, 1200] } else { vec![-4000i64, -4000, -1200, -300, 300, 1200, 4000] };
    let mut steps = vec![
        (4, append.clone().prop_map(Step::Append).boxed()),
        (20, acts.prop_map(|(zombie, partition, act)| Step::Act { zombie, partition, act }).boxed()),
        (2, prop_oneof![7 => 1..1200u64, 1 => Just(6000)].prop_map(Step::Time).boxed()),
        (2, (partition(), any::<bool>()).prop_map(|(partition, to_segment)| Step::Trim { partition, to_segment }).boxed()),
    ];
    let mut add = |weight: u32, step: BoxedStrategy<Step>| {
        if weight > 0 {
            steps.push((weight, step));
        }
    };
    let eager = run.prop_map(|(append, time, frames, accepted)| Step::Run { append, time, frames, accepted });
    add(12 * u32::from(kinds.is_eager), eager.boxed());
    add(
        2 * u32::from(kinds.stalls > 0),
        (partition(), 1..5usize).prop_map(|(partition, records)| Step::Show { partition, records }).boxed(),
    );
    add(u32::from(kinds.clock_steps), select(clock).prop_map(Step::SetClock).boxed());
    add(kinds.crashes, crash.clone().prop_map(Step::Crash).boxed());
    let hand_over = (any::<bool>(), 0..4usize, crash.clone());
    add(
        if has_zombies {
            1
        } else if *is_kafka {
            0
        } else {
            kinds.crashes.min(1)
        },
        hand_over.prop_map(|(in_order, rounds, crash)| Step::HandOver { in_order, rounds, crash }).boxed(),
    );
    add(u32::from(has_zombies), Just(Step::ZombieEnds).boxed());
    let reload = (change(), any::<bool>(), 0..2usize);
    add(
        u32::from(kinds.reloads),
        reload.prop_map(|(change, reaches_zombie, order)| Step::Reload { change, reaches_zombie, order }).boxed(),
    );
    add(u32::from(kinds.overflows), partition().prop_map(|partition| Step::Overflow { partition }).boxed());
    let remake = (partition(), vec(append, 0..20), crash);
    add(u32::from(kinds.remakes), remake.prop_map(|(partition, appends, crash)| Step::Remake { partition, appends, crash }).boxed());
    Union::new_weighted(steps)
}

fn append(setup: &Setup) -> BoxedStrategy<Append> {
    let Setup { partitions, groups, kinds, .. } = setup;
    let what = match kinds.has_replays {
        false => prop_oneof![30 => Just(What::Packet), 1 => Just(What::Foreign)].boxed(),
        true => {
            let replay = (1..4usize, any::<bool>()).prop_map(|(packets, array)| What::Replay { packets, array });
            prop_oneof![16 => Just(What::Packet), 4 => replay, 1 => Just(What::Foreign)].boxed()
        }
    };
    let size = prop_oneof![6 => 0..20usize, 2 => Just(400), 1 => Just(2000)];
    let late = if kinds.late > 0 { (0..kinds.late).boxed() } else { Just(0).boxed() };
    let gap = if kinds.has_gaps { one_in(4).boxed() } else { Just(false).boxed() };
    let visible = if kinds.stalls > 0 { one_in(kinds.stalls).boxed() } else { Just(true).boxed() };
    let after = prop_oneof![1 => Just(0u64), 1 => 0..300u64];
    (0..*partitions, 0..*groups, after, size, what, late, gap, visible)
        .prop_map(|(partition, group, after, size, what, late, is_gap_before, is_visible)| Append {
            partition,
            group,
            after,
            size,
            what,
            late,
            is_gap_before,
            is_visible,
        })
        .boxed()
}

fn act(setup: &Setup) -> impl Strategy<Value = Act> + use<> {
    let how = prop_oneof![2 => Just(How::Accepted), 1 => Just(How::Error), 1 => Just(How::Timeout), 1 => Just(How::Reset), 1 => (0..4u8).prop_map(How::Busy), 1 => Just(How::LocalFailure)];
    let outcomes = prop_oneof![4 => vec((any::<usize>(), how.clone()), 1), 1 => vec((any::<usize>(), how), 2..4)];
    let refused = || if setup.kinds.refuses { one_in(4).boxed() } else { Just(false).boxed() };
    prop_oneof![
        4 => (1..5usize).prop_map(Act::Live),
        4 => Just(Act::CatchUp),
        3 => Just(Act::Time),
        2 => Just(Act::Woken),
        4 => outcomes.prop_map(Act::Outcomes),
        2 => (any::<usize>(), refused()).prop_map(|(which, is_refused)| Act::DeadLetters { which, is_refused }),
        4 => (prop_oneof![2 => Just(true), 1 => Just(false)], refused()).prop_map(|(commits, is_postponed)| Act::Save { commits, is_postponed }),
        2 => (refused(), any::<bool>()).prop_map(|(is_refused, is_dropped)| Act::Tick { is_refused, is_dropped }),
        1 => Just(Act::Oldest),
        1 => Just(Act::Reload),
    ]
}

fn change() -> impl Strategy<Value = Change> {
    let webhook = prop_oneof![1 => Just(None), 3 => (0..3usize).prop_map(Some)];
    prop_oneof![
        2 => (0..GROUPS.len(), webhook).prop_map(|(group, webhook)| Change::Route { group, webhook }),
        2 => (0..3usize, 0..3usize).prop_map(|(webhook, rules)| Change::Rules { webhook, rules }),
        1 => Just(Change::Version),
    ]
}

fn crash(kinds: &Kinds) -> BoxedStrategy<Crash> {
    let found = if kinds.is_careless { (0..6usize).boxed() } else { Just(0).boxed() };
    let change = if kinds.reloads { prop_oneof![2 => Just(None), 1 => change().prop_map(Some)].boxed() } else { Just(None).boxed() };
    (any::<bool>(), 0..6usize, any::<bool>(), found, any::<usize>(), change)
        .prop_map(|(saves_land, records, zombie_ends, found, which, change)| Crash {
            saves_land,
            records,
            zombie_ends,
            found,
            which,
            change,
        })
        .boxed()
}
