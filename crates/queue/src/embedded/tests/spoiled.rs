//! A disk that hands back other bytes than it was given: each bit of each file of the queue. It is refused with what to do, and nothing is changed
//! then; or what it spoils is mended, and that is only ever a torn tail, a checkpoint that another one stands in for, or what holds nothing.

use std::path::PathBuf;

use super::{faults::FaultyFileSystem, *};

/// All files of a queue, by path.
type Files = Vec<(PathBuf, Vec<u8>)>;

fn files(disk: &FaultyFileSystem) -> Files {
    let read = |path: PathBuf| {
        let file = disk.open(&path).unwrap();
        let mut bytes = vec![0; usize::try_from(file.size().unwrap()).unwrap()];
        file.read_at(&mut bytes, 0).unwrap();
        (path, bytes)
    };
    let within = |dir: &str| {
        let names = disk.names(Path::new(dir)).unwrap().into_iter();
        names.map(|name| Path::new(dir).join(name)).collect::<Vec<_>>()
    };
    ["/q", "/q/packets", "/q/dead-letters", "/q/unrouted"].into_iter().flat_map(within).map(read).collect()
}

fn put(disk: &FaultyFileSystem, files: &Files) {
    for (path, bytes) in files {
        let file = disk.open(path).unwrap();
        file.truncate(0).and_then(|()| file.write_at(bytes, 0)).and_then(|()| file.sync()).unwrap();
    }
}

/// The ends of the three logs, and the live offset that the checkpoint names.
type Seen = ([Offset; 3], Option<Offset>);

fn seen(queue: &Embedded) -> Seen {
    let ends: Vec<Offset> = lock(&queue.committers).threads.iter().map(|(log, _)| log.range().end).collect();
    (ends.try_into().unwrap(), number(&queue.partition.checkpoints.saved()))
}

/// Flips each bit of one file, or of each of its bytes one, and opens the queue on that: what is seen then, or `None` where it is refused.
fn each_flip(disk: &FaultyFileSystem, file: &str, bits: &[u8], mut check: impl FnMut(usize, Option<Seen>)) {
    let whole = files(disk);
    let place = whole.iter().position(|(path, _)| path.ends_with(file)).unwrap();
    for at in 0..whole[place].1.len() {
        for bit in bits {
            let mut spoiled = whole.clone();
            spoiled[place].1[at] ^= 1 << bit;
            put(disk, &spoiled);
            match open_on(disk, 0) {
                Ok(queue) => {
                    check(at, Some(seen(&queue)));
                    kill(queue);
                }
                Err(error) => {
                    assert!(matches!(error, QueueError::Corrupt { .. }), "byte {at}: {error}");
                    let said = error.to_string();
                    let advises = said.contains("Restore the file from a backup");
                    assert!(advises && said.contains("/q/"), "{said}");
                    assert_eq!(files(disk), spoiled, "byte {at}: it is refused, and changed");
                    check(at, None);
                }
            }
        }
    }
    put(disk, &whole);
    kill(open_on(disk, 0).expect("without the flip it is whole"));
}

const ALL: [u8; 8] = [0, 1, 2, 3, 4, 5, 6, 7];

/// In each log three commits, so that each but the last is named durable by a later one. Then the process is killed, or stops cleanly.
async fn filled(is_clean: bool) -> FaultyFileSystem {
    let disk = FaultyFileSystem::new();
    let queue = open_on(&disk, 0).unwrap();
    for number in 0..3 {
        append(&queue, number..number + 1).await;
        queue.dead_letters().append(&dead_letter(number)).await.unwrap();
        queue.unrouted().append(&dead_letter(number)).await.unwrap();
    }
    match is_clean {
        true => queue.close().await,
        false => kill(queue),
    }
    disk
}

/// Where the last of a log's three frames begins.
fn last_frame(disk: &FaultyFileSystem, log: &str) -> usize {
    let (_, bytes) = files(disk).into_iter().find(|(path, _)| path.parent().unwrap().ends_with(log)).unwrap();
    let length = |at: usize| HEADER + u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    let second = 32 + length(32);
    second + length(second)
}

#[tokio::test]
async fn a_flipped_bit_in_any_log_is_refused_or_cuts_the_torn_tail_of_that_log_alone() {
    let disk = filled(false).await;
    for (place, log) in ["packets", "dead-letters", "unrouted"].into_iter().enumerate() {
        let last = last_frame(&disk, log);
        let mut cut = [3; 3];
        cut[place] = 2;
        each_flip(&disk, &format!("{log}/{:020}.log", 0), &ALL, |at, seen| {
            let expected = (at >= last).then_some((cut, None));
            assert_eq!(seen, expected, "{log}: byte {at}, the last frame begins at {last}");
        });
    }
}

#[tokio::test]
async fn after_a_clean_stop_no_flipped_bit_is_taken_for_a_torn_tail() {
    let disk = filled(true).await;
    for log in ["packets", "dead-letters", "unrouted"] {
        each_flip(&disk, &format!("{log}/{:020}.log", 0), &[2], |at, seen| assert_eq!(seen, None, "{log}: byte {at}"));
    }
}

#[tokio::test]
async fn after_a_checkpoint_no_flipped_bit_in_any_log_is_taken_for_a_torn_tail() {
    let disk = FaultyFileSystem::new();
    let queue = open_on(&disk, 0).unwrap();
    append(&queue, 0..1).await;
    queue.dead_letters().append(&dead_letter(0)).await.unwrap();
    queue.unrouted().append(&dead_letter(0)).await.unwrap();
    partition(&queue).save(checkpoint(1), 0).await.unwrap();
    kill(queue);
    for log in ["packets", "dead-letters", "unrouted"] {
        each_flip(&disk, &format!("{log}/{:020}.log", 0), &[6], |at, seen| assert_eq!(seen, None, "{log}: byte {at}"));
    }
}

/// Each thread that writes has the file system too.
#[tokio::test]
async fn a_queue_that_is_refused_for_its_last_log_leaves_no_thread_behind() {
    let disk = filled(false).await;
    let mut spoiled = files(&disk);
    let (_, unrouted) = spoiled.iter_mut().find(|(path, _)| path.parent().unwrap().ends_with("unrouted")).unwrap();
    unrouted[0] ^= 1;
    put(&disk, &spoiled);
    let disk = Arc::new(disk) as Arc<dyn FileSystem>;
    assert!(Embedded::open_on(&disk, &options(Path::new("/q"))).is_err());
    assert_eq!(Arc::strong_count(&disk), 1);
}

#[tokio::test]
async fn a_flipped_bit_in_any_segment_but_the_last_is_refused() {
    let disk = FaultyFileSystem::new();
    let queue = open_on(&disk, 0).unwrap();
    for _ in 0..11 {
        queue.append(&[record("o/g", &[b'x'; 900])]).await.unwrap();
    }
    queue.close().await;
    drop(queue);
    let segments = disk.names(Path::new("/q/packets")).unwrap();
    assert!(segments.len() >= 3, "{segments:?}");
    for segment in &segments[..segments.len() - 1] {
        each_flip(&disk, segment, &[3], |at, seen| assert_eq!(seen, None, "{segment}: byte {at}"));
    }
}

#[tokio::test]
async fn a_flipped_bit_in_a_checkpoint_file_is_refused_or_costs_that_save_alone() {
    let disk = filled(false).await;
    let queue = open_on(&disk, 0).unwrap();
    for head in 1..=3 {
        partition(&queue).save(checkpoint(head), 0).await.unwrap();
    }
    kill(queue);
    for (file, left) in [("checkpoint.b", 2), ("checkpoint.a", 3)] {
        each_flip(&disk, file, &ALL, |at, seen| assert_eq!(seen, Some(([3; 3], Some(left))), "{file}: byte {at}"));
    }
}

#[tokio::test]
async fn a_checkpoint_that_the_log_has_gone_beyond_stands_in_for_no_other() {
    let disk = FaultyFileSystem::new();
    let queue = open_on(&disk, 0).unwrap();
    for _ in 0..11 {
        queue.append(&[record("o/g", &[b'x'; 900])]).await.unwrap();
    }
    for watermark in [0, 9] {
        partition(&queue).save(checkpoint(11), watermark).await.unwrap();
    }
    assert!(queue.partition.log.range().start > 0, "segments were deleted");
    kill(queue);
    // With the one before, what was deleted as settled would be missing.
    each_flip(&disk, "checkpoint.a", &[3], |at, seen| assert_eq!(seen, None, "byte {at}"));
    each_flip(&disk, "checkpoint.b", &[3], |at, seen| assert_eq!(seen, Some(([11, 0, 0], Some(11))), "byte {at}"));
}

#[tokio::test]
async fn a_flipped_bit_where_nothing_is_kept_yet_costs_nothing() {
    let disk = FaultyFileSystem::new();
    drop(open_on(&disk, 0).unwrap());
    for log in ["packets", "dead-letters", "unrouted"] {
        let check = |at, seen| assert_eq!(seen, Some(([0; 3], None)), "{log}: byte {at}");
        each_flip(&disk, &format!("{log}/{:020}.log", 0), &[0, 7], check);
    }
}

#[tokio::test]
async fn the_lock_file_holds_nothing_that_could_spoil() {
    let dir = TempDir::new().unwrap();
    three_commits(dir.path()).await;
    let path = dir.path().join("lock");
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 0);
    std::fs::write(&path, "anything").unwrap();
    assert_eq!(partition(&open(dir.path())).log.range(), 0..3);
}
