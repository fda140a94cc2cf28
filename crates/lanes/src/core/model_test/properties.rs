//! Random schedules, as many as `MODEL_SCHEDULES` says in each mode.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Once,
};

use proptest::{
    prelude::*,
    test_runner::{RngAlgorithm, TestError, TestRng, TestRunner},
};

use super::{
    schedule::{Schedule, schedule},
    world::World,
};

/// Schedules in each mode of an ordinary run.
const SCHEDULES: u32 = 10_000;

thread_local! {
    /// Panics of this thread are failures that a schedule is looked for with: the last one is told, not each.
    static IS_QUIET: Cell<bool> = const { Cell::new(false) };
}

#[test]
fn with_a_horizon_every_record_is_sent_under_one_id_and_all_settle() {
    run(false);
}

#[test]
fn with_ticks_and_zombies_every_record_is_sent_under_one_id_and_all_settle() {
    run(true);
}

fn run(is_kafka: bool) {
    let (played, failure, stats) = (Cell::new(0u64), RefCell::new(None::<(u64, String)>), RefCell::new(BTreeMap::new()));
    let result = runner().run(&schedule(is_kafka), |schedule| {
        if failure.borrow().is_none() {
            played.set(played.get() + 1);
        }
        match play(&schedule, None) {
            Ok(counts) => counts.into_iter().for_each(|(what, times)| *stats.borrow_mut().entry(what).or_insert(0) += times),
            Err(why) => {
                let mut first = failure.borrow_mut();
                let (_, kind) = first.get_or_insert_with(|| (played.get(), kind(&why)));
                // A smaller schedule that fails otherwise shows something else.
                prop_assert!(*kind != self::kind(&why), "{}", why);
            }
        }
        Ok(())
    });
    println!("{} schedules: {:?}", played.get(), stats.borrow());
    match (result, failure.into_inner()) {
        (Ok(()), _) => {}
        (Err(TestError::Fail(..)), None) | (Err(TestError::Abort(_)), _) => panic!("no schedule could be drawn"),
        (Err(TestError::Fail(_, smallest)), Some((number, _))) => {
            let mut story = Vec::new();
            let why = play(&smallest, Some(&mut story)).expect_err("it fails each time: nothing in it is left to chance");
            let Schedule { setup, ending, .. } = smallest;
            panic!("schedule {number}: {why}\n{setup:?}\n{ending:?}\n{}\nschedule {number}: {why}", story.join("\n"));
        }
    }
}

fn runner() -> TestRunner {
    let cases = number("MODEL_SCHEDULES").map_or(SCHEDULES, |cases| u32::try_from(cases).expect("that many take years"));
    let config = ProptestConfig { cases, source_file: Some(file!()), ..ProptestConfig::default() };
    let Some(seed) = number("MODEL_SEED") else { return TestRunner::new(config) };
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    TestRunner::new_with_rng(ProptestConfig { failure_persistence: None, ..config }, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes))
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is a number")))
}

/// Plays a schedule. Returns how often things happened, or why it failed.
pub(super) fn play(schedule: &Schedule, story: Option<&mut Vec<String>>) -> Result<BTreeMap<&'static str, u64>, String> {
    let mut world = None;
    let played = quietly(|| {
        let world = world.insert(World::new(&schedule.setup));
        world.common.story = story.as_ref().map(|_| Vec::new());
        schedule.steps.iter().for_each(|step| world.step(step));
        world.end(&schedule.ending);
    });
    let Some(world) = world else { return Err(played.expect_err("else there is a world")) };
    if let Some(story) = story {
        let end = world.describe();
        story.extend(world.common.story.into_iter().flatten().chain([end]));
    }
    played.map(|()| world.common.stats)
}

/// Catches a panic, and returns what it says.
fn quietly(play: impl FnOnce()) -> Result<(), String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !IS_QUIET.get() {
                before(panic);
            }
        }));
    });
    IS_QUIET.set(true);
    let played = catch_unwind(AssertUnwindSafe(play));
    IS_QUIET.set(false);
    played.map_err(|panic| match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(panic) => panic.downcast::<&str>().map_or_else(|_| "panics".to_owned(), |text| (*text).to_owned()),
    })
}

/// What a failure is about: its text without numbers.
fn kind(why: &str) -> String {
    why.chars().take_while(|c| !c.is_ascii_digit()).collect()
}
