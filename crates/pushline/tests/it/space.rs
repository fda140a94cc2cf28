//! What has come and gone leaves nothing behind, on the disk or in memory.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use pushline_testkit::{Behaviour, Gateway, PATIENCE, Pushline, Receiver, folder};
use tokio::{task::JoinSet, time::timeout};

use crate::{BINARY, group, webhook};

/// A receiver that only counts packets.
async fn counter() -> (Receiver, Arc<AtomicUsize>) {
    let counted = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&counted);
    // Each packet has one brace that opens; these payloads have none.
    let receive = move |push: pushline_testkit::Push| {
        count.fetch_add(push.body.iter().filter(|byte| **byte == b'{').count(), Ordering::Relaxed);
    };
    (Receiver::start(([127, 0, 0, 1], 0).into(), Behaviour::default(), receive).await.unwrap(), counted)
}

/// Bytes of all files in a folder. One that goes meanwhile has none.
fn size(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    entries
        .flatten()
        .map(|entry| if entry.path().is_dir() { size(&entry.path()) } else { entry.metadata().map_or(0, |file| file.len()) })
        .sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_million_records_in_and_out_leave_a_data_folder_under_100_mib() {
    const GATEWAYS: usize = 8;
    let dir = folder();
    let (receiver, counted) = counter().await;
    let groups: String = (0..GATEWAYS).map(|number| group(&format!("o{number}"), "g", "w")).collect();
    let configuration = format!("{}{groups}", webhook("w", &format!("http://{}/", receiver.address()), ""));
    let pushline = Pushline::start(BINARY, dir.path(), &Pushline::configuration(&configuration)).await;
    let mut gateways = JoinSet::new();
    for number in 0..GATEWAYS {
        let mut gateway = Gateway::connect(pushline.mqtt, &format!("g{number}")).await.unwrap();
        gateways.spawn(async move {
            let batch = vec![(format!("o{number}/897612653856781234"), vec![b'p'; 200]); 1000];
            for _ in 0..125 {
                gateway.publish(&batch).await.unwrap();
            }
        });
    }
    gateways.join_all().await;
    pushline.until_quiet().await;
    assert_eq!(counted.load(Ordering::Relaxed), 1_000_000);
    let data = dir.path().join("pushline-data");
    let shrunk = async {
        while size(&data) >= 100 << 20 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    // What has settled is deleted once checkpoint says so, a second later.
    timeout(PATIENCE, shrunk).await.unwrap_or_else(|_| panic!("{} MiB are left", size(&data) >> 20));
    println!("{} KiB are left of a million records", size(&data) >> 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_groups_come_and_go_and_leave_no_lane_and_no_memory_behind() {
    const ROUNDS: usize = 10;
    let dir = folder();
    let (receiver, counted) = counter().await;
    let groups: String = (0..10_000).map(|number| group(&format!("o{number}"), "g", "w")).collect();
    let configuration = format!("{}{groups}", webhook("w", &format!("http://{}/", receiver.address()), "window = \"100ms\""));
    let pushline = Pushline::start(BINARY, dir.path(), &Pushline::configuration(&configuration)).await;
    let mut gateway = Gateway::connect(pushline.mqtt, "g").await.unwrap();
    // One round fills the log's tail in memory, so that it has its full size from the first on.
    let all: Vec<(String, Vec<u8>)> = (0..10_000).map(|number| (format!("o{number}/1"), vec![b'x'; 2000])).collect();
    let mut resident = Vec::new();
    for round in 1..=ROUNDS {
        gateway.publish(&all).await.unwrap();
        pushline.until_quiet().await;
        assert_eq!(counted.load(Ordering::Relaxed), round * all.len());
        pushline.until_metric("pushline_lanes", "", |lanes| lanes == 0.0).await;
        resident.push(pushline.resident() >> 20);
    }
    println!("MiB resident after each round: {resident:?}");
    assert!(resident[ROUNDS - 1] <= resident[0] * 3 / 2, "it grows: {resident:?} MiB after each round");
}
