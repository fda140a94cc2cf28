//! The embedded queue: the contract, and its storage at its edges on a file system that plays faults.

mod faults;
mod spoiled;

use std::{
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    task::{Context, Wake},
    time::Duration,
};

use futures_util::FutureExt;
use pushline_model::{DeadLetter, Timestamp};
use tempfile::TempDir;

use self::faults::FaultyFileSystem;
use super::*;
use crate::{
    AppendError, Filter, FrameBuilder,
    conformance::{self, append, checkpoint, letter, number, read_text, saved},
    frame::{HEADER, tests::record},
};

fn options(dir: &Path) -> Options {
    Options { min_free: 0, segment_bytes: 4096, ..Options::new(dir.to_owned()) }
}

fn partition(queue: &Embedded) -> Arc<OnePartition> {
    Arc::clone(&queue.partition)
}

fn dead_letters(queue: &Embedded) -> Arc<Log> {
    Arc::clone(&lock(&queue.committers).0[1].0)
}

fn open(dir: &Path) -> Embedded {
    Embedded::open(&options(dir)).unwrap()
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

#[tokio::test]
async fn dead_letters_are_kept_within_their_size_and_the_oldest_go_first() {
    let dir = TempDir::new().unwrap();
    let queue = Embedded::open(&Options { dead_letters_max_bytes: 4 << 20, ..options(dir.path()) }).unwrap();
    let large = |number| DeadLetter { time: Timestamp::of(std::time::SystemTime::now()), response: vec![7; 100_000], ..letter(number) };
    for number in 0..100 {
        queue.dead_letters().bury(&large(number)).await.unwrap();
    }
    queue.unrouted().bury(&large(100)).await.unwrap();
    let within = || dead_letters(&queue).bytes() <= 5 << 20;
    until(within).await;
    let found = queue.dead_letters().list(&Filter::default(), 0, 1000).await.unwrap().found;
    assert_eq!(found.last().unwrap().offset, 99);
    assert!((30..55).contains(&found.len()), "{}", found.len());
    assert_eq!(queue.unrouted().list(&Filter::default(), 0, 10).await.unwrap().found.len(), 1);
}

#[tokio::test]
async fn dead_letters_that_are_too_old_go_however_few_they_are() {
    let dir = TempDir::new().unwrap();
    let now = Timestamp::of(std::time::SystemTime::now());
    let hours_ago = |hours| DeadLetter { time: now.minus(Duration::from_hours(hours)), ..letter(hours) };
    let open = |hours| Embedded::open(&Options { keep_dead_letters: Duration::from_hours(hours), ..options(dir.path()) }).unwrap();
    let queue = open(14 * 24);
    for age in [24, 12] {
        queue.dead_letters().bury(&hours_ago(age)).await.unwrap();
    }
    drop(queue);
    // A segment begins though nothing comes, and the one before stays for its younger one.
    let queue = open(16);
    until(|| dead_letters(&queue).oldest().is_some()).await;
    assert_eq!(dead_letters(&queue).range(), 0..2);
    queue.dead_letters().bury(&hours_ago(1)).await.unwrap();
    drop(queue);
    let queue = open(11);
    until(|| dead_letters(&queue).range().start > 0).await;
    let found = queue.dead_letters().list(&Filter::default(), 0, 10).await.unwrap().found;
    assert_eq!(found.into_iter().map(|found| found.letter).collect::<Vec<_>>(), [hours_ago(1)]);
}

#[tokio::test]
async fn dead_letters_that_are_too_old_go_though_there_is_no_room_to_begin_a_segment() {
    const KEEP: Duration = Duration::from_hours(16);
    let disk = FaultyFileSystem::new();
    let options = Options { keep_dead_letters: KEEP, ..options(Path::new("/q")) };
    let open = || Embedded::open_on(&(Arc::new(disk.clone()) as Arc<dyn FileSystem>), &options);
    let queue = open().unwrap();
    let log = dead_letters(&queue);
    let bury = async |age| {
        let time = Timestamp::of(std::time::SystemTime::now()).minus(age);
        queue.dead_letters().bury(&DeadLetter { time, ..letter(1) }).await.unwrap();
    };
    bury(KEEP - Duration::from_secs(3)).await;
    until(|| log.oldest().is_some()).await;
    // A second later a segment shall begin and can't, and two seconds after that the first letter is too old.
    bury(KEEP / 8 - Duration::from_secs(1)).await;
    disk.set_free(0);
    until(|| log.range().start == 1).await;
    disk.set_free(1 << 30);
    bury(Duration::ZERO).await;
    assert_eq!(log.range(), 1..3);
    // Nothing of the segment that couldn't begin lies in the middle.
    queue.close().await;
    drop((log, queue));
    assert_eq!(dead_letters(&open().unwrap()).range(), 1..3);
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
    let dir = TempDir::new().unwrap();
    let queue = Embedded::open(&Options { keep_dead_letters: Duration::from_hours(16), ..options(dir.path()) }).unwrap();
    let (log, time) = (dead_letters(&queue), Timestamp::of(std::time::SystemTime::now()).minus(Duration::from_hours(12)));
    queue.dead_letters().bury(&DeadLetter { time, ..letter(0) }).await.unwrap();
    until(|| log.oldest().is_some()).await;
    log.forget_below(1).unwrap();
    assert_eq!(log.range(), 1..1);
    let (woken, mut reader) = (Arc::new(Woken::default()), log.reader(0));
    let mut next = reader.next();
    assert!(next.as_mut().poll(&mut Context::from_waker(&Arc::clone(&woken).into())).is_pending());
    tokio::task::yield_now().await; // wakes who has used up its turn
    assert!(!woken.0.load(Ordering::Relaxed), "it looks again and again");
    queue.dead_letters().bury(&letter(1)).await.unwrap();
    assert_eq!(next.await.unwrap().base(), 1);
}

/// Waits for what another thread does.
async fn until(condition: impl Fn() -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(20), async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    waited.await.expect("it never came");
}

// --- flipped bits, torn tails, versions

/// Three commits, so that each but the last is named durable by a later one.
async fn three_commits(dir: &Path) {
    let queue = open(dir);
    for number in 0..3 {
        append(&queue, number..number + 1).await;
    }
    queue.close().await;
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
    queue.close().await;
    drop(queue);
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
    queue.close().await;
    drop(queue);
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
        assert_eq!(partition(&open(dir.path())).log.range(), 0..2);
    }
    let zeros = [&whole[..], &[0; 5000]].concat();
    std::fs::write(&path, zeros).unwrap();
    assert_eq!(partition(&open(dir.path())).log.range(), 0..3);
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
        // Of the last segment nothing but its own frames knew, and checkpoint only names what it had passed.
        if missing != paths.last().unwrap() {
            assert!(matches!(Embedded::open(&options(dir.path())), Err(QueueError::Corrupt { .. })), "{missing:?}");
        }
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
    for head in 1..4 {
        partition(&queue).save(checkpoint(head), 0).await.unwrap();
    }
    queue.close().await;
    drop(queue);
    let spoil = |name: &str| {
        let path = dir.path().join(name);
        let mut bytes = std::fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(path, bytes).unwrap();
    };
    spoil("checkpoint.b");
    assert_eq!(partition(&open(dir.path())).load().await.unwrap(), saved(2, 0));
    spoil("checkpoint.a");
    assert!(matches!(Embedded::open(&options(dir.path())), Err(QueueError::Corrupt { .. })));
}

#[tokio::test]
async fn a_later_version_is_refused() {
    let dir = TempDir::new().unwrap();
    three_commits(dir.path()).await;
    let path = last_segment(dir.path());
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[8] = 2;
    std::fs::write(&path, &bytes).unwrap();
    let error = Embedded::open(&options(dir.path())).unwrap_err();
    assert!(matches!(error, QueueError::Version { found: 2, known: 1, .. }), "{error}");
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
    queue.dead_letters().bury(&letter(1)).await.unwrap();
    let mut waiting = queue.append(&[record("o/g", b"last")]);
    assert!(tokio::time::timeout(Duration::from_millis(50), &mut waiting).await.is_err());
    disk.set_free(1 << 30);
    waiting.await.unwrap();
    assert!(queue.stalled().is_none());
    // And with no space at all.
    disk.set_free(0);
    let waiting = queue.dead_letters().bury(&letter(2));
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
