//! Dead letters on their way: ownership is confirmed, they are written, and written again until they are kept (docs/delivery.md, Dead letters).
//!
//! None is written before it is known that this process still owns the partition. One that the log refuses is written again: what refuses it (a limit of
//! the topic, rights on it) can be corrected, and what it stands for stays unsettled until then.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::{FutureExt, future::BoxFuture, stream::FuturesUnordered};
use pushline_lanes::{DeadLetterBatch, DeadLetterKey, Event};
use pushline_model::{Cause, DeadLetter};
use pushline_queue::{AppendError, Appended, DeadLetters, QueueError};
use tokio::time::sleep;
use tracing::{error, warn};

use super::Task;

/// After this time, a dead letter that was refused is written again.
const WRITE_AGAIN: Duration = Duration::from_secs(2);

/// Dead letters that aren't durable yet.
#[derive(Default)]
pub(super) struct Writing {
    /// They came after ownership was asked for: it is asked for once for all of them.
    unconfirmed: Vec<DeadLetterBatch>,
    pub(super) confirming: Option<BoxFuture<'static, (Vec<DeadLetterBatch>, bool)>>,
    pub(super) writing: FuturesUnordered<BoxFuture<'static, Written>>,
    /// Another process owns the partition: none is written any more.
    is_revoked: bool,
}

/// Dead letters that were written, or never will be.
pub(super) struct Written {
    key: DeadLetterKey,
    packets: BTreeMap<Cause, u64>,
    result: Result<(), AppendError>,
}

impl Task {
    /// Sends the dead letters that the core wants written on their way.
    pub(super) fn confirm_ownership(&mut self) {
        let letters = &mut self.dead_letters;
        letters.unconfirmed.append(&mut self.effects.dead_letters);
        if letters.is_revoked {
            letters.unconfirmed.clear();
        }
        if letters.confirming.is_none() && !letters.unconfirmed.is_empty() {
            let (batches, partition) = (std::mem::take(&mut letters.unconfirmed), Arc::clone(&self.partition));
            letters.confirming = Some(async move { (batches, partition.confirm_ownership().await) }.boxed());
        }
    }

    pub(super) fn ownership_confirmed(&mut self, batches: Vec<DeadLetterBatch>, is_owner: bool) {
        if !is_owner {
            let partition = self.partition.index();
            warn!(partition, messages = batches.len(), "another process owns the partition: this one writes no dead letters of it");
            self.dead_letters.is_revoked = true;
            self.on(Event::OwnershipLost);
            return;
        }
        for DeadLetterBatch { key, letters } in batches {
            let mut packets = BTreeMap::new();
            letters.iter().for_each(|letter| *packets.entry(letter.cause).or_default() += letter.packets.len() as u64);
            let written = write(self.context.dead_letters.clone(), letters);
            self.dead_letters.writing.push(written.map(move |result| Written { key, packets, result }).boxed());
        }
    }

    pub(super) fn dead_letters_written(&mut self, Written { key, packets, result }: Written) -> Result<(), QueueError> {
        result.map_err(|_| QueueError::Closed)?;
        packets.into_iter().for_each(|(cause, packets)| self.metrics.dead_lettered(cause, packets));
        self.on(Event::DeadLettersDurable(key));
        Ok(())
    }
}

/// What refused it, for people; anything else ends the writing.
fn refusal(why: AppendError) -> Result<String, AppendError> {
    if let AppendError::Refused(what) = why { Ok(what) } else { Err(why) }
}

/// Writes dead letters until they are kept. Each is written by itself: those that were kept aren't written again with those that weren't.
fn write(dead_letters: DeadLetters, mut letters: Vec<DeadLetter>) -> impl Future<Output = Result<(), AppendError>> {
    let mut written: Vec<Appended> = letters.iter().map(|letter| dead_letters.append(letter)).collect();
    async move {
        let mut is_logged = false;
        loop {
            let mut refused = Vec::new();
            for (letter, kept) in letters.into_iter().zip(written) {
                if let Err(why) = kept.await {
                    refused.push((letter, refusal(why)?));
                }
            }
            let Some((letter, why)) = refused.first() else { return Ok(()) };
            if !std::mem::replace(&mut is_logged, true) {
                error!(
                    group = letter.group,
                    refused = why,
                    "a dead letter is refused: its packets stay unsettled, and it is written again every 2 s"
                );
            }
            letters = refused.into_iter().map(|(letter, _)| letter).collect();
            sleep(WRITE_AGAIN).await;
            written = letters.iter().map(|letter| dead_letters.append(letter)).collect();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        ops::Range,
        sync::{Mutex, PoisonError},
    };

    use pushline_model::{Offset, Timestamp};
    use pushline_queue::{Append, Read, Reader, Record};

    use super::*;

    /// A log that refuses the letters of one group three times, and keeps what comes with them. Remembers whose it has kept.
    #[derive(Default)]
    struct Refusing(Mutex<(u32, Vec<String>)>);

    impl Append for Refusing {
        fn append(&self, batch: &[Record<'_>]) -> Appended {
            let mut log = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let mut result = Ok(());
            for record in batch {
                if record.group == "o/refused" && log.0 < 3 {
                    log.0 += 1;
                    result = Err(AppendError::Refused("too large".into()));
                } else {
                    log.1.push(record.group.to_owned());
                }
            }
            Appended::ready(result)
        }
    }

    impl Read for Refusing {
        fn bounds(&self) -> BoxFuture<'_, Result<Range<Offset>, QueueError>> {
            unreachable!("this test reads nothing")
        }

        fn reader(&self, _: Offset) -> Box<dyn Reader> {
            unreachable!("this test reads nothing")
        }
    }

    fn letter(group: &str) -> DeadLetter {
        DeadLetter::unsent(Timestamp(1), group.to_owned(), Cause::Expired, Vec::new())
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_dead_letter_is_written_again_without_those_that_were_kept() {
        let log = Arc::new(Refusing::default());
        let letters = ["o/1", "o/refused", "o/2"].map(letter).to_vec();
        write(DeadLetters::new(Arc::clone(&log)), letters).await.unwrap();
        assert_eq!(log.0.lock().unwrap().1, ["o/1", "o/2", "o/refused"]);
    }
}
