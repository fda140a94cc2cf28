//! Ten thousand groups: in messages of ten, and with one packet a message beside a bare hyper client that posts equal bodies; and what all that takes in memory.

use anyhow::Result;

use crate::{CONCURRENCY, bare_post, compare::through_pushline, counter::Counter, median};

/// Rounds of each; the median counts.
const ROUNDS: usize = 3;

const GROUPS: usize = 10_000;

const PACKETS: u64 = 500_000;

/// Measures and prints.
pub(crate) async fn groups() -> Result<()> {
    let (mut tens, mut ones, mut posts, mut memory) = (vec![], vec![], vec![], vec![]);
    for round in 1..=ROUNDS {
        let (ten, full) = through_pushline(PACKETS, GROUPS, 10, None).await?;
        let (one, single) = through_pushline(PACKETS, GROUPS, 1, None).await?;
        let post = bare_post::post(&Counter::start().await?, PACKETS, 1, CONCURRENCY).await?;
        println!(
            "round {round}: {ten:9.0} packets/s in messages of ten, {} MiB resident; {one:9.0} messages of one packet/s, {:.2} CPU s a million, {} MiB; bare hyper loop {post:9.0} messages/s",
            full.memory >> 20,
            single.cpu_of(PACKETS),
            single.memory >> 20
        );
        tens.push(ten);
        ones.push(one);
        posts.push(post);
        memory.push((full.memory.max(single.memory) >> 20) as f64);
    }
    let (ones, posts) = (median(ones), median(posts));
    println!("\nmedians of {ROUNDS} rounds of {PACKETS} packets of 200 bytes, {GROUPS} groups, QoS 1");
    println!("  packets/s in messages of ten                     {:9.0}", median(tens));
    println!("  messages/s of one packet                         {ones:9.0}");
    println!("  beside a bare hyper loop of equal bodies         {:9.2} times", ones / posts);
    println!("  resident memory at full speed                    {:9.0} MiB", median(memory));
    Ok(())
}
