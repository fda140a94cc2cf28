//! Dead letters (LANES.md L14): what couldn't be delivered, kept in a log of its own and found again by group, cause and time.

use std::{collections::HashSet, fmt, ops::Range, sync::Arc, time::Duration};

use pushline_model::{Cause, DeadLetter, Offset, Timestamp};
use tokio::{sync::Mutex, time::timeout};

use crate::{Append, AppendError, Appended, Frame, Kind, QueueError, Read, Reader, Record};

/// The first byte of an encoded dead letter; the rest is postcard.
const VERSION: u8 = 1;

/// A page ends with the dead letter that brings it to so many bytes: a process holds some of them at once, whatever customers' messages are like.
const PAGE_BYTES: usize = 4 << 20;

/// How often whoever waits for a frame looks whether it is still there.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A log of dead letters. Cheap to clone.
#[derive(Clone)]
pub struct DeadLetters {
    append: Arc<dyn Append>,
    read: Arc<dyn Read>,
    marks: Arc<Mutex<Marks>>,
}

/// Which ones were replayed, by this process or another that shares the log.
#[derive(Debug, Default)]
struct Marks {
    /// Their offsets.
    replayed: HashSet<Offset>,
    /// The log was read up to here.
    read: Offset,
}

/// Which ones to list.
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
    /// Below this offset: what was written before somebody began to ask.
    pub below: Option<Offset>,
}

/// A dead letter and its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its offset in the log of dead letters.
    pub offset: Offset,
    /// Itself.
    pub letter: DeadLetter,
    /// Whether it was replayed (LANES.md L15).
    pub replayed: bool,
}

/// Some of those that were asked for, oldest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// At most as many as were asked for, and of about 4 MiB.
    pub found: Vec<Found>,
    /// Where the next page begins; `None`: this was the last.
    pub next: Option<Offset>,
    /// Where it looked no further: the end of the log, or what the filter said.
    pub end: Offset,
}

// === impl DeadLetters ===

impl DeadLetters {
    /// Dead letters over a log.
    #[must_use]
    pub fn new<L: Append + Read + 'static>(log: Arc<L>) -> Self {
        Self { append: Arc::clone(&log) as Arc<dyn Append>, read: log, marks: Arc::default() }
    }

    /// Writes one. It is kept once this resolves.
    pub fn bury(&self, letter: &DeadLetter) -> Appended {
        self.bury_all(std::slice::from_ref(letter))
    }

    /// Writes several as one batch.
    pub fn bury_all(&self, letters: &[DeadLetter]) -> Appended {
        let encoded: Result<Vec<Vec<u8>>, _> = letters.iter().map(encode).collect();
        let encoded = match encoded {
            Ok(encoded) => encoded,
            Err(error) => return Appended::ready(Err(AppendError::Refused(error.to_string()))),
        };
        let records: Vec<Record<'_>> = letters.iter().zip(&encoded).map(|(letter, payload)| record(letter, payload)).collect();
        self.append.append(&records)
    }

    /// Those that the filter names, from an offset on, at most `limit` of them, and no more once they are 4 MiB; at least one where there is one.
    ///
    /// # Errors
    /// What reading the log gives; [`QueueError::Unreadable`] for a record that this version can't read.
    pub async fn list(&self, filter: &Filter, from: Offset, limit: usize) -> Result<Page, QueueError> {
        let bounds = self.read.bounds().await?;
        self.read_marks(&bounds).await?;
        let end = filter.below.map_or(bounds.end, |below| below.min(bounds.end));
        let mut page = self.page(filter, from.max(bounds.start), end, limit).await?;
        let marks = self.marks.lock().await;
        page.found.iter_mut().for_each(|found| found.replayed = marks.replayed.contains(&found.offset));
        Ok(page)
    }

    /// Without what was replayed.
    async fn page(&self, filter: &Filter, mut at: Offset, end: Offset, limit: usize) -> Result<Page, QueueError> {
        let (mut found, mut bytes, mut reader) = (Vec::new(), 0, self.read.reader(at));
        while at < end
            && let Some(frame) = self.next(&mut *reader, end).await?
        {
            for (offset, record) in frame.records(at).take_while(|(offset, _)| *offset < end) {
                if found.len() == limit || bytes >= PAGE_BYTES {
                    return Ok(Page { found, next: Some(offset), end });
                }
                if record.kind == Kind::DeadLetter && filter.wants_record(&record) {
                    let letter = decode(record.payload).ok_or(QueueError::Unreadable { offset })?;
                    if filter.wants(&letter) {
                        bytes += record.payload.len();
                        found.push(Found { offset, letter, replayed: false });
                    }
                }
            }
            at = frame.end();
        }
        Ok(Page { found, next: None, end })
    }

    /// Notes that dead letters were replayed. A crash before this is durable repeats their replay under the same ids.
    ///
    /// # Errors
    /// What appending gives.
    pub async fn mark_replayed(&self, offsets: &[Offset], at: Timestamp) -> Result<(), AppendError> {
        let payload = postcard::to_stdvec(offsets).map_err(|error| AppendError::Refused(error.to_string()))?;
        self.append.append(&[Record { group: "", at, kind: Kind::Replayed, payload: &payload }]).await
    }

    /// Reads on to the end: another process may have replayed some since. What is deleted meanwhile is forgotten.
    async fn read_marks(&self, bounds: &Range<Offset>) -> Result<(), QueueError> {
        let mut marks = self.marks.lock().await;
        if marks.read > bounds.end {
            // The log was made anew.
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

    /// The next frame. `None`: what is left below `end` was deleted meanwhile, and a reader would wait for what comes after it.
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
    /// What the record itself tells, before it is decoded.
    fn wants_record(&self, record: &Record<'_>) -> bool {
        self.group.as_ref().is_none_or(|group| group == record.group)
            && self.since.is_none_or(|since| record.at >= since)
            && self.until.is_none_or(|until| record.at < until)
    }

    fn wants(&self, letter: &DeadLetter) -> bool {
        self.cause.is_none_or(|cause| letter.cause == cause)
            && self.message_id.as_ref().is_none_or(|id| letter.message_id.as_ref() == Some(id))
    }
}

fn record<'a>(letter: &'a DeadLetter, payload: &'a [u8]) -> Record<'a> {
    Record { group: &letter.group, at: letter.time, kind: Kind::DeadLetter, payload }
}

fn encode(letter: &DeadLetter) -> Result<Vec<u8>, postcard::Error> {
    postcard::to_extend(letter, vec![VERSION])
}

fn decode(bytes: &[u8]) -> Option<DeadLetter> {
    let (&version, rest) = bytes.split_first()?;
    (version == VERSION).then(|| postcard::from_bytes(rest).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use futures_util::{FutureExt, future::BoxFuture};
    use pushline_model::DeadPacket;

    use super::*;
    use crate::{Queue, memory::Memory};

    /// The same log as another process sees it.
    fn elsewhere(letters: &DeadLetters) -> DeadLetters {
        DeadLetters { append: Arc::clone(&letters.append), read: Arc::clone(&letters.read), marks: Arc::default() }
    }

    fn letter(group: &str, payload: usize) -> DeadLetter {
        let packet = DeadPacket { received_at: Timestamp(1), topic: "o/1".to_owned(), iccid: "1".to_owned(), payload: vec![b'x'; payload] };
        DeadLetter::unsent(Timestamp(1), group.to_owned(), Cause::Expired, vec![packet])
    }

    /// Two records that are deleted as soon as somebody has asked for the bounds.
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
    async fn who_lists_what_is_deleted_meanwhile_does_not_wait_for_it() {
        let letters = DeadLetters { read: Arc::new(Vanishing::default()), ..Memory::new().dead_letters() };
        let page = letters.list(&Filter::default(), 0, 10).await.unwrap();
        assert_eq!(page, Page { found: vec![], next: None, end: 2 });
    }

    #[tokio::test]
    async fn a_page_is_bounded_in_bytes_and_the_next_goes_on() {
        let letters = Memory::new().dead_letters();
        for payload in [3 << 20, 3 << 20, 9 << 20, 1, 1] {
            letters.bury(&letter("o/1", payload)).await.unwrap();
        }
        let (mut pages, mut from) = (Vec::new(), Some(0));
        while let Some(offset) = from {
            let page = letters.list(&Filter::default(), offset, 100).await.unwrap();
            pages.push(page.found.iter().map(|found| found.offset).collect::<Vec<_>>());
            from = page.next;
        }
        assert_eq!(pages, [vec![0, 1], vec![2], vec![3, 4]]);
    }

    #[tokio::test]
    async fn what_another_process_has_replayed_since_is_known() {
        let here = Memory::new().dead_letters();
        let there = elsewhere(&here);
        for group in ["o/1", "o/2", "o/3"] {
            here.bury(&letter(group, 0)).await.unwrap();
        }
        let replayed = async |letters: &DeadLetters| {
            let found = letters.list(&Filter::default(), 0, 10).await.unwrap().found;
            found.into_iter().filter(|found| found.replayed).map(|found| found.offset).collect::<Vec<_>>()
        };
        assert_eq!((replayed(&here).await, replayed(&there).await), (vec![], vec![]));
        here.mark_replayed(&[1], Timestamp(2)).await.unwrap();
        assert_eq!((replayed(&here).await, replayed(&there).await), (vec![1], vec![1]));
        there.mark_replayed(&[0, 2], Timestamp(3)).await.unwrap();
        assert_eq!((replayed(&here).await, replayed(&there).await), (vec![0, 1, 2], vec![0, 1, 2]));
    }
}
