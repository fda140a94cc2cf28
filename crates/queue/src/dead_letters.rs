//! Dead letters (docs/delivery.md, Dead letters): messages that couldn't be delivered, kept in a log of their own and found by group, cause and time.

use std::{collections::HashSet, fmt, ops::Range, sync::Arc, time::Duration};

use pushline_model::{Cause, DeadLetter, Offset, Timestamp};
use tokio::{sync::Mutex, time::timeout};

use crate::{Append, AppendError, Appended, Frame, Kind, QueueError, Read, Reader, Record};

/// The first byte of an encoded dead letter; the rest is postcard.
const VERSION: u8 = 2;

/// A page ends with the dead letter that brings it to this many bytes. A process holds several pages at once, and customers' messages may be large.
const PAGE_BYTES: usize = 4 << 20;

/// How often a caller that waits for a frame checks that its records weren't deleted.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A log of dead letters. Cheap to clone.
#[derive(Clone)]
pub struct DeadLetters {
    log: Arc<dyn Append>,
    read: Arc<dyn Read>,
    marks: Arc<Mutex<Marks>>,
}

/// The dead letters that were replayed, by this process or another one that shares the log.
#[derive(Debug, Default)]
struct Marks {
    /// Their offsets.
    replayed: HashSet<Offset>,
    /// Marks below this offset were read.
    read: Offset,
}

/// The dead letters to list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Of this group, `organisation/name`.
    pub group: Option<String>,
    /// With this cause.
    pub cause: Option<Cause>,
    /// Written at this time or later.
    pub since: Option<Timestamp>,
    /// Written before this time.
    pub until: Option<Timestamp>,
    /// Of this message.
    pub message_id: Option<String>,
    /// Below this offset, so that later dead letters don't make a listing endless.
    pub below: Option<Offset>,
}

/// A dead letter and its place in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The offset in the log of dead letters.
    pub offset: Offset,
    /// The dead letter.
    pub dead_letter: DeadLetter,
    /// Whether it was replayed.
    pub replayed: bool,
}

/// One page of a listing, oldest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// At most as many as the caller asked for, and about 4 MiB.
    pub found: Vec<Found>,
    /// Where the next page begins. `None`: this is the last page.
    pub next: Option<Offset>,
    /// Where the listing ends: at the end of the log, or at the filter's `below`.
    pub end: Offset,
}

// === impl DeadLetters ===

impl DeadLetters {
    /// Dead letters over a log.
    #[must_use]
    pub fn new<L: Append + Read + 'static>(log: Arc<L>) -> Self {
        Self { log: Arc::clone(&log) as Arc<dyn Append>, read: log, marks: Arc::default() }
    }

    /// Appends a dead letter.
    pub fn append(&self, dead_letter: &DeadLetter) -> Appended {
        self.append_all(std::slice::from_ref(dead_letter))
    }

    /// Appends several dead letters as one batch.
    pub fn append_all(&self, dead_letters: &[DeadLetter]) -> Appended {
        let encoded: Result<Vec<Vec<u8>>, _> = dead_letters.iter().map(encode).collect();
        let encoded = match encoded {
            Ok(encoded) => encoded,
            Err(error) => return Appended::ready(Err(AppendError::Refused(error.to_string()))),
        };
        let records: Vec<Record<'_>> =
            dead_letters.iter().zip(&encoded).map(|(dead_letter, payload)| record(dead_letter, payload)).collect();
        self.log.append(&records)
    }

    /// Lists the dead letters that the filter selects, from an offset on: at most `limit`, and no more once they have 4 MiB; at least one if there is one.
    ///
    /// # Errors
    /// An error of the log; [`QueueError::Unreadable`] for a record of another version.
    pub async fn list(&self, filter: &Filter, from: Offset, limit: usize) -> Result<Page, QueueError> {
        let bounds = self.read.bounds().await?;
        self.read_marks(&bounds).await?;
        let end = filter.below.map_or(bounds.end, |below| below.min(bounds.end));
        let mut page = self.page(filter, from.max(bounds.start), end, limit).await?;
        let marks = self.marks.lock().await;
        page.found.iter_mut().for_each(|found| found.replayed = marks.replayed.contains(&found.offset));
        Ok(page)
    }

    /// A page without the marks of replays.
    async fn page(&self, filter: &Filter, mut at: Offset, end: Offset, limit: usize) -> Result<Page, QueueError> {
        let (mut found, mut bytes, mut reader) = (Vec::new(), 0, self.read.reader(at));
        while at < end {
            reader.limit_ahead(PAGE_BYTES.saturating_sub(bytes));
            let Some(frame) = self.next(&mut *reader, end).await? else { break };
            for (offset, record) in frame.records(at).take_while(|(offset, _)| *offset < end) {
                if found.len() == limit || bytes >= PAGE_BYTES {
                    return Ok(Page { found, next: Some(offset), end });
                }
                if record.kind == Kind::DeadLetter && filter.may_select(&record) {
                    let dead_letter = decode(record.payload).ok_or(QueueError::Unreadable { offset })?;
                    if filter.selects(&dead_letter) {
                        bytes += record.payload.len();
                        found.push(Found { offset, dead_letter, replayed: false });
                    }
                }
            }
            at = frame.end();
        }
        Ok(Page { found, next: None, end })
    }

    /// Marks dead letters as replayed. A crash before the mark is durable repeats their replay under the same ids.
    ///
    /// # Errors
    /// As [`Append::append`].
    pub async fn mark_replayed(&self, offsets: &[Offset], at: Timestamp) -> Result<(), AppendError> {
        let payload = postcard::to_stdvec(offsets).map_err(|error| AppendError::Refused(error.to_string()))?;
        self.log.append(&[Record { group: "", at, kind: Kind::Replayed, payload: &payload }]).await
    }

    /// Reads the marks up to the end of the log: another process may have replayed some since. Drops the marks of deleted dead letters.
    async fn read_marks(&self, bounds: &Range<Offset>) -> Result<(), QueueError> {
        let mut marks = self.marks.lock().await;
        if marks.read > bounds.end {
            // The log was created anew.
            *marks = Marks::default();
        }
        marks.read = marks.read.max(bounds.start);
        let mut reader = self.read.reader(marks.read);
        while marks.read < bounds.end
            && let Some(frame) = self.next(&mut *reader, bounds.end).await?
        {
            for (offset, record) in frame.records(marks.read).filter(|(_, record)| record.kind == Kind::Replayed) {
                let offsets: Vec<Offset> = postcard::from_bytes(record.payload).map_err(|_| QueueError::Unreadable { offset })?;
                marks.replayed.extend(offsets);
            }
            marks.read = frame.end();
        }
        marks.read = marks.read.max(bounds.end);
        marks.replayed.retain(|offset| *offset >= bounds.start);
        Ok(())
    }

    /// The next frame. `None`: the records that were left below `end` were deleted meanwhile, and the reader waits for later ones.
    async fn next(&self, reader: &mut dyn Reader, end: Offset) -> Result<Option<Frame>, QueueError> {
        loop {
            match timeout(LOOK_EVERY, reader.next()).await {
                Ok(frame) => return frame.map(Some),
                Err(_) if self.read.bounds().await?.start >= end => return Ok(None),
                Err(_) => {}
            }
        }
    }
}

impl fmt::Debug for DeadLetters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeadLetters").finish_non_exhaustive()
    }
}

impl Filter {
    /// Decides what the record itself tells, before it is decoded.
    fn may_select(&self, record: &Record<'_>) -> bool {
        self.group.as_ref().is_none_or(|group| group == record.group)
            && self.since.is_none_or(|since| record.at >= since)
            && self.until.is_none_or(|until| record.at < until)
    }

    fn selects(&self, dead_letter: &DeadLetter) -> bool {
        self.cause.is_none_or(|cause| dead_letter.cause == cause)
            && self.message_id.as_ref().is_none_or(|id| dead_letter.message_id.as_ref() == Some(id))
    }
}

fn record<'a>(dead_letter: &'a DeadLetter, payload: &'a [u8]) -> Record<'a> {
    Record { group: &dead_letter.group, at: dead_letter.time, kind: Kind::DeadLetter, payload }
}

fn encode(dead_letter: &DeadLetter) -> Result<Vec<u8>, postcard::Error> {
    postcard::to_extend(dead_letter, vec![VERSION])
}

fn decode(bytes: &[u8]) -> Option<DeadLetter> {
    let (&version, rest) = bytes.split_first()?;
    (version == VERSION).then(|| postcard::from_bytes(rest).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use futures_util::{FutureExt, future::BoxFuture};
    use pushline_model::{DeadPacket, ResponseHeaders};

    use super::*;
    use crate::{Queue, memory::Memory};

    /// The same log, as another process sees it.
    fn elsewhere(dead_letters: &DeadLetters) -> DeadLetters {
        DeadLetters { log: Arc::clone(&dead_letters.log), read: Arc::clone(&dead_letters.read), marks: Arc::default() }
    }

    fn dead_letter(group: &str, payload: usize) -> DeadLetter {
        let packet = DeadPacket { received_at: Timestamp(1), topic: "o/1".to_owned(), iccid: "1".to_owned(), payload: vec![b'x'; payload] };
        DeadLetter::unsent(Timestamp(1), group.to_owned(), Cause::Expired, vec![packet])
    }

    #[test]
    fn a_dead_letter_is_read_as_it_was_written_or_not_at_all() {
        let headers = ResponseHeaders { location: Some("/login".into()), retry_after: Some("120".into()) };
        let dead_letter = DeadLetter { headers, ..dead_letter("o/g", 3) };
        let encoded = encode(&dead_letter).unwrap();
        assert_eq!(decode(&encoded), Some(dead_letter));
        assert_eq!(decode(&encoded[..encoded.len() - 1]), None);
        assert_eq!(decode(&[&[VERSION + 1], &encoded[1..]].concat()), None);
    }

    /// Two records that are deleted as soon as a caller has asked for the bounds.
    #[derive(Default)]
    struct Vanishing(AtomicBool);

    impl Read for Vanishing {
        fn bounds(&self) -> BoxFuture<'_, Result<Range<Offset>, QueueError>> {
            let start = if self.0.swap(true, Ordering::Relaxed) { 2 } else { 0 };
            std::future::ready(Ok(start..2)).boxed()
        }

        fn reader(&self, _: Offset) -> Box<dyn Reader> {
            Box::new(Waiting)
        }
    }

    struct Waiting;

    impl Reader for Waiting {
        fn next(&mut self) -> BoxFuture<'_, Result<Frame, QueueError>> {
            std::future::pending().boxed()
        }
    }

    #[tokio::test]
    async fn a_listing_does_not_wait_for_dead_letters_that_are_deleted_meanwhile() {
        let dead_letters = DeadLetters { read: Arc::new(Vanishing::default()), ..Memory::new().dead_letters() };
        let page = dead_letters.list(&Filter::default(), 0, 10).await.unwrap();
        assert_eq!(page, Page { found: vec![], next: None, end: 2 });
    }

    /// A log whose readers read ahead in blocks, each twice as long as the one before, and count it.
    struct Ahead {
        log: Arc<dyn Read>,
        read: Arc<AtomicUsize>,
    }

    struct AheadReader {
        reader: Box<dyn Reader>,
        block: usize,
        at_most: usize,
        /// Bytes that were read ahead and not returned.
        ahead: usize,
        read: Arc<AtomicUsize>,
    }

    impl Read for Ahead {
        fn bounds(&self) -> BoxFuture<'_, Result<Range<Offset>, QueueError>> {
            self.log.bounds()
        }

        fn reader(&self, from: Offset) -> Box<dyn Reader> {
            Box::new(AheadReader {
                reader: self.log.reader(from),
                block: 1 << 18,
                at_most: usize::MAX,
                ahead: 0,
                read: Arc::clone(&self.read),
            })
        }
    }

    impl Reader for AheadReader {
        fn next(&mut self) -> BoxFuture<'_, Result<Frame, QueueError>> {
            async {
                let frame = self.reader.next().await?;
                while self.ahead < frame.bytes().len() {
                    let block = self.block.min(self.at_most.max(1 << 18));
                    self.ahead += block;
                    self.block *= 2;
                    self.read.fetch_add(block, Ordering::Relaxed);
                }
                self.ahead -= frame.bytes().len();
                Ok(frame)
            }
            .boxed()
        }

        fn limit_ahead(&mut self, bytes: usize) {
            self.at_most = bytes;
        }
    }

    #[tokio::test]
    async fn a_page_reads_little_more_than_it_holds() {
        let kept = Memory::new().dead_letters();
        let read = Arc::new(AtomicUsize::new(0));
        let dead_letters = DeadLetters { read: Arc::new(Ahead { log: Arc::clone(&kept.read), read: Arc::clone(&read) }), ..kept };
        for _ in 0..3000 {
            dead_letters.append(&dead_letter("o/1", 5000)).await.unwrap();
        }
        dead_letters.list(&Filter::default(), 0, 1).await.unwrap(); // the marks are read once
        let pages = async |limit| {
            read.store(0, Ordering::Relaxed);
            let page = dead_letters.list(&Filter::default(), 100, limit).await.unwrap();
            (page.found.len(), read.load(Ordering::Relaxed))
        };
        assert_eq!(pages(10).await, (10, 1 << 18));
        let (found, read) = pages(10_000).await;
        assert!(found > 800 && read <= PAGE_BYTES + (2 << 18), "{read} bytes were read for a page of {found} dead letters");
    }

    #[tokio::test]
    async fn a_page_is_bounded_in_bytes_and_the_next_goes_on() {
        let dead_letters = Memory::new().dead_letters();
        for payload in [3 << 20, 3 << 20, 9 << 20, 1, 1] {
            dead_letters.append(&dead_letter("o/1", payload)).await.unwrap();
        }
        let (mut pages, mut from) = (Vec::new(), Some(0));
        while let Some(offset) = from {
            let page = dead_letters.list(&Filter::default(), offset, 100).await.unwrap();
            pages.push(page.found.iter().map(|found| found.offset).collect::<Vec<_>>());
            from = page.next;
        }
        assert_eq!(pages, [vec![0, 1], vec![2], vec![3, 4]]);
    }

    #[tokio::test]
    async fn a_replay_of_another_process_is_known() {
        let here = Memory::new().dead_letters();
        let there = elsewhere(&here);
        for group in ["o/1", "o/2", "o/3"] {
            here.append(&dead_letter(group, 0)).await.unwrap();
        }
        let replayed = async |dead_letters: &DeadLetters| {
            let found = dead_letters.list(&Filter::default(), 0, 10).await.unwrap().found;
            found.into_iter().filter(|found| found.replayed).map(|found| found.offset).collect::<Vec<_>>()
        };
        assert_eq!((replayed(&here).await, replayed(&there).await), (vec![], vec![]));
        here.mark_replayed(&[1], Timestamp(2)).await.unwrap();
        assert_eq!((replayed(&here).await, replayed(&there).await), (vec![1], vec![1]));
        there.mark_replayed(&[0, 2], Timestamp(3)).await.unwrap();
        assert_eq!((replayed(&here).await, replayed(&there).await), (vec![0, 1, 2], vec![0, 1, 2]));
    }
}
