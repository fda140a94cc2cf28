//! What an idle connection costs: devices that connect and stay, plain and over TLS. `ingest` serves them, since a process that also pushes keeps a quarter of its
//! descriptors for that.

use std::{path::Path, time::Duration};

use anyhow::Result;
use pushline_testkit::{Kafka, Pushline};
use tokio::time::sleep;

use crate::{
    binary,
    devices::{Devices, Fleet},
    process::Usage,
    tls,
};

/// Devices of a row of the table.
const STEP: usize = 2_500;

/// Rows of the table. 15,000 connections fit below the usual hard limit of 20,000 descriptors.
const STEPS: usize = 6;

/// How many connect at once.
const AT_ONCE: usize = 100;

/// The process frees what connecting has cost, and the allocator gives it back, within this time.
const SETTLING: Duration = Duration::from_secs(3);

/// Measures and prints.
pub(crate) async fn idle() -> Result<()> {
    let kafka = Kafka::start().await;
    for (name, goal, is_tls) in [("plain", 10, false), ("TLS", 40, true)] {
        println!("{name}\n  connections   resident   a connection since the row above");
        let rows = connections(&kafka, is_tls).await?;
        for (place, pair) in rows.windows(2).enumerate() {
            println!("  {:11} {:6} MiB   {:6.1} KiB", (place + 1) * STEP, pair[1] >> 20, kib_a_connection(pair[0], pair[1], STEP));
        }
        let slope = kib_a_connection(rows[STEPS / 2], rows[STEPS], STEP * (STEPS - STEPS / 2));
        println!("  slope of the second half: {slope:.1} KiB a connection (goal: at most {goal})\n");
    }
    Ok(())
}

fn kib_a_connection(before: u64, after: u64, connections: usize) -> f64 {
    (after as f64 - before as f64) / 1024.0 / connections as f64
}

/// Resident bytes before the first step, and after each.
async fn connections(kafka: &Kafka, is_tls: bool) -> Result<Vec<u64>> {
    let dir = tempfile::tempdir()?;
    let mut configuration = Pushline::configuration_over_kafka(kafka.brokers(), &kafka.prefix(), 1, "", "");
    if is_tls {
        configuration = with_tls(&configuration, dir.path())?;
    }
    let ingest = Pushline::start_as("ingest", &binary()?, dir.path(), &configuration).await;
    let (mut rows, mut devices) = (vec![Usage::of(ingest.pid())?.memory], Vec::new());
    for step in 0..STEPS {
        let fleet = Fleet { first: step * STEP, count: STEP, at_once: AT_ONCE };
        devices.push(Devices::connect(ingest.mqtt, fleet, is_tls.then_some(dir.path())).await?);
        sleep(SETTLING).await;
        rows.push(Usage::of(ingest.pid())?.memory);
    }
    drop(devices);
    ingest.terminate().await;
    Ok(rows)
}

/// A configuration whose listener speaks TLS, with a certificate of this run in a folder.
pub(crate) fn with_tls(configuration: &str, folder: &Path) -> Result<String> {
    tls::write_certificate(folder)?;
    let (certificate, key) = (tls::certificate_file(folder), tls::key_file(folder));
    let tls = format!("[[mqtt.listeners]]\ntls = {{ cert_file = {certificate:?}, key_file = {key:?} }}\n");
    Ok(configuration.replace("[[mqtt.listeners]]\n", &tls))
}
