//! Reading at a place of its own: sweeps, checkpoint, dead letters. One consumer on one thread serves all of it, one block after the other; it is
//! assigned by hand, never subscribes and never commits, so that it costs live reading nothing.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use futures_util::{FutureExt, future::BoxFuture};
use pushline_model::Offset;
use rdkafka::{
    Message, Offset as KafkaOffset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::KafkaError,
};
use tokio::{sync::oneshot, time::sleep};

use super::{
    Options,
    clients::{self, Quiet},
    frames::{Frames, offset_of},
    health::Health,
};
use crate::{Frame, QueueError, Reader};

/// Bytes of a reader's first block; each is twice the one before. Whoever wants a few records doesn't fetch many.
const FIRST_BLOCK: usize = 256 << 10;

/// Bytes of the largest block. What was fetched ahead is lost when another partition has its turn, so it is a whole turn of a sweep.
const LARGEST_BLOCK: usize = 8 << 20;

/// How long a block that has begun waits for more to arrive.
const MORE: Duration = Duration::from_millis(10);

/// After so long without a request, nothing is fetched ahead any more.
const IDLE: Duration = Duration::from_millis(500);

/// How long a block may take before the reader is told that Kafka is away.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a reader waits before it asks again: at the end of a log, and while Kafka is away.
const AGAIN: Duration = Duration::from_millis(100);

/// A partition of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) topic: Arc<str>,
    pub(super) partition: i32,
    pub(super) holds: Holds,
}

/// What a log holds, and so what it means that it begins above where it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holds {
    /// Nobody may cut them below the watermark: the start finds out what was lost (LANES.md L10).
    Packets,
    /// Dead letters and checkpoint go when they are old: what is left is read.
    WhatIsLeft,
}

/// The way to ask the consumer's thread, which ends when nobody can ask it any more.
#[derive(Debug, Clone)]
pub(super) struct CatchUp {
    requests: Sender<Request>,
}

/// A block to be read.
#[derive(Debug)]
struct Request {
    place: Place,
    from: Offset,
    bytes: usize,
    answer: oneshot::Sender<Result<Vec<Frame>, QueueError>>,
}

struct Fetcher {
    consumer: BaseConsumer<Quiet>,
    /// What is fetched at the moment, and the next offset that it gives.
    at: Option<(Place, Offset)>,
}

/// A reader of any partition.
pub(super) struct CatchUpReader {
    requests: Sender<Request>,
    place: Place,
    /// After what lies in `ahead`.
    position: Offset,
    /// Bytes of the next block.
    block: usize,
    ahead: VecDeque<Frame>,
    /// A block that was asked for: whoever stops waiting for it and comes back still gets it.
    asked: Option<oneshot::Receiver<Result<Vec<Frame>, QueueError>>>,
    health: Arc<Health>,
}

// === impl CatchUp ===

impl CatchUp {
    pub(super) fn start(options: &Options) -> Result<Self, QueueError> {
        let consumer =
            clients::catch_up(options).create_with_context(Quiet).map_err(|error| QueueError::kafka("set up a consumer", &error))?;
        // Each reader has asked for one block at most.
        let (requests, asked) = unbounded();
        let run = move || Fetcher { consumer, at: None }.run(&asked);
        std::thread::Builder::new().name("kafka-catch-up".into()).spawn(run).map_err(|error| QueueError::thread(&error))?;
        Ok(Self { requests })
    }

    pub(super) fn reader(&self, place: Place, from: Offset, health: &Arc<Health>) -> CatchUpReader {
        let requests = self.requests.clone();
        CatchUpReader {
            requests,
            place,
            position: from,
            block: FIRST_BLOCK,
            ahead: VecDeque::new(),
            asked: None,
            health: Arc::clone(health),
        }
    }
}

// === impl Fetcher ===

impl Fetcher {
    fn run(mut self, requests: &Receiver<Request>) {
        let mut asked = Instant::now();
        loop {
            match requests.recv_timeout(AGAIN) {
                Ok(request) => {
                    asked = Instant::now();
                    let block = self.fetch(&request);
                    if block.is_err() {
                        self.at = None;
                    }
                    // A reader that is gone wants nothing.
                    drop(request.answer.send(block));
                }
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) if asked.elapsed() > IDLE => self.rest(),
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    /// Fetches nothing ahead, but is still polled.
    fn rest(&mut self) {
        if self.at.take().is_some()
            && let Err(error) = self.consumer.unassign()
        {
            tracing::debug!(%error, "can't be unassigned");
        }
        while self.consumer.poll(Duration::ZERO).is_some() {}
    }

    /// A block of records from an offset on; none at the end of the log.
    fn fetch(&mut self, request: &Request) -> Result<Vec<Frame>, QueueError> {
        let &Request { ref place, from, bytes, .. } = request;
        if self.at.as_ref().is_none_or(|(other, next)| other != place || *next != from) {
            self.assign(place, KafkaOffset::Offset(i64::try_from(from).unwrap_or(i64::MAX)), from)?;
        }
        let (mut frames, until) = (Frames::default(), Instant::now() + PATIENCE);
        while frames.bytes() < bytes && Instant::now() < until {
            let wait = if frames.is_empty() { AGAIN } else { MORE };
            match self.consumer.poll(wait) {
                Some(Ok(message)) if message.topic() == &*place.topic && message.partition() == place.partition => {
                    if offset_of(&message) >= from {
                        frames.push(&message);
                        self.at = Some((place.clone(), offset_of(&message) + 1));
                    }
                }
                Some(Err(KafkaError::PartitionEOF(_))) => {
                    // The end is told once for an offset: to be told again, it is assigned again.
                    self.at = self.at.take().filter(|_| !frames.is_empty());
                    return Ok(frames.take());
                }
                Some(Err(error)) if clients::is_out_of_range(&error) => match place.holds {
                    Holds::Packets => return Err(QueueError::cut()),
                    Holds::WhatIsLeft => self.assign(place, KafkaOffset::Beginning, from)?,
                },
                Some(Err(error)) => return Err(QueueError::kafka("read", &error)),
                None if !frames.is_empty() => break,
                Some(Ok(_)) | None => {}
            }
        }
        if frames.is_empty() {
            return Err(QueueError::Unavailable { doing: "read".into(), what: format!("nothing came within {PATIENCE:?}") });
        }
        Ok(frames.take())
    }

    /// To read from there on. `from` is the first offset that is wanted.
    fn assign(&mut self, place: &Place, offset: KafkaOffset, from: Offset) -> Result<(), QueueError> {
        let mut list = TopicPartitionList::new();
        let assigned = list.add_partition_offset(&place.topic, place.partition, offset).and_then(|()| self.consumer.assign(&list));
        assigned.map_err(|error| QueueError::kafka("assign", &error))?;
        self.at = Some((place.clone(), from));
        Ok(())
    }
}

// === impl CatchUpReader ===

impl CatchUpReader {
    /// Moves on by a block of records. None: the log ends here. Asks until Kafka answers.
    pub(super) async fn read_on(&mut self) -> Result<Vec<Frame>, QueueError> {
        // The health is its own, while `self` is used.
        let health = Arc::clone(&self.health);
        let mut wait = health.wait();
        loop {
            let block = match &mut self.asked {
                Some(asked) => asked.await.unwrap_or(Err(QueueError::Closed)),
                None => {
                    let (answer, block) = oneshot::channel();
                    let request = Request { place: self.place.clone(), from: self.position, bytes: self.block, answer };
                    self.requests.send(request).map_err(|_| QueueError::Closed)?;
                    self.asked = Some(block);
                    continue;
                }
            };
            self.asked = None;
            match block {
                Ok(frames) => {
                    self.position = frames.last().map_or(self.position, Frame::end);
                    self.block = LARGEST_BLOCK.min(self.block * 2);
                    return Ok(frames);
                }
                Err(error) if error.is_passing() => {
                    wait.because(&error.to_string());
                    sleep(AGAIN * 10).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn next_frame(&mut self) -> Result<Frame, QueueError> {
        loop {
            if let Some(frame) = self.ahead.pop_front() {
                return Ok(frame);
            }
            self.ahead = self.read_on().await?.into();
            if self.ahead.is_empty() {
                sleep(AGAIN).await;
            }
        }
    }
}

impl Reader for CatchUpReader {
    fn next(&mut self) -> BoxFuture<'_, Result<Frame, QueueError>> {
        self.next_frame().boxed()
    }
}
