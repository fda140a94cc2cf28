//! `POST /dead-letters/replay` and `POST /unrouted/replay` (docs/delivery.md, Replay): those that a filter selects, or `all=true`. Dead letters go through
//! the log once more, behind what came before them, with the same ids and to the current webhook. Each is marked when its replay is durable, so replaying twice has no effect.

use std::{sync::Arc, time::SystemTime};

use arc_swap::ArcSwap;
use axum::{http::StatusCode, response::Response};
use metrics::counter;
use pushline_deliver::DeadLetterLog;
use pushline_ingest::metrics::PACKETS;
use pushline_model::{DeadLetter, Group, Registry, Routed, Timestamp, TopicPattern, route};
use pushline_queue::{AppendError, DeadLetters, Found, Kind, Queue, QueueError, Record};
use tokio::sync::Mutex;

use super::{
    dead_letters::{Query, page_of, read_query},
    response::text,
};
use crate::replay::Replayed;

/// How packets are routed now: as ingest routes them, as far as a reload can change it.
#[derive(Clone)]
pub(crate) struct Routing {
    pub(crate) registry: Arc<ArcSwap<Registry>>,
    pub(crate) topics: Arc<ArcSwap<Vec<TopicPattern>>>,
}

/// The replays of a process. They run one at a time: two that found the same dead letter would both send it.
#[derive(Clone)]
pub(crate) struct Replays {
    queue: Arc<dyn Queue>,
    routing: Routing,
    alone: Arc<Mutex<()>>,
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

    /// Replays the page that a query selects. A client that goes away changes nothing: what was appended is marked all the same.
    pub(crate) async fn replay(&self, log: DeadLetterLog, query: &str) -> Response {
        let alone = Arc::clone(&self.alone).lock_owned().await;
        let (this, query) = (self.clone(), query.to_owned());
        let page = tokio::spawn(async move {
            let _alone = alone;
            replay_page(&*this.queue, log, &this.routing, &query).await
        });
        page.await.unwrap_or_else(|error| text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")))
    }
}

async fn replay_page(queue: &dyn Queue, log: DeadLetterLog, routing: &Routing, query: &str) -> Response {
    let Query { filter, from, limit, .. } = match read_query(query) {
        Ok(read) if read.all || read.has_filter() => read,
        Ok(_) => {
            let remedy = "select dead letters by group, cause, since, until or message_id, or all of them by all=true\n";
            return text(StatusCode::BAD_REQUEST, remedy);
        }
        Err(problem) => return text(StatusCode::BAD_REQUEST, format!("{problem}\n")),
    };
    let page = async {
        let mut page = dead_letters(queue, log).list(&filter, from, limit).await?;
        let replayed = replay(queue, log, routing, std::mem::take(&mut page.found)).await?;
        Ok::<_, ReplayError>((replayed, page))
    };
    match page.await.map(|(replayed, page)| (serde_json::to_string(&replayed), page)) {
        Ok((Ok(body), page)) => page_of(body, &page),
        Ok((Err(error), _)) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{:#}\n", anyhow::Error::from(error))),
    }
}

fn dead_letters(queue: &dyn Queue, log: DeadLetterLog) -> DeadLetters {
    match log {
        DeadLetterLog::Groups => queue.dead_letters(),
        DeadLetterLog::Unrouted => queue.unrouted(),
    }
}

/// Appends replays of dead letters. Marks the dead letters when the replays are durable.
async fn replay(queue: &dyn Queue, log: DeadLetterLog, routing: &Routing, found: Vec<Found>) -> Result<Replayed, ReplayError> {
    let at = Timestamp::of(SystemTime::now());
    let mut replayed = Replayed::default();
    let (mut offsets, mut messages) = (Vec::new(), Vec::new());
    let (registry, topics) = (routing.registry.load_full(), routing.topics.load_full());
    let mut without_id = 0;
    for Found { offset, mut dead_letter, replayed: already } in found {
        if already {
            replayed.already += 1;
            continue;
        }
        let Some(target) = Target::of(&mut dead_letter, &topics, &registry) else {
            replayed.unrouted += 1;
            continue;
        };
        replayed.messages += 1;
        replayed.packets += dead_letter.packets.len();
        without_id += u64::from(dead_letter.message_id.is_none() && dead_letter.record.is_some());
        offsets.push(offset);
        let replay = pushline_deliver::replay(dead_letter, log, offset, target.always_array);
        messages.push((target.group, replay.encode()));
    }
    let records: Vec<Record<'_>> = messages.iter().map(|(group, payload)| Record { group, at, kind: Kind::Replay, payload }).collect();
    if !records.is_empty() {
        queue.append(&records).await?;
        pushline_deliver::count_replays_without_id(without_id);
        counter!(PACKETS, "source" => "replay", "result" => "appended").increment(replayed.packets as u64);
        dead_letters(queue, log).mark_replayed(&offsets, at).await?;
    }
    Ok(replayed)
}

/// Where a replay goes.
struct Target {
    /// The group's key.
    group: String,
    /// Whether its webhook takes nothing but arrays.
    always_array: bool,
}

impl Target {
    /// A message goes to its group. A packet that had none is routed anew, as if it arrived now.
    fn of(dead_letter: &mut DeadLetter, topics: &[TopicPattern], registry: &Registry) -> Option<Self> {
        let always_array = |group: &Group| group.webhook.as_ref().is_some_and(|webhook| webhook.always_array);
        let own = registry.group(&dead_letter.group);
        if dead_letter.message_id.is_some() || own.is_some_and(|group| group.webhook.is_some()) {
            return Some(Self { group: dead_letter.group.clone(), always_array: own.is_some_and(always_array) });
        }
        let topic = dead_letter.packets.first()?.topic.clone();
        let Routed::Group(group, iccid) = route(&topic, topics, registry) else { return None };
        // The patterns of that time named no device, or another one.
        dead_letter.packets.iter_mut().for_each(|packet| packet.iccid = iccid.to_string());
        Some(Self { group: group.id.key().to_owned(), always_array: always_array(group) })
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Mutex, time::Duration};

    use futures_util::{FutureExt, future::BoxFuture};
    use pushline_model::Cause;
    use pushline_queue::{Append, Appended, Filter, Partitions, Resolver, Sessions, Stalled, memory::Memory};
    use tokio::{sync::watch, time::timeout};

    use super::*;

    /// A queue that makes packets durable when it is told to.
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

        fn sessions(&self) -> Arc<dyn Sessions> {
            self.kept.sessions()
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

    fn dead_letter() -> DeadLetter {
        let message_id = Some("msg_AAAAAAAAAAAAAAAAAAAAAA".to_owned());
        DeadLetter { message_id, ..DeadLetter::unsent(Timestamp(1), "o/g".to_owned(), Cause::Expired, Vec::new()) }
    }

    #[tokio::test]
    async fn what_was_appended_is_marked_though_the_client_went_away() {
        let queue = Arc::new(Slow { kept: Memory::new(), waiting: Mutex::default() });
        let log = queue.dead_letters();
        log.append(&dead_letter()).await.unwrap();
        let routing = Routing { registry: Arc::default(), topics: Arc::default() };
        let replays = Replays::new(Arc::clone(&queue) as Arc<dyn Queue>, routing);

        let mut first = Box::pin(replays.replay(DeadLetterLog::Groups, "all=true"));
        while queue.waiting.lock().unwrap().is_empty() {
            assert!((&mut first).now_or_never().is_none(), "the replay waits for the queue");
            tokio::task::yield_now().await;
        }
        drop(first);
        queue.waiting.lock().unwrap().drain(..).for_each(|resolver| resolver.resolve(Ok(())));

        let again = timeout(Duration::from_secs(30), replays.replay(DeadLetterLog::Groups, "all=true"))
            .await
            .expect("nothing is appended a second time");
        assert_eq!(again.status(), StatusCode::OK);
        assert!(log.list(&Filter::default(), 0, 10).await.unwrap().found[0].replayed);
    }
}
