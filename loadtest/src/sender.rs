//! The sender alone: `deliver` fed from memory, beside a bare hyper client that posts equal bodies to the same receiver by the same protocol. Both
//! run in this process, one after the other.

use std::{
    sync::Arc,
    time::{Instant, SystemTime},
};

use anyhow::Result;
use pushline_deliver::{Deliver, Egress, Options};
use pushline_model::{HttpVersion, Packet, Registry, RegistryBuilder, Timestamp, Webhook};
use pushline_queue::{Append, Queue, Record, memory::Memory};

use crate::{
    bare_post,
    counter::Counter,
    median,
    process::Usage,
    protocol::{Protocol, Version},
};

/// Rounds of each; the median counts.
const ROUNDS: usize = 3;

const GROUPS: usize = 1000;

/// Records of one append.
const BATCH: usize = 1000;

/// Requests at once, and the messages of a round.
const LOADS: [(usize, u64); 3] = [(1, 10_000), (16, 60_000), (256, 60_000)];

/// One of the two sides in a round.
#[derive(Debug, Clone, Copy)]
struct Measured {
    /// Messages a second, until the last one was accepted.
    rate: f64,
    /// CPU microseconds a message, of this process.
    cpu: f64,
}

/// Measures and prints a table. Messages have this many packets.
pub(crate) async fn sender(max_packets: usize) -> Result<()> {
    println!("messages of {max_packets} packets of 200 bytes, medians of {ROUNDS} rounds; CPU in microseconds a message\n");
    println!("| protocol      | at once | Pushline/s | bare hyper/s | ratio | CPU of Pushline | CPU of bare hyper |");
    println!("|---------------|--------:|-----------:|-------------:|------:|----------------:|------------------:|");
    for protocol in Protocol::ALL {
        for (concurrency, messages) in LOADS {
            let (mut ours, mut theirs) = (vec![], vec![]);
            for _ in 0..ROUNDS {
                ours.push(from_memory(protocol, messages, max_packets, concurrency).await?);
                theirs.push(bare(protocol, messages, max_packets, concurrency).await?);
            }
            let (ours, theirs) = (Measured::median(&ours), Measured::median(&theirs));
            println!(
                "| {protocol:13} | {concurrency:7} | {:10.0} | {:12.0} | {:5.2} | {:15.1} | {:17.1} |",
                ours.rate,
                theirs.rate,
                ours.rate / theirs.rate,
                ours.cpu,
                theirs.cpu
            );
        }
    }
    Ok(())
}

impl Measured {
    fn median(all: &[Self]) -> Self {
        Self { rate: median(all.iter().map(|one| one.rate).collect()), cpu: median(all.iter().map(|one| one.cpu).collect()) }
    }
}

fn own_usage() -> Result<Usage> {
    Usage::of(std::process::id())
}

async fn from_memory(protocol: Protocol, messages: u64, max_packets: usize, concurrency: usize) -> Result<Measured> {
    let receiver = Counter::speaking(protocol).await?;
    let packets = messages * max_packets as u64;
    let queue: Arc<dyn Queue> = Memory::new();
    append(queue.as_ref(), usize::try_from(packets)?).await?;
    let options = Options::new(Egress::new(vec!["127.0.0.0/8".parse()?]));
    let registry = Arc::new(registry(webhook(&receiver, max_packets, concurrency)?)?);
    let (before, began) = (own_usage()?, Instant::now());
    let deliver = Deliver::start(options, &queue, registry).await?;
    receiver.until(packets).await?;
    let (took, usage) = (began.elapsed(), own_usage()?.since(&before));
    deliver.shutdown().await?;
    Ok(Measured { rate: messages as f64 / took.as_secs_f64(), cpu: usage.cpu_of(messages) })
}

async fn bare(protocol: Protocol, messages: u64, max_packets: usize, concurrency: usize) -> Result<Measured> {
    let receiver = Counter::speaking(protocol).await?;
    let before = own_usage()?;
    let rate = bare_post::post(&receiver, messages, max_packets, concurrency).await?;
    Ok(Measured { rate, cpu: own_usage()?.since(&before).cpu_of(messages) })
}

/// Packets of 200 bytes of all groups in turn, at one time: no window ends between them.
async fn append(queue: &dyn Append, packets: usize) -> Result<()> {
    let groups: Vec<String> = (0..GROUPS).map(|number| format!("o{number}/g")).collect();
    let (iccid, payload) = ("897612653856700000".parse()?, [b'p'; 200]);
    let packet = Packet { iccid, topic: "o/897612653856700000", received_at: Timestamp::of(SystemTime::now()), payload: &payload };
    let records: Vec<Record<'_>> = groups.iter().map(|group| Record::packet(group, &packet)).collect();
    for batch in records.chunks(BATCH).cycle().take(packets.div_ceil(BATCH)) {
        queue.append(batch).await?;
    }
    Ok(())
}

fn webhook(receiver: &Counter, max_packets: usize, concurrency: usize) -> Result<Webhook> {
    let url = format!("{}://{}/push", receiver.protocol.scheme(), receiver.address);
    let mut webhook = Webhook::new("w", url.parse()?);
    (webhook.max_packets, webhook.concurrency) = (max_packets, concurrency);
    webhook.http_version = match receiver.protocol.version {
        Version::Http1 => HttpVersion::Http1,
        Version::Http2 => HttpVersion::Http2,
    };
    webhook.tls.ca_file = receiver.tls_folder().map(crate::tls::certificate_file);
    Ok(webhook)
}

fn registry(webhook: Webhook) -> Result<Registry> {
    let mut builder = RegistryBuilder::default();
    builder.webhook(webhook)?;
    for number in 0..GROUPS {
        builder.group(format!("o{number}/g").parse()?, Some("w"), true)?;
    }
    Ok(builder.build())
}
