//! A reconnect storm: ten thousand connected devices lose their connections at once and connect again at once, while publishers that are on go on. What counts
//! is how long it takes until all devices are back, and how long the publishers wait for PUBACK before and during the storm.

use std::{
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Result;
use pushline_testkit::{Gateway, Pushline};
use tokio::{task::JoinSet, time::sleep};

use crate::{
    binary,
    compare::configuration,
    counter::Counter,
    devices::{Devices, Fleet},
    idle::with_tls,
};

const DEVICES: usize = 10_000;

/// How many connect at once before the storm.
const AT_ONCE: usize = 100;

/// Publishers, each with one packet on its way, and the pause between two packets.
const PUBLISHERS: usize = 8;
const PAUSE: Duration = Duration::from_millis(5);

/// For how long the publishers are measured before the storm.
const QUIET: Duration = Duration::from_secs(5);

/// Measures and prints.
pub(crate) async fn storm() -> Result<()> {
    println!("{DEVICES} devices connect again at once; {PUBLISHERS} publishers wait for each PUBACK\n");
    println!("        devices      all back   connections   PUBACK before, ms      PUBACK during, ms");
    println!("                     after        made again    p50    p99    max      p50    p99    max");
    for (name, is_tls) in [("plain", false), ("TLS", true)] {
        let dir = tempfile::tempdir()?;
        let receiver = Counter::start().await?;
        let mut configuration = configuration(receiver.address, PUBLISHERS, 10);
        if is_tls {
            configuration = with_tls(&configuration, dir.path())?;
        }
        // The publishers speak TCP, so that their latency is the listener's, not that of their own encryption.
        configuration += "[[mqtt.listeners]]\naddress = \"127.0.0.1:0\"\n";
        let pushline = Pushline::start(&binary()?, dir.path(), &configuration).await;
        let open = listeners(&pushline)[1];
        let row = one_storm(pushline.mqtt, open, is_tls.then_some(dir.path())).await?;
        println!("  {name:13} {row}");
        pushline.terminate().await;
    }
    Ok(())
}

/// The addresses of the listeners, in the order of the configuration.
fn listeners(pushline: &Pushline) -> Vec<SocketAddr> {
    let log = pushline.log();
    let address = |line: &str| line.split_once("listening for devices address=")?.1.split_whitespace().next()?.parse().ok();
    log.lines().filter_map(address).collect()
}

async fn one_storm(server: SocketAddr, open: SocketAddr, tls_folder: Option<&Path>) -> Result<String> {
    let fleet = |at_once| Fleet { first: 0, count: DEVICES, at_once };
    let devices = Devices::connect(server, fleet(AT_ONCE), tls_folder).await?;
    let publishers = Publishers::start(open);
    sleep(QUIET).await;
    let before = publishers.stop().await?;
    let publishers = Publishers::start(open);
    drop(devices);
    let devices = Devices::connect(server, fleet(DEVICES), tls_folder).await?;
    let during = publishers.stop().await?;
    let Devices { took, retries, .. } = devices;
    Ok(format!("{:8.1} s   {retries:11}   {}   {}", took.as_secs_f64(), percentiles(before), percentiles(during)))
}

/// Publishers that note how long each PUBACK took.
struct Publishers {
    stop: Arc<AtomicBool>,
    running: JoinSet<Result<Vec<Duration>>>,
}

impl Publishers {
    fn start(server: SocketAddr) -> Self {
        let (stop, mut running) = (Arc::new(AtomicBool::new(false)), JoinSet::new());
        for number in 0..PUBLISHERS {
            running.spawn(publish(server, number, Arc::clone(&stop)));
        }
        Self { stop, running }
    }

    async fn stop(mut self) -> Result<Vec<Duration>> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        while let Some(latencies) = self.running.join_next().await {
            all.extend(latencies??);
        }
        Ok(all)
    }
}

async fn publish(server: SocketAddr, number: usize, stop: Arc<AtomicBool>) -> Result<Vec<Duration>> {
    let mut gateway = Gateway::connect(server, &format!("publisher-{number}")).await?;
    let (packet, mut latencies) = ([(format!("o{number}/1"), vec![b'p'; 200])], Vec::new());
    while !stop.load(Ordering::Relaxed) {
        let began = Instant::now();
        gateway.publish(&packet).await?;
        latencies.push(began.elapsed());
        sleep(PAUSE).await;
    }
    Ok(latencies)
}

fn percentiles(mut latencies: Vec<Duration>) -> String {
    latencies.sort_unstable();
    let of_100 = |of_100: usize| latencies.get((latencies.len() * of_100 / 100).min(latencies.len() - 1)).copied().unwrap_or_default();
    [50, 99, 100].map(|part| format!("{:6.1}", of_100(part).as_secs_f64() * 1e3)).join(" ")
}
