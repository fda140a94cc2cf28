//! `pushline dead-letters replay`, and the admin address's side of it (LANES.md L15): dead letters go through the log once more, behind what came
//! before them, with the same ids and to the current webhook. Each is marked when its replay is durable, so running it twice repeats nothing.

use std::{sync::Arc, time::SystemTime};

use anyhow::{Context, bail};
use arc_swap::ArcSwap;
use bytes::Bytes;
use clap::Args;
use http_body_util::Full;
use hyper::{Method, Response, StatusCode};
use metrics::counter;
use pushline_ingest::metrics::PACKETS;
use pushline_model::{DeadLetter, Registry, Routed, Timestamp, TopicPattern, route};
use pushline_queue::{AppendError, DeadLetters, Found, Kind, Queue, QueueError, Record, Replay};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use crate::{
    answer::text,
    dead_letters::{LOGS, Place, Which, page_of, read_query},
    print,
};

/// Which ones: a filter, or all.
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    which: Which,
    /// All of them
    #[arg(long)]
    all: bool,
}

/// How packets are routed now: what ingest goes by, as far as it can be read again.
#[derive(Clone)]
pub(crate) struct Routing {
    pub(crate) registry: Arc<ArcSwap<Registry>>,
    pub(crate) topics: Arc<ArcSwap<Vec<TopicPattern>>>,
}

/// Replays of a process, one at a time: two that looked at the same dead letter would both send it.
#[derive(Clone)]
pub(crate) struct Replays {
    queue: Arc<dyn Queue>,
    routing: Routing,
    alone: Arc<Mutex<()>>,
}

/// What became of a page.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Replayed {
    /// Dead letters that are on their way again.
    messages: usize,
    /// The packets in them.
    packets: usize,
    /// Dead letters that had been replayed before.
    already: usize,
    /// Dead letters that still nobody wants.
    unwanted: usize,
}

#[derive(Debug, thiserror::Error)]
enum ReplayError {
    #[error(transparent)]
    Queue(#[from] QueueError),
    #[error(transparent)]
    Append(#[from] AppendError),
}

impl Replays {
    pub(crate) fn new(queue: Arc<dyn Queue>, routing: Routing) -> Self {
        Self { queue, routing, alone: Arc::default() }
    }

    /// Answers `POST /dead-letters/replay?…` with what it did; the same filters as for a list. Whoever asks may go away in the middle: what was appended
    /// is marked all the same.
    pub(crate) async fn answer(&self, log: DeadLetters, query: &str) -> Response<Full<Bytes>> {
        let alone = Arc::clone(&self.alone).lock_owned().await;
        let (this, query) = (self.clone(), query.to_owned());
        let page = tokio::spawn(async move {
            let _alone = alone;
            answer(&*this.queue, &log, &this.routing, &query).await
        });
        page.await.unwrap_or_else(|error| text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")))
    }
}

async fn answer(queue: &dyn Queue, log: &DeadLetters, routing: &Routing, query: &str) -> Response<Full<Bytes>> {
    let (filter, from, limit) = match read_query(query) {
        Ok(asked) => asked,
        Err(problem) => return text(StatusCode::BAD_REQUEST, format!("{problem}\n")),
    };
    let page = async {
        let mut page = log.list(&filter, from, limit).await?;
        let replayed = replay(queue, log, routing, std::mem::take(&mut page.found)).await?;
        Ok::<_, ReplayError>((replayed, page))
    };
    match page.await.map(|(replayed, page)| (serde_json::to_string(&replayed), page)) {
        Ok((Ok(body), page)) => page_of(body, &page),
        Ok((Err(error), _)) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

/// Appends the replays, and marks their dead letters when they are durable.
async fn replay(queue: &dyn Queue, log: &DeadLetters, routing: &Routing, found: Vec<Found>) -> Result<Replayed, ReplayError> {
    let at = Timestamp::of(SystemTime::now());
    let mut replayed = Replayed::default();
    let (mut offsets, mut messages) = (Vec::new(), Vec::new());
    let (registry, topics) = (routing.registry.load_full(), routing.topics.load_full());
    for Found { offset, dead_letter: letter, replayed: already } in found {
        if already {
            replayed.already += 1;
            continue;
        }
        match to_group(letter, &topics, &registry) {
            None => replayed.unwanted += 1,
            Some((group, replay)) => {
                replayed.messages += 1;
                replayed.packets += replay.packets.len();
                offsets.push(offset);
                messages.push((group, replay.encode()));
            }
        }
    }
    let records: Vec<Record<'_>> = messages.iter().map(|(group, payload)| Record { group, at, kind: Kind::Replay, payload }).collect();
    if !records.is_empty() {
        queue.append(&records).await?;
        counter!(PACKETS, "source" => "replay", "result" => "appended").increment(replayed.packets as u64);
        log.mark_replayed(&offsets, at).await?;
    }
    Ok(replayed)
}

/// A message goes to its group; what was in none is routed anew, as if its packet came in now.
fn to_group(mut letter: DeadLetter, topics: &[TopicPattern], registry: &Registry) -> Option<(String, Replay)> {
    if letter.message_id.is_some() || registry.group(&letter.group).is_some_and(|group| group.webhook.is_some()) {
        return Some((std::mem::take(&mut letter.group), letter.into()));
    }
    let mut replay = Replay::from(letter);
    let topic = replay.packets.first()?.topic.clone();
    let Routed::Group(group, iccid) = route(&topic, topics, registry) else { return None };
    // Patterns that didn't match named no device, or another one.
    replay.packets.iter_mut().for_each(|packet| packet.iccid = iccid.to_string());
    Some((group.id.key().to_owned(), replay))
}

/// Replays page by page, and says how far it is.
pub(crate) async fn command(options: &Options) -> anyhow::Result<()> {
    if options.which.is_all() != options.all {
        bail!("say which: --all, or any of --group, --cause, --since, --until, --message-id");
    }
    let mut sum = Replayed::default();
    for log in LOGS {
        let mut place = Some(Place::default());
        while let Some(here) = place {
            let (page, next) = options.which.ask(Method::POST, &format!("{log}/replay"), here).await?;
            let page: Replayed = serde_json::from_str(&page).context("the process answered something else")?;
            sum.messages += page.messages;
            sum.packets += page.packets;
            sum.already += page.already;
            sum.unwanted += page.unwanted;
            if next.is_some() {
                eprintln!("{} messages so far", sum.messages);
            }
            place = next;
        }
    }
    let Replayed { messages, packets, already, unwanted } = sum;
    print(format_args!(
        "{messages} messages with {packets} packets are on their way again; {already} had been replayed before, {unwanted} are still wanted by nobody\n"
    ))
}

#[cfg(test)]
mod tests {
    use std::{sync::Mutex, time::Duration};

    use futures_util::{FutureExt, future::BoxFuture};
    use pushline_model::Cause;
    use pushline_queue::{Append, Appended, Filter, Partitions, Resolver, Stalled, memory::Memory};
    use tokio::{sync::watch, time::timeout};

    use super::*;

    /// A queue that takes packets in when it is told to.
    struct Slow {
        kept: Arc<Memory>,
        waiting: Mutex<Vec<Resolver>>,
    }

    impl Append for Slow {
        fn append(&self, _: &[Record<'_>]) -> Appended {
            let (resolver, appended) = Appended::pending();
            self.waiting.lock().unwrap().push(resolver);
            appended
        }
    }

    impl Queue for Slow {
        fn partitions(&self) -> watch::Receiver<Partitions> {
            self.kept.partitions()
        }

        fn dead_letters(&self) -> DeadLetters {
            self.kept.dead_letters()
        }

        fn unrouted(&self) -> DeadLetters {
            self.kept.unrouted()
        }

        fn stalled(&self) -> Option<Stalled> {
            None
        }

        fn failed(&self) -> BoxFuture<'static, QueueError> {
            self.kept.failed()
        }

        fn close(&self) -> BoxFuture<'static, ()> {
            self.kept.close()
        }
    }

    fn letter() -> DeadLetter {
        let message_id = Some("msg_AAAAAAAAAAAAAAAAAAAAAA".to_owned());
        DeadLetter { message_id, ..DeadLetter::unsent(Timestamp(1), "o/g".to_owned(), Cause::Expired, Vec::new()) }
    }

    #[tokio::test]
    async fn what_was_appended_is_marked_though_whoever_asked_went_away() {
        let queue = Arc::new(Slow { kept: Memory::new(), waiting: Mutex::default() });
        let log = queue.dead_letters();
        log.append(&letter()).await.unwrap();
        let routing = Routing { registry: Arc::default(), topics: Arc::default() };
        let replays = Replays::new(Arc::clone(&queue) as Arc<dyn Queue>, routing);

        let mut asked = Box::pin(replays.answer(log.clone(), ""));
        while queue.waiting.lock().unwrap().is_empty() {
            assert!((&mut asked).now_or_never().is_none(), "it waits for the queue");
            tokio::task::yield_now().await;
        }
        drop(asked);
        queue.waiting.lock().unwrap().drain(..).for_each(|resolver| resolver.resolve(Ok(())));

        let again = timeout(Duration::from_secs(30), replays.answer(log.clone(), "")).await.expect("nothing is appended once more");
        assert_eq!(again.status(), StatusCode::OK);
        assert!(log.list(&Filter::default(), 0, 10).await.unwrap().found[0].replayed);
    }
}
