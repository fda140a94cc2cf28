//! Load tests, as ratios in one run: `cargo run --profile dist -p pushline-loadtest`, and `-- sender`, `-- groups`, `-- latency`, `-- latency quiet`, `-- isolation`, `-- cluster`, `-- broker`,
//! `-- idle`, `-- storm`. All
//! but `sender` drive the real binary; gateways and receivers run as processes of their own.

mod bare;
mod bare_post;
mod cluster;
mod compare;
mod counter;
mod devices;
mod from_broker;
mod gateways;
mod groups;
mod idle;
mod isolation;
mod latency;
mod process;
mod protocol;
mod sender;
mod storm;
mod tls;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use pushline_testkit::get;
use tokio::time::sleep;

use crate::{devices::Fleet, protocol::Version};

/// Packets of a round of the comparison.
const PACKETS: u64 = 1_000_000;

/// Groups that they belong to.
const GROUPS: usize = 10;

/// Requests at once of the bare HTTP client, as many as a webhook has by default.
const CONCURRENCY: usize = 16;

/// Nothing takes longer.
const AT_MOST: Duration = Duration::from_secs(240);

/// As Pushline has: what it is compared with shall not be slower by its allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        [] => runtime.block_on(compare::compare()),
        ["cluster"] => runtime.block_on(cluster::cluster()),
        ["groups"] => runtime.block_on(groups::groups()),
        ["sender"] => runtime.block_on(sender::sender(10)),
        ["sender", max_packets] => runtime.block_on(sender::sender(max_packets.parse()?)),
        ["latency"] => runtime.block_on(latency::latency()),
        ["latency", "quiet"] => runtime.block_on(latency::quiet()),
        ["broker"] => runtime.block_on(from_broker::from_broker()),
        ["idle"] => runtime.block_on(idle::idle()),
        ["storm"] => runtime.block_on(storm::storm()),
        ["isolation"] => runtime.block_on(isolation::isolation()),
        ["gateways", server, packets, groups] => runtime.block_on(gateways::publish(server.parse()?, packets.parse()?, groups.parse()?)),
        ["paced", server, rate, seconds, groups] => {
            runtime.block_on(gateways::publish_paced(server.parse()?, rate.parse()?, seconds.parse()?, groups.parse()?))
        }
        ["devices", server, first, count, at_once, tls @ ..] => {
            let fleet = Fleet { first: first.parse()?, count: count.parse()?, at_once: at_once.parse()? };
            runtime.block_on(devices::stay_connected(server.parse()?, fleet, tls.first().map(Into::into)))
        }
        ["counter", version] => runtime.block_on(counter::serve(Version::of_name(version)?, None)),
        ["counter", version, tls] => runtime.block_on(counter::serve(Version::of_name(version)?, Some(tls.into()))),
        _ => bail!(
            "usage: cargo run --profile dist -p pushline-loadtest [-- sender [packets a message] | groups | latency [quiet] | isolation | cluster | broker | idle | storm]"
        ),
    }
}

/// The binary beside this program, of the same profile.
fn binary() -> Result<String> {
    let here = std::env::current_exe()?;
    let binary = here.parent().context("a program lies in a folder")?.join("pushline");
    if !binary.exists() {
        bail!("{} isn't there: cargo build --profile dist first", binary.display());
    }
    Ok(binary.display().to_string())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// Waits until a condition holds.
async fn until<F: Future<Output = Result<bool>>>(condition: impl Fn() -> F) -> Result<()> {
    let deadline = Instant::now() + AT_MOST;
    while !condition().await? {
        if Instant::now() > deadline {
            bail!("it takes too long");
        }
        sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

/// A number that an address answers a GET with.
async fn number(address: std::net::SocketAddr, path: &str) -> Result<u64> {
    Ok(get(address, path).await?.1.trim().parse()?)
}
