//! The embedded queue: the contract, and its storage at its edges on a file system that plays faults.

mod faults;
mod log_time;
mod retention;
mod sessions;
mod spoiled;

use std::{
    path::Path,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    task::{Context, Wake},
    time::{Duration, SystemTime},
};

use futures_util::FutureExt;
use pushline_model::{DeadLetter, Timestamp};
use tempfile::TempDir;

use self::faults::FaultyFileSystem;
use super::*;
use crate::{
    AppendError, Filter, FrameBuilder, SavedCheckpoint,
    conformance::{self, append, checkpoint, dead_letter, number, read_text, saved},
    frame::{HEADER, tests::record},
};

fn options(dir: &Path) -> Options {
    Options { min_free: 0, segment_bytes: 4096, ..Options::new(dir.to_owned()) }
}

fn partition(queue: &Embedded) -> Arc<OnePartition> {
    Arc::clone(&queue.partition)
}

fn dead_letters(queue: &Embedded) -> Arc<Log> {
    Arc::clone(&lock(&queue.committers).threads[1].0)
}

fn open(dir: &Path) -> Embedded {
    Embedded::open(&options(dir)).unwrap()
}

/// Ends the queue as kill -9 does: the ends of its logs aren't saved.
fn kill(queue: Embedded) {
    queue.failure.note(&QueueError::Closed);
    drop(queue);
}

/// Clocks that only a test moves.
#[derive(Debug)]
struct ManualClock {
    wall: AtomicU64,
    /// In milliseconds.
    monotonic: AtomicU64,
}

impl ManualClock {
    fn new() -> Arc<Self> {
        Arc::new(Self { wall: AtomicU64::new(Timestamp::of(SystemTime::now()).0), monotonic: AtomicU64::new(7) })
    }

    /// The process and its wall clock go on.
    fn pass(&self, time: Duration) {
        self.monotonic.fetch_add(u64::try_from(time.as_millis()).unwrap(), Ordering::Relaxed);
        self.set_wall(self.wall().plus(time));
    }

    /// The wall clock steps.
    fn set_wall(&self, time: Timestamp) {
        self.wall.store(time.0, Ordering::Relaxed);
    }

    fn open(self: &Arc<Self>, disk: &FaultyFileSystem, options: &Options) -> Embedded {
        Embedded::open_with(&(Arc::new(disk.clone()) as Arc<dyn FileSystem>), &(Arc::clone(self) as Arc<dyn Clock>), options).unwrap()
    }
}

impl Clock for ManualClock {
    fn wall(&self) -> Timestamp {
        Timestamp(self.wall.load(Ordering::Relaxed))
    }

    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.monotonic.load(Ordering::Relaxed))
    }
}

#[tokio::test]
async fn the_embedded_queue_keeps_the_contract() {
    let root = TempDir::new().unwrap();
    let place = std::sync::atomic::AtomicU32::new(0);
    let fresh = || -> Box<conformance::Open<'_>> {
        let dir = root.path().join(place.fetch_add(1, std::sync::atomic::Ordering::Relaxed).to_string());
        Box::new(move || {
            let queue = Arc::new(open(&dir)) as Arc<dyn Queue>;
            async { queue }.boxed()
        })
    };
    conformance::all(&fresh, true).await;
    crate::sessions::conformance::all(&fresh, true).await;
}

#[tokio::test]
async fn a_second_process_is_refused() {
    let dir = TempDir::new().unwrap();
    let _first = open(dir.path());
    let error = Embedded::open(&options(dir.path())).unwrap_err();
    assert!(matches!(error, QueueError::Locked { .. }), "{error}");
}

#[tokio::test]
async fn segments_below_the_watermark_are_deleted_whole_and_old_records_are_read_from_files() {
    let dir = TempDir::new().unwrap();
    let queue = Embedded::open(&Options { segment_bytes: 64 << 10, ..options(dir.path()) }).unwrap();
    let payload = "x".repeat(2000);
    for _ in 0..40 {
        queue.append(&vec![record("o/g", payload.as_bytes()); 500]).await.unwrap();
    }
    let partition = partition(&queue);
    assert_eq!(partition.log.range(), 0..20_000);
    assert_eq!(read_text(&mut *partition.reader(0), 0, 20_000).await.len(), 20_000);
    partition.save(checkpoint(20_000), 10_000).await.unwrap();
    let start = partition.log.range().start;
    assert!((9_000..=10_000).contains(&start), "{start}");
    assert_eq!(read_text(&mut *partition.reader(start), start, 20_000).await.len() as u64, 20_000 - start);
    partition.save(checkpoint(20_000), 20_000).await.unwrap();
    assert!(partition.log.range().start >= 19_500);
    let files = std::fs::read_dir(dir.path().join("packets")).unwrap().count();
    assert_eq!(files, 1);
}

#[tokio::test]
async fn a_reader_below_the_start_stands_for_the_start() {
    let dir = TempDir::new().unwrap();
    let queue = open(dir.path());
    for round in 0..50 {
        append(&queue, round * 100..(round + 1) * 100).await;
    }
    let partition = partition(&queue);
    partition.save(checkpoint(5000), 4000).await.unwrap();
    let start = partition.log.range().start;
    let frame = partition.reader(0).next().await.unwrap();
    assert!(start > 0 && frame.base() >= start && frame.base() <= 4000, "{start} {}", frame.base());
}

#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn a_reader_rests_where_all_was_deleted_before_an_empty_segment() {
    let (disk, clock) = (FaultyFileSystem::new(), ManualClock::new());
    let queue = clock.open(&disk, &Options { keep_dead_letters: Duration::from_hours(16), ..options(Path::new("/q")) });
    let log = dead_letters(&queue);
    queue.dead_letters().append(&dead_letter(0)).await.unwrap();
    clock.pass(Duration::from_hours(12));
    until(|| log.oldest().is_some()).await;
    log.delete_below(1).unwrap();
    assert_eq!(log.range(), 1..1);
    let (woken, mut reader) = (Arc::new(Woken::default()), log.reader(0));
    let mut next = reader.next();
    assert!(next.as_mut().poll(&mut Context::from_waker(&Arc::clone(&woken).into())).is_pending());
    tokio::task::yield_now().await; // wakes a task that has used up its budget
    assert!(!woken.0.load(Ordering::Relaxed), "it looks again and again");
    queue.dead_letters().append(&dead_letter(1)).await.unwrap();
    assert_eq!(next.await.unwrap().base(), 1);
}

/// Waits until another thread has done it.
async fn until(condition: impl Fn() -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(20), async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    waited.await.expect("it never came");
}

// --- flipped bits, torn tails, versions

/// Three commits, so that each but the last is named durable by a later one; then the process is killed.
async fn three_commits(dir: &Path) {
    let queue = open(dir);
    for number in 0..3 {
        append(&queue, number..number + 1).await;
    }
    kill(queue);
}

/// Opens it, looks at it, and leaves no trace of a clean stop.
fn range_of(dir: &Path) -> Range<Offset> {
    let queue = open(dir);
    let range = partition(&queue).log.range();
    kill(queue);
    range
}

fn last_segment(dir: &Path) -> std::path::PathBuf {
    let names = std::fs::read_dir(dir.join("packets")).unwrap().map(|entry| entry.unwrap().path());
    names.max().unwrap()
}

#[tokio::test]
async fn a_flipped_bit_in_any_byte_is_refused_or_only_ever_cuts_the_torn_tail() {
    let dir = TempDir::new().unwrap();
    three_commits(dir.path()).await;
    let path = last_segment(dir.path());
    let whole = std::fs::read(&path).unwrap();
    let frame = (whole.len() - 32) / 3;
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        std::fs::write(&path, &bytes).unwrap();
        let in_last_frame = at >= 32 + 2 * frame;
        match Embedded::open(&options(dir.path())) {
            Ok(queue) => {
                assert!(in_last_frame, "byte {at} was durable");
                assert_eq!(queue.partition.log.range(), 0..2);
                kill(queue);
            }
            Err(error) => {
                assert!(!in_last_frame, "byte {at}: {error}");
                assert!(matches!(error, QueueError::Corrupt { .. } | QueueError::Version { .. }), "{error}");
                assert_eq!(std::fs::read(&path).unwrap(), bytes, "nothing is changed where it is refused");
            }
        }
    }
}

#[tokio::test]
async fn what_checkpoint_names_durable_is_no_torn_tail() {
    let dir = TempDir::new().unwrap();
    let queue = open(dir.path());
    append(&queue, 0..3).await;
    partition(&queue).save(checkpoint(3), 0).await.unwrap();
    kill(queue);
    let path = last_segment(dir.path());
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    let error = Embedded::open(&options(dir.path())).unwrap_err();
    assert!(matches!(error, QueueError::Corrupt { .. }), "{error}");
    std::fs::remove_file(&path).unwrap();
    let error = Embedded::open(&options(dir.path())).unwrap_err();
    assert!(matches!(error, QueueError::Corrupt { .. }), "{error}");
}

#[tokio::test]
async fn what_a_device_makes_look_like_a_frame_is_no_reason_to_refuse_a_torn_tail() {
    let dir = TempDir::new().unwrap();
    let queue = open(dir.path());
    append(&queue, 0..3).await;
    let mut forged = FrameBuilder::default();
    forged.push(&record("o/g", b"forged"));
    let payload = [forged.seal(1 << 32, 1 << 32, Timestamp(7)).bytes(), &b"!"[..]].concat();
    queue.append(&[record("o/g", &payload)]).await.unwrap();
    kill(queue);
    let path = last_segment(dir.path());
    let bytes = std::fs::read(&path).unwrap();
    // Torn in its last byte, behind what looks like a frame.
    std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    assert_eq!(partition(&open(dir.path())).log.range(), 0..3);
}

#[tokio::test]
async fn a_torn_tail_of_any_length_is_cut() {
    let dir = TempDir::new().unwrap();
    three_commits(dir.path()).await;
    let path = last_segment(dir.path());
    let whole = std::fs::read(&path).unwrap();
    let frame = (whole.len() - 32) / 3;
    for cut in 1..frame {
        std::fs::write(&path, &whole[..whole.len() - cut]).unwrap();
        assert_eq!(range_of(dir.path()), 0..2);
    }
    let zeros = [&whole[..], &[0; 5000]].concat();
    std::fs::write(&path, zeros).unwrap();
    assert_eq!(range_of(dir.path()), 0..3);
}

#[tokio::test]
async fn a_missing_segment_is_noticed() {
    let dir = TempDir::new().unwrap();
    let queue = open(dir.path());
    for round in 0..50 {
        append(&queue, round * 100..(round + 1) * 100).await;
    }
    partition(&queue).save(checkpoint(100), 0).await.unwrap();
    queue.close().await;
    drop(queue);
    let mut paths: Vec<_> = std::fs::read_dir(dir.path().join("packets")).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    for missing in [&paths[0], &paths[2], paths.last().unwrap()] {
        let bytes = std::fs::read(missing).unwrap();
        std::fs::remove_file(missing).unwrap();
        assert!(matches!(Embedded::open(&options(dir.path())), Err(QueueError::Corrupt { .. })), "{missing:?}");
        std::fs::write(missing, bytes).unwrap();
    }
    // All of them, as when a disk isn't mounted: nothing begins anew in their place, and with them all is there.
    let packets = dir.path().join("packets");
    std::fs::rename(&packets, dir.path().join("elsewhere")).unwrap();
    let refused = Embedded::open(&options(dir.path())).unwrap_err().to_string();
    assert!(refused.contains(&format!("move {} away", dir.path().display())), "{refused}");
    assert_eq!(std::fs::read_dir(&packets).unwrap().count(), 0);
    std::fs::remove_dir(&packets).unwrap();
    std::fs::rename(dir.path().join("elsewhere"), packets).unwrap();
    assert_eq!(partition(&open(dir.path())).log.range(), 0..5000);
}

#[tokio::test]
async fn spoiled_checkpoint_costs_a_save_and_both_spoiled_are_refused() {
    let dir = TempDir::new().unwrap();
    let queue = open(dir.path());
    append(&queue, 0..9).await;
    for number in 1..4 {
        partition(&queue).save(checkpoint(number), 0).await.unwrap();
    }
    kill(queue);
    let spoil = |name: &str| {
        let path = dir.path().join(name);
        let mut bytes = std::fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(path, bytes).unwrap();
    };
    spoil("checkpoint.b");
    let queue = open(dir.path());
    assert_eq!(partition(&queue).load().await.unwrap(), saved(2, 0));
    kill(queue);
    spoil("checkpoint.a");
    assert!(matches!(Embedded::open(&options(dir.path())), Err(QueueError::CheckpointsUnreadable { .. })));
}

#[tokio::test]
async fn deleted_checkpoint_files_are_noticed_whether_packets_were_deleted_too_or_not() {
    for watermark in [0, 9] {
        let dir = TempDir::new().unwrap();
        let queue = open(dir.path());
        for _ in 0..11 {
            queue.append(&[record("o/g", &[b'x'; 900])]).await.unwrap();
        }
        partition(&queue).save(checkpoint(11), watermark).await.unwrap();
        queue.close().await;
        drop(queue);
        for name in ["checkpoint.a", "checkpoint.b"] {
            std::fs::remove_file(dir.path().join(name)).unwrap();
        }
        let saved = partition(&open(dir.path())).load().await.unwrap();
        assert_eq!(saved.watermark, None);
        assert!(matches!(saved.checkpoint, SavedCheckpoint::Missing { .. }), "{watermark}: {saved:?}");
    }
}

#[tokio::test]
async fn a_queue_that_was_killed_before_its_first_save_misses_no_checkpoint() {
    let dir = TempDir::new().unwrap();
    let queue = open(dir.path());
    queue.append(&[record("o/g", b"x")]).await.unwrap();
    kill(queue);
    let saved = partition(&open(dir.path())).load().await.unwrap();
    assert_eq!(saved, Saved::default());
}

#[tokio::test]
async fn a_spoiled_checkpoint_beside_none_is_a_missing_one_where_packets_were_deleted_too() {
    let dir = TempDir::new().unwrap();
    let queue = open(dir.path());
    for _ in 0..11 {
        queue.append(&[record("o/g", &[b'x'; 900])]).await.unwrap();
    }
    partition(&queue).save(checkpoint(11), 9).await.unwrap();
    queue.close().await;
    drop(queue);
    std::fs::remove_file(dir.path().join("checkpoint.a")).unwrap();
    std::fs::write(dir.path().join("checkpoint.b"), "spoiled").unwrap();
    let queue = open(dir.path());
    assert!(partition(&queue).log.range().start > 0);
    let saved = partition(&queue).load().await.unwrap();
    assert_eq!(saved.watermark, None);
    assert!(matches!(&saved.checkpoint, SavedCheckpoint::Missing { reason } if reason.contains("can't be read")), "{saved:?}");
}

#[tokio::test]
async fn another_version_is_refused_with_advice_and_is_no_corruption() {
    let dir = TempDir::new().unwrap();
    three_commits(dir.path()).await;
    let path = last_segment(dir.path());
    let whole = std::fs::read(&path).unwrap();
    for (version, begin, advice) in [(1, 16, "move"), (3, 8, "or a later one")] {
        let mut bytes = whole.clone();
        bytes[8] = version;
        // Version 1 left its number out of the check sum.
        let sum = [&bytes[begin..12.max(begin)], &bytes[16..32]].concat();
        let crc = crc32c::crc32c(&sum);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        std::fs::write(&path, &bytes).unwrap();
        let error = Embedded::open(&options(dir.path())).unwrap_err();
        assert!(matches!(error, QueueError::Version { found, known: 2, .. } if found == u32::from(version)), "{error}");
        assert!(error.to_string().contains(advice), "{error}");
    }
}

#[tokio::test]
async fn dead_letters_that_were_moved_away_are_gone_and_their_numbers_go_on() {
    let dir = TempDir::new().unwrap();
    let queue = open(dir.path());
    append(&queue, 0..1).await;
    for number in 0..3 {
        queue.dead_letters().append(&dead_letter(number)).await.unwrap();
    }
    queue.close().await;
    drop(queue);
    std::fs::rename(dir.path().join("dead-letters"), dir.path().join("elsewhere")).unwrap();
    let queue = open(dir.path());
    assert_eq!((dead_letters(&queue).range(), partition(&queue).log.range()), (3..3, 0..1));
    queue.dead_letters().append(&dead_letter(9)).await.unwrap();
    let found = queue.dead_letters().list(&Filter::default(), 0, 9).await.unwrap().found;
    assert_eq!(found.into_iter().map(|found| found.offset).collect::<Vec<_>>(), [3]);
}

// --- a full disk, a failing disk

fn open_on(disk: &FaultyFileSystem, min_free: u64) -> Result<Embedded, QueueError> {
    let options = Options { min_free, ..options(Path::new("/q")) };
    Embedded::open_on(&(Arc::new(disk.clone()) as Arc<dyn FileSystem>), &options)
}

#[tokio::test]
async fn a_full_disk_is_waited_out_and_dead_letters_use_the_rest() {
    let disk = FaultyFileSystem::new();
    let queue = open_on(&disk, 1000).unwrap();
    append(&queue, 0..3).await;
    disk.set_free(900);
    // The floor is looked at now and then.
    until(|| queue.append(&[record("o/g", &[b'x'; 1000])]).now_or_never().is_none() && queue.stalled().is_some()).await;
    queue.dead_letters().append(&dead_letter(1)).await.unwrap();
    let mut waiting = queue.append(&[record("o/g", b"last")]);
    assert!(tokio::time::timeout(Duration::from_millis(50), &mut waiting).await.is_err());
    disk.set_free(1 << 30);
    waiting.await.unwrap();
    assert!(queue.stalled().is_none());
    // And with no space at all.
    disk.set_free(0);
    let waiting = queue.dead_letters().append(&dead_letter(2));
    let bounds = dead_letters(&queue).range();
    disk.set_free(1 << 30);
    waiting.await.unwrap();
    assert_eq!(dead_letters(&queue).range().end, bounds.end.max(1) + u64::from(bounds.end == 1));
    queue.close().await;
    drop(queue);
    disk.crash(0);
    assert!(partition(&open_on(&disk, 0).unwrap()).log.range().end > 4);
}

#[tokio::test]
async fn a_failed_sync_is_final_and_the_next_start_loses_nothing() {
    let disk = FaultyFileSystem::new();
    let queue = open_on(&disk, 0).unwrap();
    append(&queue, 0..3).await;
    disk.fail_syncs(true);
    assert_eq!(queue.append(&[record("o/g", b"3")]).await, Err(AppendError::Closed));
    let error = queue.failed().await;
    assert!(error.to_string().contains("can't sync"), "{error}");
    assert_eq!(queue.append(&[record("o/g", b"4")]).await, Err(AppendError::Closed));
    drop(queue);
    disk.crash(1);
    disk.fail_syncs(false);
    let queue = open_on(&disk, 0).unwrap();
    let end = queue.partition.log.range().end;
    assert!((3..=4).contains(&end), "{end}");
    assert_eq!(read_text(&mut *partition(&queue).reader(0), 0, 3).await, ["0", "1", "2"]);
}
