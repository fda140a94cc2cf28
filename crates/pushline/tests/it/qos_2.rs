//! QoS 2 from devices with a session, through kills: each payload comes once, under one id (docs/sessions.md).

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::Duration,
};

use pushline_testkit::{Answer, ExactlyOnceDevice, Inbox, PATIENCE, Pushline, SyncShim, folder, payloads};
use tokio::time::{sleep, timeout};

use crate::{BINARY, amount, group, webhook};

fn configuration(inbox: &Inbox) -> String {
    Pushline::configuration(&format!("{}{}", webhook("w", &inbox.url(), "window = \"200ms\""), group("mti", "line", "w")))
}

/// Under which ids each payload came.
async fn ids_of_payloads(inbox: &mut Inbox) -> BTreeMap<String, BTreeSet<String>> {
    let mut ids: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for push in inbox.rest(Duration::from_secs(1)).await {
        for payload in payloads(&push) {
            ids.entry(payload).or_default().insert(push.header("webhook-id").to_owned());
        }
    }
    ids
}

/// Every payload came under one id, and they are these.
async fn each_came_once(inbox: &mut Inbox, expected: impl IntoIterator<Item = String>) {
    let ids = ids_of_payloads(inbox).await;
    let twice: Vec<_> = ids.iter().filter(|(_, ids)| ids.len() > 1).collect();
    assert!(twice.is_empty(), "under several ids: {twice:?}");
    assert_eq!(ids.into_keys().collect::<BTreeSet<_>>(), expected.into_iter().collect::<BTreeSet<_>>());
}

/// Where in a packet's way the process is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Point {
    /// The packet's sync has begun.
    Append,
    /// PUBREC has come.
    Pubrec,
    /// PUBREL was sent.
    Pubrel,
    /// The release's sync has begun.
    Release,
    /// PUBCOMP has come.
    Pubcomp,
}

const POINTS: [Point; 5] = [Point::Append, Point::Pubrec, Point::Pubrel, Point::Release, Point::Pubcomp];

/// Publishes a packet and goes as far with it as the point. Every sync stalls for up to a tenth of a second, so a kill hits it before, in its middle, or behind it.
async fn go_to(point: Point, device: &mut ExactlyOnceDevice, payload: &str, shim: &SyncShim) {
    let part_of_a_stall = || sleep(Duration::from_millis(fastrand::u64(0..120)));
    let sync = || shim.next_sync(|sync| sync.path.contains("packets"));
    let begun = sync();
    device.publish(payload).await;
    if point == Point::Append {
        timeout(PATIENCE, begun).await.expect("the packet is synced");
        return part_of_a_stall().await;
    }
    let Answer::Received(id) = device.answer().await.unwrap() else { panic!("PUBREC comes first") };
    if point == Point::Pubrec {
        return;
    }
    let begun = sync();
    device.release(id).await;
    match point {
        Point::Pubrel => part_of_a_stall().await,
        Point::Release => {
            timeout(PATIENCE, begun).await.expect("the release is synced");
            part_of_a_stall().await;
        }
        _ => assert_eq!(device.answer().await.unwrap(), Answer::Complete(id)),
    }
}

async fn start(dir: &Path, shim: &SyncShim) -> Pushline {
    let environment = shim.environment(1, Duration::from_millis(100), fastrand::u64(..));
    Pushline::start_again_with("run", BINARY, dir, &environment).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_packet_at_qos_2_comes_once_wherever_in_its_way_the_process_is_killed() {
    let (dir, shim, mut inbox) = (folder(), SyncShim::compile().await, Inbox::start().await);
    std::fs::write(dir.path().join("pushline.toml"), configuration(&inbox)).unwrap();
    let mut device = ExactlyOnceDevice::new("gateway", "mti/1");
    let mut pushline = start(dir.path(), &shim).await;
    let rounds = amount(4, 40);
    for round in 0..rounds {
        for point in POINTS {
            device.connect(pushline.mqtt).await.unwrap();
            go_to(point, &mut device, &format!("{point:?} {round}"), &shim).await;
            pushline.kill().await;
            pushline = start(dir.path(), &shim).await;
            device.connect(pushline.mqtt).await.unwrap();
            device.finish().await.unwrap();
        }
    }
    pushline.until_quiet().await;
    println!("{} kills; {} PUBLISHes were sent again", rounds * POINTS.len(), device.resent());
    let all = (0..rounds).flat_map(|round| POINTS.map(|point| format!("{point:?} {round}")));
    each_came_once(&mut inbox, all).await;
    pushline.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn packets_at_qos_2_come_once_through_kills_at_random_moments_and_broken_connections() {
    let (dir, shim, mut inbox) = (folder(), SyncShim::compile().await, Inbox::start().await);
    std::fs::write(dir.path().join("pushline.toml"), configuration(&inbox)).unwrap();
    let mut devices: Vec<_> =
        (1..=6).map(|number| ExactlyOnceDevice::new(&format!("gateway-{number}"), &format!("mti/{number}"))).collect();
    let (mut pushline, mut number, mut expected) = (start(dir.path(), &shim).await, 0, Vec::new());
    let kills = amount(12, 200);
    for kill in 0..kills {
        let until_kill = sleep(Duration::from_millis(fastrand::u64(50..700)));
        let under_load = async {
            loop {
                for device in &mut devices {
                    if fastrand::u8(..) < 40 {
                        device.vanish();
                    }
                    if device.connect_if_away(pushline.mqtt).await.is_err() {
                        continue;
                    }
                    for _ in 0..fastrand::u8(0..8) {
                        expected.push(format!("{number}"));
                        device.publish(&format!("{number}")).await;
                        number += 1;
                    }
                }
                for device in &mut devices {
                    if timeout(Duration::from_millis(fastrand::u64(0..200)), device.finish()).await.is_err() {
                        // Its connection breaks with packets in flight.
                        device.vanish();
                    }
                }
            }
        };
        tokio::select! {
            () = until_kill => {}
            () = under_load => unreachable!("it goes on until the kill"),
        }
        devices.iter_mut().for_each(ExactlyOnceDevice::vanish);
        if kill % 4 == 3 {
            pushline.terminate().await;
        } else {
            pushline.kill().await;
        }
        pushline = start(dir.path(), &shim).await;
    }
    for device in &mut devices {
        device.connect(pushline.mqtt).await.unwrap();
        device.finish().await.unwrap();
    }
    pushline.until_quiet().await;
    let resent: usize = devices.iter().map(ExactlyOnceDevice::resent).sum();
    println!("{} packets, {kills} kills; {resent} PUBLISHes were sent again", expected.len());
    assert!(resent > 0, "no PUBLISH was sent again");
    each_came_once(&mut inbox, expected).await;
    pushline.kill().await;
}
