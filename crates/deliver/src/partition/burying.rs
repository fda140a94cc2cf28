//! Dead letters on their way: asked for, written, kept (LANES.md L14). What they stand for settles in [`crate::lanes`] once they are durable.
//!
//! None is written before it is known that the partition is still this process's, and one that is refused is written again until it is kept.

use std::{sync::Arc, time::Duration};

use futures_util::{FutureExt, future::BoxFuture, stream::FuturesUnordered};
use pushline_model::{Cause, DeadLetter};
use pushline_queue::{AppendError, Appended, DeadLetters, QueueError};
use tokio::time::sleep;
use tracing::{error, warn};

use super::Task;
use crate::lanes::{Burial, BurialKey};

/// After so long, a dead letter that was refused is written again.
const BURY_AGAIN: Duration = Duration::from_secs(2);

/// Dead letters that aren't durable yet.
#[derive(Default)]
pub(super) struct Burying {
    /// They wait until it is known that the partition is still ours: it is asked once for all that came since the last answer.
    unasked: Vec<Burial>,
    pub(super) asking: Option<BoxFuture<'static, Answer>>,
    pub(super) writing: FuturesUnordered<BoxFuture<'static, Buried>>,
    /// It isn't ours: none is written any more, and none waited for.
    pub(super) lost: bool,
}

/// Whether the partition is ours, for the dead letters that it was asked for.
pub(super) type Answer = (Vec<Burial>, bool);

/// Dead letters that were written, or never will be.
pub(super) struct Buried {
    key: BurialKey,
    cause: Cause,
    result: Result<(), AppendError>,
}

impl Task {
    /// Sends them on their way.
    pub(super) fn bury(&mut self, burials: impl IntoIterator<Item = Burial>) {
        self.burying.unasked.extend(burials);
        self.ask();
    }

    fn ask(&mut self) {
        if self.burying.lost || self.burying.asking.is_some() || self.burying.unasked.is_empty() {
            return;
        }
        let (burials, partition) = (std::mem::take(&mut self.burying.unasked), Arc::clone(&self.partition));
        self.burying.asking = Some(async move { (burials, partition.confirm_ownership().await) }.boxed());
    }

    /// What another process serves now is its business: this one is about to be told.
    pub(super) fn may_bury(&mut self, burials: Vec<Burial>, ours: bool) {
        if !ours {
            let partition = self.partition.index();
            warn!(partition, dead_letters = burials.len(), "another process serves the partition: no dead letters are written here");
            self.burying.lost = true;
            return;
        }
        for Burial { key, cause, letters } in burials {
            let written = write(self.around.dead_letters.clone(), letters);
            self.burying.writing.push(written.map(move |result| Buried { key, cause, result }).boxed());
        }
        self.ask();
    }

    pub(super) fn buried(&mut self, Buried { key, cause, result }: Buried) -> Result<(), QueueError> {
        match result {
            Ok(()) => self.metrics.dead_lettered(cause, self.lanes.buried(key)),
            Err(_) => return Err(QueueError::Closed),
        }
        self.saving.changed = true;
        // What sweeps found makes way for more; of a message whose attempts are over only room is left, and who waits for room is woken.
        self.turn.wanted |= !matches!(key, BurialKey::Message(_));
        Ok(())
    }
}

/// What refused it, for people; anything else ends the writing.
fn refusal(why: AppendError) -> Result<String, AppendError> {
    if let AppendError::Refused(what) = why { Ok(what) } else { Err(why) }
}

/// Writes dead letters until they are kept: what refuses them (a limit of the topic, rights on it) can be mended. Their message stays unsettled
/// until then. Each is written by itself: those that were kept aren't written again with those that weren't.
fn write(dead_letters: DeadLetters, mut letters: Vec<DeadLetter>) -> impl Future<Output = Result<(), AppendError>> {
    let mut written: Vec<Appended> = letters.iter().map(|letter| dead_letters.append(letter)).collect();
    async move {
        let mut told = false;
        loop {
            let mut refused = Vec::new();
            for (letter, kept) in letters.into_iter().zip(written) {
                if let Err(why) = kept.await {
                    refused.push((letter, refusal(why)?));
                }
            }
            let Some((_, why)) = refused.first() else { return Ok(()) };
            if !std::mem::replace(&mut told, true) {
                error!(refused = why, "a dead letter can't be written for now: its message stays unsettled");
            }
            letters = refused.into_iter().map(|(letter, _)| letter).collect();
            sleep(BURY_AGAIN).await;
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

    /// A log that refuses the letters of one group three times, and keeps what comes with them. Says whose it has kept.
    #[derive(Default)]
    struct Picky(Mutex<(u32, Vec<String>)>);

    impl Append for Picky {
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

    impl Read for Picky {
        fn bounds(&self) -> BoxFuture<'_, Result<Range<Offset>, QueueError>> {
            unreachable!("nobody reads")
        }

        fn reader(&self, _: Offset) -> Box<dyn Reader> {
            unreachable!("nobody reads")
        }
    }

    fn letter(group: &str) -> DeadLetter {
        DeadLetter::unsent(Timestamp(1), group.to_owned(), Cause::Expired, Vec::new())
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_dead_letter_is_written_again_without_those_that_were_kept() {
        let log = Arc::new(Picky::default());
        let letters = ["o/1", "o/refused", "o/2"].map(letter).to_vec();
        write(DeadLetters::new(Arc::clone(&log)), letters).await.unwrap();
        assert_eq!(log.0.lock().unwrap().1, ["o/1", "o/2", "o/refused"]);
    }
}
