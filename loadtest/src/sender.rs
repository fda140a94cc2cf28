//! The sender alone: `deliver` fed from memory, beside a bare hyper client that posts equal bodies to the same receiver. Both run in this process,
//! with sixteen connections each.

use std::{
    sync::Arc,
    time::{Instant, SystemTime},
};

use anyhow::Result;
use pushline_deliver::{Deliver, Egress, Options};
use pushline_model::{Packet, Registry, RegistryBuilder, Timestamp, Webhook};
use pushline_queue::{Append, Queue, Record, memory::Memory};

use crate::{bare, counter::Counter, median, process::Usage};

/// Rounds of each; the median counts.
const ROUNDS: usize = 5;

const GROUPS: usize = 1000;

/// Records of one append.
const BATCH: usize = 1000;

/// Measures and prints.
pub(crate) async fn sender() -> Result<()> {
    for (packets, max_packets) in [(1_000_000, 10), (300_000, 1)] {
        let (mut ours, mut theirs) = (vec![], vec![]);
        let messages = (packets / max_packets) as u64;
        for round in 1..=ROUNDS {
            let (rate, usage) = from_memory(packets, max_packets).await?;
            let before = own_usage()?;
            let bare = bare::post(packets as u64, max_packets as u64).await?;
            println!(
                "round {round}: {rate:7.0} messages of {max_packets:2}/s, {:4.1} CPU us each; bare hyper loop {bare:7.0}, {:4.1} CPU us each",
                usage.cpu_of(messages),
                own_usage()?.since(&before).cpu_of(messages)
            );
            ours.push(rate);
            theirs.push(bare);
        }
        let (ours, theirs) = (median(ours), median(theirs));
        println!("medians: {ours:9.0} messages of {max_packets:2}/s, {:.2} times the bare hyper loop's\n", ours / theirs);
    }
    Ok(())
}

fn own_usage() -> Result<Usage> {
    Usage::of(std::process::id())
}

/// Messages a second from the start until the last one was accepted, and what that took.
async fn from_memory(packets: usize, max_packets: usize) -> Result<(f64, Usage)> {
    let receiver = Counter::start().await?;
    let queue: Arc<dyn Queue> = Memory::new();
    append(queue.as_ref(), packets).await?;
    let mut webhook = Webhook::new("w", format!("http://{}/push", receiver.address).parse()?);
    webhook.max_packets = max_packets;
    let options = Options::new(Egress::new(vec!["127.0.0.0/8".parse()?]));
    let (before, began) = (own_usage()?, Instant::now());
    let deliver = Deliver::start(options, &queue, Arc::new(registry(webhook)?)).await?;
    receiver.until(packets as u64).await?;
    let (took, usage) = (began.elapsed(), own_usage()?.since(&before));
    deliver.shutdown().await?;
    Ok(((packets / max_packets) as f64 / took.as_secs_f64(), usage))
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

fn registry(webhook: Webhook) -> Result<Registry> {
    let mut builder = RegistryBuilder::default();
    builder.webhook(webhook)?;
    for number in 0..GROUPS {
        builder.group(format!("o{number}/g").parse()?, Some("w"), true)?;
    }
    Ok(builder.build())
}
