//! Limits in time and space: the backlog's age and size, and a disk that is full.

use std::{fs::File, path::Path, time::Duration};

use pushline_testkit::{Behaviour, Gateway, Inbox, PATIENCE, Pushline, Receiver, folder, get, payloads};
use tokio::time::timeout;

use crate::{BINARY, disk::Small, group, packets, webhook};

const HANGS: Behaviour = Behaviour { status: 200, delay: Duration::ZERO, hang: true, every: 1 };

/// A customer that hangs and one that answers.
async fn start(dir: &Path, change: impl Fn(String) -> String) -> (Pushline, Inbox, Receiver) {
    let fine = Inbox::start().await;
    let hanging = Receiver::start(([127, 0, 0, 1], 0).into(), HANGS, drop).await.unwrap();
    let configuration = format!(
        "{}{}{}{}",
        webhook("fine", &fine.url(), ""),
        webhook("hanging", &format!("http://{}/", hanging.address()), "concurrency = 2"),
        group("fine", "g", "fine"),
        group("sick", "g", "hanging")
    );
    let pushline = Pushline::start(BINARY, dir, &change(Pushline::configuration(&configuration))).await;
    (pushline, fine, hanging)
}

#[tokio::test]
async fn what_waits_longer_than_max_age_becomes_dead_letters_and_the_others_notice_nothing() {
    let dir = folder();
    let (pushline, mut fine, _hanging) = start(dir.path(), |text| text + "[backlog]\nmax_age = \"3s\"\n").await;
    let mut gateway = Gateway::connect(pushline.mqtt, "g").await.unwrap();
    gateway.publish(&packets("sick/1", (0..500).map(|number| number.to_string()))).await.unwrap();
    gateway.publish(&packets("fine/1", ["a"])).await.unwrap();
    assert_eq!(payloads(&fine.next().await), ["a"]);
    // All but the active messages: two of ten packets.
    pushline.until_metric("pushline_packets_dead_lettered_total", "expired", |expired| expired == 480.0).await;
    let dead = pushline.dead_letters("dead-letters").await;
    assert_eq!(dead.len(), 480);
    assert!(dead.iter().all(|letter| letter.cause == "expired"));
    gateway.publish(&packets("fine/1", ["b"])).await.unwrap();
    assert_eq!(payloads(&fine.next().await), ["b"]);
    pushline.until_metric("pushline_queue_unsettled_packets", "", |unsettled| unsettled == 20.0).await;
    assert!(pushline.log().contains("become dead letters"));
}

#[tokio::test]
async fn beyond_max_bytes_the_oldest_become_dead_letters_and_their_segments_go() {
    let dir = folder();
    let (pushline, _fine, _hanging) = start(dir.path(), |text| text.replace("[queue]\n", "[queue]\nmax_bytes = \"256MiB\"\n")).await;
    let mut gateway = Gateway::connect(pushline.mqtt, "g").await.unwrap();
    let payload = vec![b'x'; 250_000];
    for _ in 0..7 {
        gateway.publish(&vec![("sick/1".to_owned(), payload.clone()); 200]).await.unwrap();
    }
    pushline.until_metric("pushline_packets_dead_lettered_total", "expired", |expired| expired > 0.0).await;
    let packets_dir = dir.path().join("pushline-data/packets");
    let size =
        || -> u64 { std::fs::read_dir(&packets_dir).unwrap().map(|entry| entry.unwrap().metadata().map_or(0, |file| file.len())).sum() };
    let within = async {
        while size() > 256 << 20 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, within).await.expect("the oldest segments go");
    let (dead, unsettled) =
        (pushline.dead_letters("dead-letters").await.len(), pushline.metric("pushline_queue_unsettled_packets", "").await);
    assert!(dead > 100 && unsettled < 1400.0, "{dead} {unsettled}");
    pushline.kill().await;
}

#[tokio::test]
async fn on_a_full_disk_nothing_is_acknowledged_and_appending_goes_on_when_there_is_space() {
    on_a_disk_below_its_floor().await;
}

pub(crate) async fn on_a_disk_below_its_floor() {
    let dir = folder();
    let place = dir.path().join("small");
    // Others use the disk of temporary folders too: a large ballast hides what they do, where this process may not mount one of its own.
    let small = Small::mount(&place);
    let ballast_bytes = if small.is_some() { 160 << 20 } else { 4 << 30 };
    let space = rustix::fs::statvfs(&place).unwrap();
    let free = space.f_bavail * space.f_frsize;
    assert!(small.is_some() || free > 2 * ballast_bytes, "this test needs 8 GiB free where temporary folders are");
    // Half of the ballast takes the disk below its floor.
    let floor = format!("min_free = {}\ndir = \"small/pushline-data\"", free - ballast_bytes / 2);
    let (pushline, mut fine, _hanging) = start(dir.path(), |text| text.replace("min_free = \"1MiB\"", &floor)).await;
    let mut gateway = Gateway::connect(pushline.mqtt, "g").await.unwrap();
    timeout(PATIENCE, gateway.publish(&packets("fine/1", ["a"]))).await.expect("the disk is above its floor").unwrap();
    assert_eq!(payloads(&fine.next().await), ["a"]);

    let ballast = place.join("ballast");
    let file = File::create(&ballast).unwrap();
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, ballast_bytes).unwrap();
    // Under load the floor is looked at every few megabytes.
    let large = vec![b'x'; 200_000];
    let round = vec![("fine/1".to_owned(), large.clone()); 100];
    let blocked = timeout(Duration::from_secs(5), async { while gateway.publish(&round).await.is_ok() {} }).await;
    assert!(blocked.is_err(), "it still acknowledges");
    let acknowledged = gateway.acknowledged();
    let (status, reason) = get(pushline.admin, "/readyz").await.unwrap();
    assert_eq!((status, reason.contains("disk is full")), (503, true), "{reason}");
    assert!(pushline.log().contains("acknowledges nothing"));

    drop(file);
    std::fs::remove_file(&ballast).unwrap();
    // The same connection goes on; what it waited for is acknowledged and pushed.
    let mut other = Gateway::connect(pushline.mqtt, "other").await.unwrap();
    timeout(PATIENCE, other.publish(&packets("fine/2", ["b"]))).await.expect("there is space again").unwrap();
    let mut arrived = 0;
    loop {
        let texts = payloads(&fine.next().await);
        arrived += texts.iter().filter(|text| text.len() == large.len()).count() as u64;
        if texts.contains(&"b".to_owned()) {
            break;
        }
    }
    pushline.until_quiet().await;
    arrived +=
        fine.rest(Duration::from_millis(200)).await.iter().flat_map(payloads).filter(|text| text.len() == large.len()).count() as u64;
    assert!(arrived >= acknowledged - 1, "{arrived} of {acknowledged} arrived");
    assert_eq!(get(pushline.admin, "/readyz").await.unwrap().0, 200);
}
