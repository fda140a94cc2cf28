//! How long dead letters are kept, and how many.

use super::*;

const KEEP: Duration = Duration::from_hours(16);

fn keep(keep: Duration) -> Options {
    Options { keep_dead_letters: keep, ..options(Path::new("/q")) }
}

async fn append_dead_letter(queue: &Embedded, number: u64) {
    queue.dead_letters().append(&dead_letter(number)).await.unwrap();
}

/// The numbers of those that are kept.
async fn kept(queue: &Embedded) -> Vec<u64> {
    let found = queue.dead_letters().list(&Filter::default(), 0, 100).await.unwrap().found;
    found.into_iter().map(|found| found.dead_letter.time.0 - dead_letter(0).time.0).collect()
}

/// Lets each committer look twice at the age of its log.
async fn let_them_look() {
    tokio::time::sleep(Duration::from_millis(1100)).await;
}

#[tokio::test]
async fn dead_letters_are_kept_within_their_size_and_the_oldest_go_first() {
    let dir = TempDir::new().unwrap();
    let queue = Embedded::open(&Options { dead_letters_max_bytes: 4 << 20, ..options(dir.path()) }).unwrap();
    let large = |number| DeadLetter { response: vec![7; 100_000], ..dead_letter(number) };
    for number in 0..100 {
        queue.dead_letters().append(&large(number)).await.unwrap();
    }
    queue.unrouted().append(&large(100)).await.unwrap();
    let within = || dead_letters(&queue).bytes() <= 5 << 20;
    until(within).await;
    let found = queue.dead_letters().list(&Filter::default(), 0, 1000).await.unwrap().found;
    assert_eq!(found.last().unwrap().offset, 99);
    assert!((30..55).contains(&found.len()), "{}", found.len());
    assert_eq!(queue.unrouted().list(&Filter::default(), 0, 10).await.unwrap().found.len(), 1);
}

#[tokio::test]
async fn dead_letters_that_are_too_old_go_however_few_they_are() {
    let (disk, clock) = (FaultyFileSystem::new(), ManualClock::new());
    let queue = clock.open(&disk, &keep(KEEP));
    let log = dead_letters(&queue);
    append_dead_letter(&queue, 1).await;
    // A segment begins though nothing comes.
    clock.pass(KEEP / 8 + Duration::from_secs(1));
    until(|| log.oldest().is_some()).await;
    append_dead_letter(&queue, 2).await;
    clock.pass(KEEP * 7 / 8);
    until(|| log.range().start == 1).await;
    assert_eq!(kept(&queue).await, [2]);
}

#[tokio::test]
async fn no_step_of_the_wall_clock_drops_a_dead_letter() {
    let (disk, clock) = (FaultyFileSystem::new(), ManualClock::new());
    let right = clock.wall();
    let mut queue = clock.open(&disk, &keep(KEEP));
    append_dead_letter(&queue, 1).await;
    for wrong in [right.plus(KEEP * 30), Timestamp(0), right.plus(KEEP * 60), right] {
        clock.set_wall(wrong);
        let_them_look().await;
        append_dead_letter(&queue, 2).await;
        // Also for a process that starts while it is wrong, and after a kill.
        kill(queue);
        queue = clock.open(&disk, &keep(KEEP));
        let_them_look().await;
    }
    assert_eq!(kept(&queue).await, [1, 2, 2, 2, 2]);
}

#[tokio::test]
async fn the_age_of_dead_letters_goes_on_after_a_restart() {
    let (disk, clock) = (FaultyFileSystem::new(), ManualClock::new());
    let mut queue = clock.open(&disk, &keep(KEEP));
    append_dead_letter(&queue, 1).await;
    for is_clean in [false, true] {
        clock.pass(KEEP * 2 / 3);
        // A process that saves, and one that stops cleanly, note how long the log has lived.
        match is_clean {
            true => queue.close().await,
            false => partition(&queue).save(checkpoint(1), 0).await.unwrap(),
        }
        kill(queue);
        queue = clock.open(&disk, &keep(KEEP));
        until(|| dead_letters(&queue).last_began().is_none()).await;
    }
    until(|| dead_letters(&queue).range() == (1..1)).await;
}

#[tokio::test]
async fn dead_letters_that_are_too_old_go_though_there_is_no_space_to_begin_a_segment() {
    let (disk, clock) = (FaultyFileSystem::new(), ManualClock::new());
    let queue = clock.open(&disk, &keep(KEEP));
    let log = dead_letters(&queue);
    append_dead_letter(&queue, 1).await;
    clock.pass(KEEP / 8 + Duration::from_secs(1));
    until(|| log.oldest().is_some()).await;
    append_dead_letter(&queue, 2).await;
    // A segment is due and can't begin; then the first dead letter is too old.
    disk.set_free(0);
    clock.pass(KEEP / 8 + Duration::from_secs(1));
    let_them_look().await;
    clock.pass(KEEP * 3 / 4);
    until(|| log.range().start == 1).await;
    disk.set_free(1 << 30);
    append_dead_letter(&queue, 3).await;
    assert_eq!(log.range(), 1..3);
    // No half of the segment that couldn't begin lies in the middle.
    queue.close().await;
    drop((log, queue));
    assert_eq!(dead_letters(&clock.open(&disk, &keep(KEEP))).range(), 1..3);
}
