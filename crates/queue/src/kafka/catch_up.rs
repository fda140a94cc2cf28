//! Reading at a place of its own: catch-up reads, checkpoints, dead letters. One consumer on one thread serves all of them, one block after the other. It
//! is assigned by hand, never subscribes and never commits, so it costs live reading nothing.
//!
//! A place that gives nothing (its partition has no leader) gets short slices while other requests wait, so it holds none of them up.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, Sender, unbounded};
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
    frames::{Frames, offset_of, to_kafka},
    health::Health,
};
use crate::{Frame, QueueError, Reader};

/// Bytes of a reader's first block; each is twice the one before. A reader that wants a few records doesn't fetch many.
const FIRST_BLOCK: usize = 256 << 10;

/// Bytes of the largest block. Records that were fetched ahead are lost when another partition gets its turn, so a block is a whole catch-up slice.
const LARGEST_BLOCK: usize = 8 << 20;

/// How long a block that has begun waits for more to arrive.
const MORE: Duration = Duration::from_millis(10);

/// After this time without a request, the consumer fetches nothing ahead any more.
const IDLE: Duration = Duration::from_millis(500);

/// How long Kafka may take for a block before the reader reports that it doesn't answer.
const ANSWER: Duration = Duration::from_secs(10);

/// How long a request that gets nothing keeps others waiting: the first time, and at most. It is twice as long each time, for a broker that is slow.
const SLICE: Duration = Duration::from_millis(100);
const LONGEST_SLICE: Duration = Duration::from_millis(800);

/// How long a reader waits before it asks again: at the end of a log, and while Kafka is away.
const AGAIN: Duration = Duration::from_millis(100);

/// A partition of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TopicPartition {
    pub(super) topic: Arc<str>,
    pub(super) partition: i32,
    pub(super) holds: Holds,
}

/// What a log holds. It decides what it means that the log begins above the place where it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holds {
    /// Packets. Records that are missing above the watermark are a loss, which the next start counts.
    Packets,
    /// Dead letters or checkpoints. Old ones are deleted; the rest is read.
    WhatIsLeft,
}

/// The way to ask the consumer's thread. The thread ends when the last of these is dropped.
#[derive(Debug, Clone)]
pub(super) struct CatchUp {
    requests: Sender<Request>,
}

/// A block to be read.
#[derive(Debug)]
struct Request {
    place: TopicPartition,
    from: Offset,
    bytes: usize,
    asked: Instant,
    /// How long it may get nothing while others wait.
    slice: Duration,
    answer: oneshot::Sender<Result<Vec<Frame>, QueueError>>,
}

/// What a request has come to.
enum Fetched {
    /// The records; none at the end of the log.
    Block(Vec<Frame>),
    /// Nothing came in its slice, and others wait.
    Nothing,
}

struct Fetcher {
    consumer: BaseConsumer<Quiet>,
    /// What is fetched at the moment, and the next offset that it gives.
    at: Option<(TopicPartition, Offset)>,
}

/// A reader of any partition.
pub(super) struct CatchUpReader {
    requests: Sender<Request>,
    place: TopicPartition,
    /// After what lies in `ahead`.
    position: Offset,
    /// Bytes of the next block, unless the caller wants fewer.
    block: usize,
    /// How many bytes the caller wants at most.
    at_most: usize,
    ahead: VecDeque<Frame>,
    /// A block that was asked for. A caller that stops waiting for it and comes back still gets it.
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

    pub(super) fn reader(&self, place: TopicPartition, from: Offset, health: &Arc<Health>) -> CatchUpReader {
        let requests = self.requests.clone();
        CatchUpReader {
            requests,
            place,
            position: from,
            block: FIRST_BLOCK,
            at_most: LARGEST_BLOCK,
            ahead: VecDeque::new(),
            asked: None,
            health: Arc::clone(health),
        }
    }
}

// === impl Fetcher ===

impl Fetcher {
    fn run(mut self, requests: &Receiver<Request>) {
        // Requests that weren't served yet, and those that got nothing so far: they are served in turns, so neither kind holds up the other.
        let (mut new, mut again) = (VecDeque::new(), VecDeque::new());
        let (mut last, mut is_turn_of_new) = (Instant::now(), true);
        loop {
            new.extend(requests.try_iter());
            is_turn_of_new = !is_turn_of_new || again.is_empty();
            let next = if is_turn_of_new { new.pop_front().or_else(|| again.pop_front()) } else { again.pop_front() };
            match next.map_or_else(|| requests.recv_timeout(AGAIN), Ok) {
                // The reader was dropped.
                Ok(request) if request.answer.is_closed() => {}
                Ok(request) => {
                    last = Instant::now();
                    let others_wait = || !new.is_empty() || !again.is_empty() || !requests.is_empty();
                    let unserved = self.serve(request, others_wait);
                    again.extend(unserved);
                }
                Err(error) if error.is_disconnected() => return,
                Err(_) if last.elapsed() > IDLE => self.rest(),
                Err(_) => {}
            }
        }
    }

    /// Answers a request, or gives it back to be served again after the others.
    fn serve(&mut self, mut request: Request, others_wait: impl Fn() -> bool) -> Option<Request> {
        let fetched = self.fetch(&request, others_wait);
        let block = match fetched {
            Ok(Fetched::Block(frames)) => Ok(frames),
            Ok(Fetched::Nothing) => {
                request.slice = LONGEST_SLICE.min(request.slice * 2);
                return Some(request);
            }
            Err(error) => {
                self.at = None;
                Err(error)
            }
        };
        drop(request.answer.send(block));
        None
    }

    /// Fetches nothing ahead, but is still polled.
    fn rest(&mut self) {
        if self.at.take().is_some()
            && let Err(error) = self.consumer.unassign()
        {
            tracing::debug!(%error, "the catch-up consumer can't be unassigned");
        }
        while self.consumer.poll(Duration::ZERO).is_some() {}
    }

    /// A block of records from an offset on.
    fn fetch(&mut self, request: &Request, others_wait: impl Fn() -> bool) -> Result<Fetched, QueueError> {
        let &Request { ref place, from, bytes, asked, slice, .. } = request;
        let mut is_fresh = self.at.as_ref().is_none_or(|(other, next)| other != place || *next != from);
        if is_fresh {
            self.assign(place, KafkaOffset::Offset(to_kafka(from)), from)?;
        }
        let (mut frames, end_of_slice) = (Frames::default(), Instant::now() + slice);
        let until = end_of_slice.max(asked + ANSWER);
        while frames.bytes() < bytes && Instant::now() < until {
            let wait = if frames.is_empty() { AGAIN } else { MORE };
            match self.consumer.poll(wait) {
                Some(Ok(message)) if message.topic() == &*place.topic && message.partition() == place.partition => {
                    if offset_of(&message) >= from {
                        match frames.push(&message) {
                            Ok(()) => self.at = Some((place.clone(), offset_of(&message) + 1)),
                            // What lies before it is read first.
                            Err(_) if !frames.is_empty() => {
                                self.at = None;
                                break;
                            }
                            Err(_) if place.holds == Holds::WhatIsLeft => {
                                return Err(QueueError::Unreadable { offset: offset_of(&message) });
                            }
                            Err(error) => return Err(error),
                        }
                    }
                }
                // librdkafka reports the end once for an offset: it reports it again once the place is assigned again.
                Some(Err(KafkaError::PartitionEOF(_))) if is_fresh || !frames.is_empty() => {
                    self.at = None;
                    return Ok(Fetched::Block(frames.take()));
                }
                // It was reported before this request was made, and records may have come since.
                Some(Err(KafkaError::PartitionEOF(_))) => {
                    self.assign(place, KafkaOffset::Offset(to_kafka(from)), from)?;
                    is_fresh = true;
                }
                Some(Err(error)) if clients::is_out_of_range(&error) => match place.holds {
                    Holds::Packets => return Err(QueueError::cut()),
                    Holds::WhatIsLeft => self.assign(place, KafkaOffset::Beginning, from)?,
                },
                Some(Err(error)) => return Err(QueueError::kafka("read", &error)),
                None if !frames.is_empty() => break,
                Some(Ok(_)) | None if frames.is_empty() && Instant::now() >= end_of_slice && others_wait() => return Ok(Fetched::Nothing),
                Some(Ok(_)) | None => {}
            }
        }
        if frames.is_empty() {
            let what = format!("{}, partition {}: Kafka sent nothing within {ANSWER:?}", place.topic, place.partition);
            return Err(QueueError::Unavailable { doing: "read".into(), what });
        }
        Ok(Fetched::Block(frames.take()))
    }

    /// Lets the consumer read from an offset on. `from` is the first offset that is wanted.
    fn assign(&mut self, place: &TopicPartition, offset: KafkaOffset, from: Offset) -> Result<(), QueueError> {
        let mut list = TopicPartitionList::new();
        let assigned = list.add_partition_offset(&place.topic, place.partition, offset).and_then(|()| self.consumer.assign(&list));
        assigned.map_err(|error| QueueError::kafka("assign", &error))?;
        self.at = Some((place.clone(), from));
        Ok(())
    }
}

// === impl CatchUpReader ===

impl CatchUpReader {
    /// Moves on by a block of records, which is empty at the end of the log. Asks until Kafka answers.
    pub(super) async fn read_on(&mut self) -> Result<Vec<Frame>, QueueError> {
        // The health is its own, while `self` is used.
        let health = Arc::clone(&self.health);
        let mut wait = health.wait();
        loop {
            let block = match &mut self.asked {
                Some(asked) => asked.await.unwrap_or(Err(QueueError::Closed)),
                None => {
                    let (answer, block) = oneshot::channel();
                    let (place, from, asked) = (self.place.clone(), self.position, Instant::now());
                    let bytes = self.block.min(self.at_most.max(FIRST_BLOCK));
                    let request = Request { place, from, bytes, asked, slice: SLICE, answer };
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

    fn limit_ahead(&mut self, bytes: usize) {
        self.at_most = bytes;
    }
}
