//! The whole path under load, beside what the same gateways get otherwise, as ratios in one run.
//!
//! Pushline (listener, fsync, push) beside Mosquitto with one bare rumqttc subscriber, which stores nothing and pushes nothing; and beside a bare
//! hyper client that posts equal bodies to the same receiver. Gateways and receiver run as processes of their own.

use std::{net::SocketAddr, time::Instant};

use anyhow::Result;
use pushline_testkit::{Mosquitto, Pushline};

use crate::{
    CONCURRENCY, GROUPS, PACKETS,
    bare::{self, Acks},
    bare_post, binary,
    counter::Counter,
    from_broker, median, process,
    process::Usage,
};

/// Rounds of each side, in turns; the median counts.
const ROUNDS: usize = 3;

/// Measures and prints.
pub(crate) async fn compare() -> Result<()> {
    let (mut ours, mut theirs, mut posts, mut cpu, mut memory) = (vec![], vec![], vec![], vec![], vec![]);
    for round in 1..=ROUNDS {
        let (rate, usage) = through_pushline(PACKETS, GROUPS, 10, None).await?;
        println!(
            "round {round}: Pushline             {rate:9.0} packets/s, {:.2} CPU s a million packets, {} MiB resident",
            usage.cpu_of(PACKETS),
            usage.memory >> 20
        );
        let bare = bare::through_mosquitto(Acks::Automatic).await?;
        println!("round {round}: Mosquitto to rumqttc {bare:9.0} packets/s");
        let post = bare_post::post(&Counter::start().await?, PACKETS / 10, 10, CONCURRENCY).await? * 10.0;
        println!("round {round}: bare hyper loop      {post:9.0} packets/s in messages of ten");
        ours.push(rate);
        theirs.push(bare);
        posts.push(post);
        cpu.push(usage.cpu_of(PACKETS));
        memory.push((usage.memory >> 20) as f64);
    }
    let (ours, theirs, posts) = (median(ours), median(theirs), median(posts));
    println!("\nmedians of {ROUNDS} rounds of {PACKETS} packets of 200 bytes, {GROUPS} groups, QoS 1");
    println!("  packets/s through Pushline, durable and pushed   {ours:9.0}");
    println!("  beside Mosquitto to one bare subscriber          {:9.2} times (Mosquitto keeps nothing on the disk)", ours / theirs);
    println!("  beside a bare hyper loop of equal bodies         {:9.2} times", ours / posts);
    println!("  CPU of Pushline's own process                    {:9.2} s a million packets", median(cpu));
    println!("  resident memory at full speed                    {:9.0} MiB", median(memory));
    Ok(())
}

/// Packets a second from the first PUBLISH until the last one was accepted by the receiver. Gateways publish to Pushline, or to a broker that it takes packets from.
pub(crate) async fn through_pushline(packets: u64, groups: usize, max_packets: usize, broker: Option<&Mosquitto>) -> Result<(f64, Usage)> {
    let dir = tempfile::tempdir()?;
    let receiver = Counter::start().await?;
    let configuration = configuration(receiver.address, groups, max_packets) + &from_broker::definition(broker);
    let pushline = Pushline::start(&binary()?, dir.path(), &configuration).await;
    let server = from_broker::entry(&pushline, broker).await;
    let began = Instant::now();
    let gateways = process::this(&["gateways", &server.to_string(), &packets.to_string(), &groups.to_string()])?;
    receiver.until(packets).await?;
    let took = began.elapsed();
    let usage = Usage::of(pushline.pid())?;
    process::finished(gateways).await?;
    pushline.terminate().await;
    Ok((packets as f64 / took.as_secs_f64(), usage))
}

/// One webhook, and groups that are each the default of an organisation, on one box.
pub(crate) fn configuration(receiver: SocketAddr, groups: usize, max_packets: usize) -> String {
    Pushline::configuration(&webhook_and_groups(receiver, groups, max_packets))
}

/// The same, to be completed.
pub(crate) fn webhook_and_groups(receiver: SocketAddr, groups: usize, max_packets: usize) -> String {
    let group = |number| format!("[[groups]]\norg = \"o{number}\"\nname = \"g\"\nwebhook = \"w\"\ndefault = true\n");
    let groups: String = (0..groups).map(group).collect();
    format!("[[webhooks]]\nname = \"w\"\nurl = \"http://{receiver}/push\"\nmax_packets = {max_packets}\n{groups}")
}
