//! A disk that is full: a small file system of the test's own. A disk that fails.

use std::{
    io::Write,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use pushline_testkit::{Behaviour, Gateway, Ledger, PATIENCE, Pushline, Receiver, folder, get, payloads};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{BINARY, group, limits, packets, webhook};

const MIB: usize = 1 << 20;

/// A file system in memory, gone with the test.
pub(crate) struct Small(PathBuf);

impl Small {
    /// `None`: this process may not mount.
    pub(crate) fn mount(at: &Path) -> Option<Self> {
        std::fs::create_dir(at).unwrap();
        let status = Command::new("mount").args(["-t", "tmpfs", "-o", "size=300m", "pushline-test"]).arg(at).status();
        status.is_ok_and(|status| status.success()).then(|| Self(at.to_owned()))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let status = Command::new("umount").arg("--lazy").arg(&self.0).status();
        assert!(status.is_ok_and(|status| status.success()) || std::thread::panicking(), "{} stays mounted", self.0.display());
    }
}

/// Publishes large packets until it is told to stop, through refusals and closed connections, and notes what was acknowledged.
async fn publish(name: usize, server: SocketAddr, ledger: Arc<Ledger>, count: Arc<AtomicU64>, stop: Arc<AtomicBool>) {
    let (topic, filling) = (format!("o{}/{name}", name % 2), "x".repeat(50_000));
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        let Ok(mut gateway) = Gateway::connect(server, &format!("gateway-{name}")).await else {
            sleep(Duration::from_millis(20)).await;
            continue;
        };
        while !stop.load(Ordering::Relaxed) {
            let batch: Vec<String> = (number..number + 20).map(|number| format!("{name} {number} {filling}")).collect();
            number += batch.len();
            let before = gateway.acknowledged();
            let result = gateway.publish(&packets(&topic, batch.iter().map(String::as_str))).await;
            let acknowledged = gateway.acknowledged() - before;
            count.fetch_add(acknowledged, Ordering::Relaxed);
            ledger.acknowledged(batch.iter().take(usize::try_from(acknowledged).unwrap()).map(|payload| short(payload)));
            if result.is_err() {
                break;
            }
        }
    }
}

/// What tells a packet from the others.
fn short(payload: &str) -> String {
    payload.split(" x").next().unwrap_or_default().to_owned()
}

async fn until_disk_is_full(pushline: &Pushline) {
    let full = async {
        while !get(pushline.admin, "/readyz").await.is_ok_and(|(status, why)| status == 503 && why.contains("disk is full")) {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, full).await.unwrap_or_else(|_| panic!("the disk doesn't fill up:\n{}", pushline.log()));
}

/// With `min_free`, below which packets wait while dead letters and checkpoint may use the rest; without, all of them meet a disk without a byte.
async fn a_disk_that_fills_up(min_free: &str) {
    let dir = folder();
    let Some(small) = Small::mount(&dir.path().join("small")) else {
        // Not through eprintln!, which a test that passes keeps to itself.
        std::io::stderr()
            .write_all(b"NOT TESTED on a full file system: mounting one needs root. Instead: a disk below min_free.\n")
            .unwrap();
        return limits::on_a_disk_below_its_floor().await;
    };
    let ledger = Arc::new(Ledger::default());
    let arrives = |address: SocketAddr, behaviour| {
        let ledger = Arc::clone(&ledger);
        Receiver::start(address, behaviour, move |push| {
            if push.status.is_some() {
                ledger.arrived_as(&push, payloads(&push).iter().map(|payload| short(payload)));
            }
        })
    };
    let anywhere = ([127, 0, 0, 1], 0).into();
    let fine = arrives(anywhere, Behaviour::default()).await.unwrap();
    // What waits for it keeps the log from being deleted, so that the disk fills up however fast the other one is.
    let hanging = arrives(anywhere, Behaviour { hang: true, ..Behaviour::default() }).await.unwrap();
    let options = "timeout = \"500ms\"\nretry_delays = [\"10ms\"]";
    let configuration = format!(
        "{}{}{}{}",
        webhook("fine", &format!("http://{}/", fine.address()), ""),
        webhook("hanging", &format!("http://{}/", hanging.address()), options),
        group("o0", "g", "fine"),
        group("o1", "g", "hanging")
    );
    let configuration = Pushline::configuration(&configuration)
        .replace("min_free = \"1MiB\"", &format!("min_free = \"{min_free}\"\ndir = \"small/pushline-data\""));
    let pushline = Pushline::start(BINARY, dir.path(), &configuration).await;
    let ballast = small.0.join("ballast");
    std::fs::write(&ballast, vec![0; 150 * MIB]).unwrap();

    let (count, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let mut gateways = JoinSet::new();
    for name in 0..4 {
        gateways.spawn(publish(name, pushline.mqtt, Arc::clone(&ledger), Arc::clone(&count), Arc::clone(&stop)));
    }
    until_disk_is_full(&pushline).await;
    assert!(pushline.log().contains("the log waits and acknowledges nothing"), "{}", pushline.log());
    // The process is killed while the disk is full: the next start has no space either.
    let (mqtt, admin) = (pushline.mqtt, pushline.admin);
    pushline.kill().await;
    let fixed = configuration
        .replace("[[mqtt.listeners]]\naddress = \"127.0.0.1:0\"", &format!("[[mqtt.listeners]]\naddress = \"{mqtt}\""))
        .replace("[admin]\naddress = \"127.0.0.1:0\"", &format!("[admin]\naddress = \"{admin}\""));
    let pushline = Pushline::start(BINARY, dir.path(), &fixed).await;
    until_disk_is_full(&pushline).await;

    // The customer answers, and there is space again: the process goes on by itself.
    let address = hanging.address();
    drop(hanging);
    let back = async {
        loop {
            // The port is free once the last connection of the old one is closed.
            match arrives(address, Behaviour::default()).await {
                Ok(receiver) => break receiver,
                Err(_) => sleep(Duration::from_millis(20)).await,
            }
        }
    };
    let _back = timeout(PATIENCE, back).await.expect("the port becomes free");
    let before = count.load(Ordering::Relaxed);
    std::fs::remove_file(&ballast).unwrap();
    let goes_on = async {
        while count.load(Ordering::Relaxed) == before {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, goes_on).await.unwrap_or_else(|_| panic!("nothing is acknowledged again:\n{}", pushline.log()));
    stop.store(true, Ordering::Relaxed);
    timeout(PATIENCE, gateways.join_all()).await.unwrap_or_else(|_| panic!("a gateway waits for ever:\n{}", pushline.log()));
    pushline.until_quiet().await;
    let dead = pushline.dead_letters("dead-letters").await;
    let decoded = |payload: &str| String::from_utf8(base64_simd::STANDARD.decode_to_vec(payload).unwrap()).unwrap();
    ledger.dead(dead.iter().map(|letter| short(&decoded(&letter.payload))));
    ledger.check();
    println!("{} packets acknowledged on a disk of 300 MiB, {} dead letters", ledger.count(), dead.len());
    assert!(ledger.count() > 500);
    assert_eq!(get(pushline.admin, "/readyz").await.unwrap().0, 200);
    pushline.terminate().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fills_up_to_min_free_under_load_loses_nothing_acknowledged_and_goes_on() {
    a_disk_that_fills_up("16MiB").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fills_up_to_the_last_byte_under_load_loses_nothing_acknowledged_and_goes_on() {
    a_disk_that_fills_up("0").await;
}

/// The system refuses to write for another reason than that there is no space: here the size of a file is limited. A failed sync takes the same way
/// (`queue/src/embedded/tests/`), but needs a disk that fails.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fails_ends_the_process_with_a_clear_message_and_the_next_start_loses_nothing() {
    let dir = folder();
    let ledger = Arc::new(Ledger::default());
    let arrived = Arc::clone(&ledger);
    let receiver = Receiver::start(([127, 0, 0, 1], 0).into(), Behaviour::default(), move |push| {
        arrived.arrived_as(&push, payloads(&push).iter().map(|payload| short(payload)));
    });
    let receiver = receiver.await.unwrap();
    let configuration = format!("{}{}", webhook("w", &format!("http://{}/", receiver.address()), ""), group("o0", "g", "w"));
    let limited = dir.path().join("limited");
    // In units of 512 bytes: 8 MiB. The signal that comes with it is ignored, so that writing fails.
    std::fs::write(&limited, format!("#!/bin/sh\ntrap '' XFSZ\nulimit -f 16384\nexec '{BINARY}' \"$@\"\n")).unwrap();
    std::fs::set_permissions(&limited, std::fs::Permissions::from_mode(0o755)).unwrap();
    let pushline = Pushline::start(limited.to_str().unwrap(), dir.path(), &Pushline::configuration(&configuration)).await;
    let (count, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let gateway = tokio::spawn(publish(0, pushline.mqtt, Arc::clone(&ledger), Arc::clone(&count), Arc::clone(&stop)));
    let (ended_well, log) = pushline.ended().await;
    assert!(!ended_well);
    assert!(log.contains("the queue failed; no acknowledged packet is lost; remove the cause and start again"), "{log}");
    assert!(log.contains("File too large"), "{log}");
    stop.store(true, Ordering::Relaxed);
    gateway.await.unwrap();
    let pushline = Pushline::start_again(BINARY, dir.path()).await;
    pushline.until_quiet().await;
    ledger.check();
    assert!(ledger.count() > 100, "{} packets were acknowledged before it failed", ledger.count());
}
