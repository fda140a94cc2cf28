//! Log time and the horizon: what every reader sees, over restarts, wrong clocks and full disks.

use pushline_model::LONGEST_WINDOW;

use super::*;

fn options() -> Options {
    super::options(Path::new("/q"))
}

/// Several frames of one commit lie in one segment.
fn large_segments() -> Options {
    Options { segment_bytes: 64 << 20, ..options() }
}

/// The log time of each record.
async fn log_times(queue: &Embedded) -> Vec<Timestamp> {
    let range = partition(queue).log.range();
    let (mut at, mut reader, mut times) = (range.start, partition(queue).reader(range.start), Vec::new());
    while at < range.end {
        let frame = reader.next().await.unwrap();
        times.extend(frame.records(at).map(|_| frame.log_time()));
        at = frame.end();
    }
    times
}

fn horizon(queue: &Embedded) -> (Offset, Timestamp) {
    let Horizon { offset, time } = Partition::horizon(&*queue.partition).unwrap();
    (offset, time)
}

#[tokio::test]
async fn log_time_follows_the_monotonic_clock_while_the_process_runs() {
    let (disk, clock) = (FaultyFileSystem::new(), ManualClock::new());
    let (began, queue) = (clock.wall(), clock.open(&disk, &options()));
    append(&queue, 0..2).await;
    for (wall, record) in [(began.minus(Duration::from_hours(1)), 2), (began.plus(Duration::from_hours(1)), 3)] {
        clock.pass(Duration::from_secs(1));
        clock.set_wall(wall);
        append(&queue, record..record + 1).await;
    }
    let after = |seconds| began.plus(Duration::from_secs(seconds));
    assert_eq!(log_times(&queue).await, [after(0), after(0), after(1), after(2)]);
    assert_eq!(horizon(&queue), (4, after(2)));
    clock.pass(Duration::from_secs(5));
    assert_eq!(horizon(&queue), (4, after(7)), "the horizon goes on where no record comes");
}

#[tokio::test]
async fn after_a_restart_log_time_begins_above_every_window_whatever_the_wall_clock_says() {
    let (disk, clock) = (FaultyFileSystem::new(), ManualClock::new());
    let right = clock.wall();
    let mut last = Timestamp(0);
    // The wall clock is right, back, right, and far ahead; the last two restarts find the time that was ahead.
    for (number, wall) in (0..).zip([right, Timestamp(0), right, right.plus(Duration::from_hours(99)), right, right]) {
        clock.set_wall(wall);
        let queue = clock.open(&disk, &options());
        let (_, time) = horizon(&queue);
        append(&queue, number..number + 1).await;
        let times = log_times(&queue).await;
        assert!(times.is_sorted(), "{times:?}");
        let now = *times.last().unwrap();
        assert_eq!((now, now), (time, if number == 0 { right } else { wall.max(last.plus(LONGEST_WINDOW)) }));
        last = now;
        kill(queue);
    }
}

#[tokio::test]
async fn log_time_goes_on_though_the_last_segment_is_empty() {
    let (disk, clock) = (FaultyFileSystem::new(), ManualClock::new());
    let queue = clock.open(&disk, &options());
    append(&queue, 0..9).await;
    let log = partition(&queue).log.clone();
    let last = log.last_time();
    log.begin_segment(super::super::segment::Segment::create(&disk, Path::new("/q/packets"), 9, last).unwrap());
    partition(&queue).save(checkpoint(1), 9).await.unwrap();
    kill(queue);
    clock.set_wall(Timestamp(0));
    let queue = clock.open(&disk, &options());
    assert_eq!((horizon(&queue).1, partition(&queue).log.range()), (last.plus(LONGEST_WINDOW), 9..9));
}

#[tokio::test]
async fn a_full_disk_holds_back_neither_whole_frames_nor_the_horizon() {
    let (disk, clock) = (FaultyFileSystem::new(), ManualClock::new());
    let queue = clock.open(&disk, &large_segments());
    let log = partition(&queue).log.clone();
    // A commit of three frames; the disk takes the first one and a part of the second.
    let large = vec![b'x'; 700 << 10];
    disk.set_free_in_all(1 << 20);
    let mut appended = queue.append(&[record("o/g", &large), record("o/g", &large), record("o/g", &large)]);
    until(|| log.range().end == 1 && queue.stalled().is_some()).await;
    let sealed = log.last_time();
    clock.pass(Duration::from_secs(5));
    assert_eq!(horizon(&queue), (1, sealed.plus(Duration::from_secs(5))), "what waits for space has no log time yet");
    assert!((&mut appended).now_or_never().is_none());
    disk.set_free_in_all(1 << 30);
    appended.await.unwrap();
    let late = sealed.plus(Duration::from_secs(5));
    assert_eq!(log_times(&queue).await, [sealed, late, late]);
    kill(queue);
    disk.crash(1);
    assert_eq!(log_times(&clock.open(&disk, &options())).await, [sealed, late, late]);
}

#[tokio::test]
async fn the_horizon_stays_below_frames_whose_commit_stalls() {
    let (disk, clock) = (FaultyFileSystem::new(), ManualClock::new());
    let queue = clock.open(&disk, &large_segments());
    append(&queue, 0..1).await;
    let sealed = clock.wall();
    let hold = disk.stall_syncs();
    let large = vec![b'x'; 700 << 10];
    let appended = queue.append(&[record("o/g", &large), record("o/g", &large)]);
    until(|| hold.is_reached()).await;
    clock.pass(Duration::from_secs(9));
    assert_eq!(horizon(&queue), (1, sealed), "two frames are sealed and not durable");
    drop(hold);
    appended.await.unwrap();
    assert_eq!((horizon(&queue), log_times(&queue).await), ((3, sealed.plus(Duration::from_secs(9))), vec![sealed; 3]));
}
