//! The contract as tests. Every backend calls [`all`] with a way to open its queue: a fresh one, then the same one again.

use std::{ops::Range, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use pushline_model::{Cause, DeadLetter, DeadPacket, Offset, ResponseHeaders, Timestamp};
use tokio::time::timeout;

use crate::{AppendError, FRAME_MAX, Filter, Kind, Partition, Queue, Read, Reader, Record, Saved, SavedCheckpoint, frame::tests::record};

/// How long an event may take that must come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Opens a queue. Called again after the one before was closed and dropped, a durable backend has its records.
pub(crate) type Open<'a> = dyn Fn() -> BoxFuture<'a, Arc<dyn Queue>> + 'a;

/// Every rule. `durable`: whether records are there when the queue is opened again. Each call of `fresh` returns a way to open a new, empty queue.
pub(crate) async fn all<'a>(fresh: &dyn Fn() -> Box<Open<'a>>, durable: bool) {
    // Each on a queue of its own: a backend whose queues take a while to open opens them at the same time.
    tokio::join!(
        async { records_are_read_as_they_were_appended_in_order(&*fresh()().await).await },
        async { an_empty_batch_is_durable_at_once(&*fresh()().await).await },
        async { what_can_never_be_stored_is_refused_whole(&*fresh()().await).await },
        async { a_reader_waits_at_the_end_and_may_be_cancelled(&*fresh()().await).await },
        async { readers_know_nothing_of_each_other(&*fresh()().await).await },
        async { a_large_record_has_a_frame_of_its_own(&*fresh()().await).await },
        async { appends_from_many_callers_keep_each_callers_order(fresh()().await).await },
        async { dead_letters_are_found_by_group_cause_and_time(&*fresh()().await).await },
        async { a_closed_queue_takes_nothing(&*fresh()().await).await },
        async { the_checkpoint_is_the_one_that_was_saved_last_with_its_watermark(&*fresh()().await).await },
        async { a_reset_saves_the_watermark_with_another_checkpoint(&*fresh()().await).await },
        async { every_reader_sees_the_same_log_times(&*fresh()().await).await },
        async { the_horizon_or_a_tick_shows_that_a_window_is_over(&*fresh()().await).await },
    );
    if durable {
        everything_is_there_after_it_was_opened_again(&*fresh()).await;
    }
}

async fn records_are_read_as_they_were_appended_in_order(queue: &dyn Queue) {
    append(queue, 0..5).await;
    append(queue, 5..7).await;
    let partition = partition(queue).await;
    assert_eq!(bounds(&*partition).await, 0..7);
    for from in 0..7 {
        assert_eq!(read(&mut *partition.reader(from), from, 7).await, numbers(from..7));
    }
}

async fn an_empty_batch_is_durable_at_once(queue: &dyn Queue) {
    assert_eq!(queue.append(&[]).await, Ok(()));
    assert_eq!(bounds(&*partition(queue).await).await, 0..0);
}

async fn what_can_never_be_stored_is_refused_whole(queue: &dyn Queue) {
    let long = "g".repeat(256);
    let result = queue.append(&[record("o/g", b"0"), record(&long, b"1")]).await;
    assert!(matches!(result, Err(AppendError::Refused(_))), "{result:?}");
    append(queue, 0..1).await;
    assert_eq!(bounds(&*partition(queue).await).await, 0..1);
}

async fn a_reader_waits_at_the_end_and_may_be_cancelled(queue: &dyn Queue) {
    let mut reader = partition(queue).await.reader(0);
    assert!(timeout(Duration::from_millis(10), reader.next()).await.is_err());
    append(queue, 0..3).await;
    assert_eq!(read(&mut *reader, 0, 3).await, numbers(0..3));
    assert!(timeout(Duration::from_millis(10), reader.next()).await.is_err());
    append(queue, 3..4).await;
    assert_eq!(read(&mut *reader, 3, 4).await, numbers(3..4));
}

async fn readers_know_nothing_of_each_other(queue: &dyn Queue) {
    append(queue, 0..4).await;
    let partition = partition(queue).await;
    let (mut one, mut other) = (partition.reader(0), partition.reader(2));
    assert_eq!(read(&mut *one, 0, 4).await, numbers(0..4));
    assert_eq!(read(&mut *other, 2, 4).await, numbers(2..4));
    assert_eq!(read(&mut *partition.reader(1), 1, 4).await, numbers(1..4));
}

async fn a_large_record_has_a_frame_of_its_own(queue: &dyn Queue) {
    let large = vec![b'x'; FRAME_MAX + 1];
    let batch = [record("o/g", b"0"), record("o/g", &large), record("o/g", b"2")];
    queue.append(&batch).await.unwrap();
    let frame = partition(queue).await.reader(1).next().await.unwrap();
    let (offset, found) = frame.records(1).next().unwrap();
    assert_eq!((offset, found.payload.len()), (1, large.len()));
    let all = 3 * FRAME_MAX / 1000;
    let payload = vec![b'y'; 1000];
    queue.append(&vec![record("o/g", &payload); all]).await.unwrap();
    let end = bounds(&*partition(queue).await).await.end;
    let (mut at, mut reader) = (3, partition(queue).await.reader(3));
    while at < end {
        let frame = reader.next().await.unwrap();
        assert!(frame.bytes().len() <= FRAME_MAX + 64, "{}", frame.bytes().len());
        at = frame.end();
    }
}

async fn appends_from_many_callers_keep_each_callers_order(queue: Arc<dyn Queue>) {
    let callers: Vec<_> = (0..8)
        .map(|caller| {
            let queue = Arc::clone(&queue);
            tokio::spawn(async move {
                for number in 0..50 {
                    let payload = format!("{caller} {number}");
                    queue.append(&[record("o/g", payload.as_bytes())]).await.unwrap();
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    let all = read_text(&mut *partition(&*queue).await.reader(0), 0, 400).await;
    for caller in 0..8 {
        let its: Vec<&String> = all.iter().filter(|text| text.starts_with(&format!("{caller} "))).collect();
        assert_eq!(its, (0..50).map(|number| format!("{caller} {number}")).collect::<Vec<_>>().iter().collect::<Vec<_>>());
    }
}

async fn dead_letters_are_found_by_group_cause_and_time(queue: &dyn Queue) {
    let dead_letters: Vec<DeadLetter> = (0..10).map(dead_letter).collect();
    for dead_letter in &dead_letters {
        queue.dead_letters().append(dead_letter).await.unwrap();
    }
    let list = |filter: Filter, from, limit| async move { queue.dead_letters().list(&filter, from, limit).await.unwrap() };
    let all = list(Filter::default(), 0, 100).await;
    assert_eq!(all.found.into_iter().map(|found| found.dead_letter).collect::<Vec<_>>(), dead_letters);
    let page = list(Filter::default(), 0, 4).await;
    assert_eq!((page.found.len(), page.next), (4, Some(4)));
    assert_eq!(list(Filter::default(), 4, 6).await.next, None);
    let times = |page: crate::Page| page.found.iter().map(|found| found.dead_letter.time.0 - LATER).collect::<Vec<_>>();
    let group = Filter { group: Some("o/1".into()), ..Filter::default() };
    assert_eq!(times(list(group, 0, 100).await), [1, 3, 5, 7, 9]);
    let between = Filter { since: Some(Timestamp(LATER + 3)), until: Some(Timestamp(LATER + 5)), ..Filter::default() };
    assert_eq!(times(list(between, 0, 100).await), [3, 4]);
    let cause = Filter { cause: Some(Cause::NoResponse), ..Filter::default() };
    assert_eq!(times(list(cause, 0, 100).await), [0, 3, 6, 9]);
    assert_eq!(queue.unrouted().list(&Filter::default(), 0, 100).await.unwrap().found, []);
    queue.dead_letters().mark_replayed(&[3, 5], Timestamp(99)).await.unwrap();
    let replayed = list(Filter::default(), 0, 100).await.found.into_iter().filter(|found| found.replayed);
    assert_eq!(replayed.map(|found| found.offset).collect::<Vec<_>>(), [3, 5]);
}

async fn a_closed_queue_takes_nothing(queue: &dyn Queue) {
    let before = queue.append(&[record("o/g", b"0")]);
    queue.close().await;
    assert_eq!(before.await, Ok(()), "what was appended before is made durable");
    assert_eq!(queue.append(&[record("o/g", b"1")]).await, Err(AppendError::Closed));
}

async fn the_checkpoint_is_the_one_that_was_saved_last_with_its_watermark(queue: &dyn Queue) {
    append(queue, 0..9).await;
    let partition = partition(queue).await;
    assert_eq!(partition.load().await.unwrap(), Saved::default());
    for number in 1..5 {
        partition.save(checkpoint(number), number - 1).await.unwrap();
        assert_eq!(partition.load().await.unwrap(), saved(number, number - 1));
        assert!(partition.confirm_ownership().await);
        assert_eq!(partition.load().await.unwrap(), saved(number, number - 1));
    }
}

async fn a_reset_saves_the_watermark_with_another_checkpoint(queue: &dyn Queue) {
    append(queue, 0..9).await;
    let partition = partition(queue).await;
    partition.save(checkpoint(1), 7).await.unwrap();
    partition.reset(checkpoint(2), 0).await.unwrap();
    assert_eq!(partition.load().await.unwrap(), saved(2, 0));
}

async fn every_reader_sees_the_same_log_times(queue: &dyn Queue) {
    for number in 0..20 {
        append(queue, number..number + 1).await;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let partition = partition(queue).await;
    let live = log_times(&mut *partition.live(0), 0, 20).await;
    assert!(live.is_sorted() && live.first() < live.last(), "{live:?}");
    for from in [0, 7, 19] {
        assert_eq!(log_times(&mut *partition.reader(from), from, 20).await, live[usize::try_from(from).unwrap()..]);
    }
}

/// Each backend has one of the two.
async fn the_horizon_or_a_tick_shows_that_a_window_is_over(queue: &dyn Queue) {
    append(queue, 0..2).await;
    let partition = partition(queue).await;
    let last = *log_times(&mut *partition.reader(0), 0, 2).await.last().unwrap();
    if let Some(horizon) = partition.horizon() {
        assert!(horizon.offset == 2 && horizon.time >= last, "{horizon:?} {last}");
        tokio::time::sleep(Duration::from_millis(5)).await;
        let later = partition.horizon().unwrap();
        assert!(later.time > horizon.time, "time goes on at the end of the log");
        append(queue, 2..3).await;
        assert!(log_times(&mut *partition.reader(2), 2, 3).await[0] >= later.time, "a later record isn't below the horizon");
        assert!(matches!(partition.tick().await, Err(AppendError::Refused(_))));
    } else {
        tokio::time::sleep(Duration::from_millis(5)).await;
        let offset = partition.tick().await.unwrap();
        append(queue, 3..4).await;
        let mut reader = partition.live(0);
        let (mut at, mut kinds) = (0, Vec::new());
        while at < 4 {
            let frame = timeout(PATIENCE, reader.next()).await.expect("a tick is read like any record").unwrap();
            kinds.extend(frame.records(at).map(|(offset, record)| (offset, record.kind == Kind::Tick, frame.log_time())));
            at = frame.end();
        }
        assert_eq!(
            kinds.iter().map(|(offset, is_tick, _)| (*offset, *is_tick)).collect::<Vec<_>>(),
            [(0, false), (1, false), (2, true), (3, false)]
        );
        assert!(offset == 2 && kinds[2].2 > last, "{offset} {kinds:?}");
    }
}

async fn everything_is_there_after_it_was_opened_again(open: &Open<'_>) {
    {
        let queue = open().await;
        append(&*queue, 0..5).await;
        queue.dead_letters().append(&dead_letter(1)).await.unwrap();
        queue.unrouted().append(&dead_letter(2)).await.unwrap();
        queue.unrouted().mark_replayed(&[0], Timestamp(3)).await.unwrap();
        partition(&*queue).await.save(checkpoint(4), 3).await.unwrap();
        queue.close().await;
    }
    let mut times = Vec::new();
    for _ in 0..2 {
        let queue = open().await;
        let partition = partition(&*queue).await;
        assert_eq!(partition.load().await.unwrap(), saved(4, 3));
        let before = log_times(&mut *partition.reader(3), 3, 5).await;
        assert!(times.is_empty() || before == times, "log times stay: {before:?} {times:?}");
        let end = bounds(&*partition).await.end;
        assert_eq!(read(&mut *partition.reader(3), 3, 5).await, numbers(3..5));
        append(&*queue, end..end + 1).await;
        assert_eq!(bounds(&*partition).await.end, end + 1);
        let after = log_times(&mut *partition.reader(3), 3, end + 1).await;
        assert!(after.is_sorted(), "{after:?}");
        times = before;
        assert_eq!(queue.dead_letters().list(&Filter::default(), 0, 9).await.unwrap().found[0].dead_letter, dead_letter(1));
        let unrouted = queue.unrouted().list(&Filter::default(), 0, 9).await.unwrap().found.remove(0);
        assert_eq!((unrouted.dead_letter, unrouted.replayed), (dead_letter(2), true));
        queue.close().await;
    }
}

// --- helpers

pub(crate) async fn append(queue: &dyn Queue, range: Range<Offset>) {
    let payloads = numbers(range);
    let batch: Vec<Record<'_>> = payloads.iter().map(|payload| record("o/g", payload.as_bytes())).collect();
    queue.append(&batch).await.unwrap();
}

pub(crate) async fn partition(queue: &dyn Queue) -> Arc<dyn Partition> {
    let mut partitions = queue.partitions();
    let some = partitions.wait_for(|partitions| !partitions.is_empty());
    let some = timeout(PATIENCE, some).await.expect("a partition comes").unwrap();
    Arc::clone(&some[0])
}

pub(crate) async fn bounds(read: &dyn Read) -> Range<Offset> {
    read.bounds().await.unwrap()
}

fn numbers(range: Range<Offset>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

async fn read(reader: &mut dyn Reader, from: Offset, to: Offset) -> Vec<String> {
    read_text(reader, from, to).await
}

/// The log time of each record.
pub(crate) async fn log_times(reader: &mut dyn Reader, from: Offset, to: Offset) -> Vec<Timestamp> {
    let (mut at, mut times) = (from, Vec::new());
    while at < to {
        let frame = timeout(PATIENCE, reader.next()).await.expect("a durable record can be read").unwrap();
        times.extend(frame.records(at).take_while(|(offset, _)| *offset < to).map(|_| frame.log_time()));
        at = frame.end();
    }
    times
}

pub(crate) async fn read_text(reader: &mut dyn Reader, from: Offset, to: Offset) -> Vec<String> {
    let (mut at, mut found) = (from, Vec::new());
    while at < to {
        let frame = timeout(PATIENCE, reader.next()).await.expect("a record that is durable can be read").unwrap();
        for (offset, record) in frame.records(at).take_while(|(offset, _)| *offset < to) {
            assert_eq!(offset, from + found.len() as Offset);
            found.push(String::from_utf8(record.payload.to_vec()).unwrap());
        }
        at = frame.end();
    }
    found
}

/// A checkpoint with a number.
pub(crate) fn checkpoint(number: u64) -> Bytes {
    format!("checkpoint {number}").into()
}

/// The number of a checkpoint that was loaded.
pub(crate) fn number(saved: &Saved) -> Option<u64> {
    match &saved.checkpoint {
        SavedCheckpoint::Named(bytes) => Some(std::str::from_utf8(bytes).unwrap().strip_prefix("checkpoint ").unwrap().parse().unwrap()),
        _ => None,
    }
}

/// What is loaded once it was saved.
pub(crate) fn saved(number: u64, watermark: Offset) -> Saved {
    Saved { watermark: Some(watermark), checkpoint: SavedCheckpoint::Named(checkpoint(number)) }
}

/// The year 2100: never too old to be kept.
const LATER: u64 = 41_024_448_000_000_000;

pub(crate) fn dead_letter(number: u64) -> DeadLetter {
    DeadLetter {
        time: Timestamp(LATER + number),
        group: format!("o/{}", number % 2),
        webhook: Some("w".into()),
        message_id: None,
        record: None,
        array: true,
        cause: if number.is_multiple_of(3) { Cause::NoResponse } else { Cause::ErrorResponse },
        status: Some(500),
        response: vec![0, 255],
        attempts: vec![],
        packets: vec![DeadPacket { received_at: Timestamp(1), topic: "o/1".into(), iccid: "1".into(), payload: vec![1, 2, 3] }],
        headers: ResponseHeaders { location: None, retry_after: Some("120".into()) },
    }
}
