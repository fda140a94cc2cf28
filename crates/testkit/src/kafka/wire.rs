//! The few requests of Kafka's protocol that starting and steering a broker takes, by hand: the product's client must not be what its own tests
//! lean on. Each in a version before the flexible ones, which every Kafka 4 speaks (Kafka protocol guide, "The Messages").

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// A broker on a busy machine answers within this, if at all. A change isn't asked for twice: the second answer would be another one.
const ANSWER: Duration = Duration::from_secs(60);

/// What is asked again and again anyway.
const ASKED_AGAIN: Duration = Duration::from_secs(5);
const METADATA: (i16, i16) = (3, 1);
const CREATE_TOPICS: (i16, i16) = (19, 2);
const CREATE_ACLS: (i16, i16) = (30, 1);
const DELETE_ACLS: (i16, i16) = (31, 1);
const DELETE_TOPICS: (i16, i16) = (20, 1);
const DELETE_RECORDS: (i16, i16) = (21, 0);
const INCREMENTAL_ALTER_CONFIGS: (i16, i16) = (44, 0);
const OFFSET_FETCH: (i16, i16) = (9, 1);

/// What a broker knows of its cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KafkaMetadata {
    /// Ids of the brokers that are up.
    pub brokers: Vec<i32>,
    /// Every partition of every topic.
    pub partitions: Vec<KafkaPartition>,
}

/// A partition as a broker knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KafkaPartition {
    /// Its topic's name.
    pub topic: String,
    /// Its number.
    pub partition: i32,
    /// The broker that leads it, -1 for none.
    pub leader: i32,
    /// The brokers that keep it.
    pub replicas: Vec<i32>,
    /// Those of them that have everything.
    pub in_sync: Vec<i32>,
}

/// A topic that a user may do nothing with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Revoked<'a> {
    pub(crate) topic: &'a str,
    pub(crate) user: &'a str,
}

impl KafkaMetadata {
    /// How many partitions of a topic have a leader.
    pub(crate) fn led(&self, topic: &str) -> usize {
        self.partitions.iter().filter(|one| one.topic == topic && one.leader >= 0).count()
    }
}

/// Asks for the cluster's brokers and all topics.
pub(crate) async fn metadata(broker: SocketAddr) -> io::Result<KafkaMetadata> {
    let all_topics = Request::default().i32(-1);
    let answer = timeout(ASKED_AGAIN, ask(broker, METADATA, all_topics)).await;
    let mut answer = answer.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
    let brokers = answer.array(|answer| {
        let id = answer.i32()?;
        answer.string()?;
        answer.i32()?;
        answer.string()?;
        Some(id)
    });
    let controller = answer.i32();
    let topics = answer.array(|answer| {
        answer.i16()?;
        let topic = answer.string()?;
        answer.take(1)?;
        answer.array(|answer| {
            answer.i16()?;
            let (partition, leader) = (answer.i32()?, answer.i32()?);
            Some(KafkaPartition {
                topic: topic.clone(),
                partition,
                leader,
                replicas: answer.array(Answer::i32)?,
                in_sync: answer.array(Answer::i32)?,
            })
        })
    });
    let whole = brokers.zip(controller).zip(topics);
    let ((brokers, _), topics) = whole.ok_or(io::ErrorKind::InvalidData)?;
    Ok(KafkaMetadata { brokers, partitions: topics.into_iter().flatten().collect() })
}

/// Creates a topic and says how it went: 0, or Kafka's error code.
pub(crate) async fn create_topic(broker: SocketAddr, topic: &str, partitions: i32, replication: i16) -> io::Result<i16> {
    let no_assignments_and_no_settings = Request::default().i32(1).string(topic).i32(partitions).i16(replication).i32(0).i32(0);
    let mut answer = ask(broker, CREATE_TOPICS, no_assignments_and_no_settings.i32(10_000).i8(0)).await?;
    let throttle = answer.i32();
    let codes = answer.array(|answer| {
        answer.string()?;
        let code = answer.i16()?;
        answer.string().map(|_message| code)
    });
    throttle.and(codes.and_then(|codes| codes.first().copied())).ok_or(io::ErrorKind::InvalidData.into())
}

/// Deletes a topic: 0, or Kafka's error code.
pub(crate) async fn delete_topic(broker: SocketAddr, topic: &str) -> io::Result<i16> {
    let mut answer = ask(broker, DELETE_TOPICS, Request::default().i32(1).string(topic).i32(10_000)).await?;
    let throttle = answer.i32();
    let codes = answer.array(|answer| {
        answer.string()?;
        answer.i16()
    });
    throttle.and(codes.and_then(|codes| codes.first().copied())).ok_or(io::ErrorKind::InvalidData.into())
}

/// Changes one setting of a topic: 0, or Kafka's error code.
pub(crate) async fn set(broker: SocketAddr, topic: &str, name: &str, value: &str) -> io::Result<i16> {
    let (of_a_topic, set) = (2, 0);
    let setting = Request::default().i32(1).i8(of_a_topic).string(topic).i32(1).string(name).i8(set).string(value);
    let mut answer = ask(broker, INCREMENTAL_ALTER_CONFIGS, setting.i8(0)).await?;
    let throttle_and_count = answer.take(8).map(<[u8]>::len);
    throttle_and_count.and_then(|_| answer.i16()).ok_or(io::ErrorKind::InvalidData.into())
}

/// Deletes a partition's records below an offset: 0, or Kafka's error code.
pub(crate) async fn delete_records(broker: SocketAddr, topic: &str, partition: i32, below: i64) -> io::Result<i16> {
    let request = Request::default().i32(1).string(topic).i32(1).i32(partition).i64(below).i32(10_000);
    let mut answer = ask(broker, DELETE_RECORDS, request).await?;
    let throttle = answer.i32();
    let codes = answer.array(|answer| {
        answer.string()?;
        let partitions = answer.array(|answer| {
            answer.take(12)?;
            answer.i16()
        })?;
        partitions.first().copied()
    });
    throttle.and(codes.and_then(|codes| codes.first().copied())).ok_or(io::ErrorKind::InvalidData.into())
}

/// The offset that a group has committed; -1 for none.
pub(crate) async fn committed(broker: SocketAddr, group: &str, topic: &str, partition: i32) -> io::Result<i64> {
    let request = Request::default().string(group).i32(1).string(topic).i32(1).i32(partition);
    let mut answer = ask(broker, OFFSET_FETCH, request).await?;
    let offsets = answer.array(|answer| {
        answer.string()?;
        let partitions = answer.array(|answer| {
            answer.i32()?;
            let offset = answer.i64()?;
            answer.string()?;
            answer.i16().map(|code| (offset, code))
        })?;
        partitions.first().copied()
    });
    let first = offsets.and_then(|offsets| offsets.first().copied());
    first.and_then(|(offset, code)| (code == 0).then_some(offset)).ok_or(io::ErrorKind::InvalidData.into())
}

impl Revoked<'_> {
    /// TOPIC, the name, LITERAL, the principal, any host, ALL, DENY (KIP-290).
    fn request(self) -> Request {
        let principal = format!("User:{}", self.user);
        Request::default().i32(1).i8(2).string(self.topic).i8(3).string(&principal).string("*").i8(2).i8(2)
    }

    /// From now on: 0, or Kafka's error code.
    pub(crate) async fn begin(self, broker: SocketAddr) -> io::Result<i16> {
        Self::code(ask(broker, CREATE_ACLS, self.request()).await?)
    }

    /// No longer: 0, or Kafka's error code.
    pub(crate) async fn end(self, broker: SocketAddr) -> io::Result<i16> {
        Self::code(ask(broker, DELETE_ACLS, self.request()).await?)
    }

    /// Throttle time, the number of results, the first one's code.
    fn code(mut answer: Answer) -> io::Result<i16> {
        let head = answer.take(8).map(<[u8]>::len);
        head.and_then(|_| answer.i16()).ok_or(io::ErrorKind::InvalidData.into())
    }
}

/// One request on a connection of its own.
async fn ask(broker: SocketAddr, (key, version): (i16, i16), body: Request) -> io::Result<Answer> {
    let exchange = async {
        let head = Request::default().i16(key).i16(version).i32(0).string("testkit");
        let length = i32::try_from(head.0.len() + body.0.len()).map_err(io::Error::other)?;
        let mut connection = TcpStream::connect(broker).await?;
        connection.write_all(&[&length.to_be_bytes(), &head.0[..], &body.0].concat()).await?;
        let mut answer = vec![0; connection.read_u32().await? as usize];
        connection.read_exact(&mut answer).await?;
        let correlation = 4;
        Ok(Answer { bytes: answer, at: correlation })
    };
    timeout(ANSWER, exchange).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

#[derive(Debug, Default)]
struct Request(Vec<u8>);

impl Request {
    fn i8(self, value: i8) -> Self {
        self.bytes(&value.to_be_bytes())
    }

    fn i16(self, value: i16) -> Self {
        self.bytes(&value.to_be_bytes())
    }

    fn i32(self, value: i32) -> Self {
        self.bytes(&value.to_be_bytes())
    }

    fn i64(self, value: i64) -> Self {
        self.bytes(&value.to_be_bytes())
    }

    fn string(self, value: &str) -> Self {
        self.i16(i16::try_from(value.len()).expect("a name is short")).bytes(value.as_bytes())
    }

    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }
}

#[derive(Debug)]
struct Answer {
    bytes: Vec<u8>,
    at: usize,
}

impl Answer {
    fn take(&mut self, count: usize) -> Option<&[u8]> {
        let taken = self.bytes.get(self.at..self.at + count)?;
        self.at += count;
        Some(taken)
    }

    fn i16(&mut self) -> Option<i16> {
        self.take(2)?.try_into().ok().map(i16::from_be_bytes)
    }

    fn i32(&mut self) -> Option<i32> {
        self.take(4)?.try_into().ok().map(i32::from_be_bytes)
    }

    fn i64(&mut self) -> Option<i64> {
        self.take(8)?.try_into().ok().map(i64::from_be_bytes)
    }

    /// Empty for none.
    fn string(&mut self) -> Option<String> {
        let length = usize::try_from(self.i16()?).unwrap_or(0);
        self.take(length).map(|bytes| String::from_utf8_lossy(bytes).into_owned())
    }

    fn array<T>(&mut self, mut one: impl FnMut(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let count = self.i32()?;
        (0..count).map(|_| one(self)).collect()
    }
}
