//! Many webhooks: more than their host may have connections, and beside names that no server answers for.

mod deaf;
mod fairness;
mod name_server;
mod receiver;
mod sockets;

use std::{collections::HashSet, path::Path};

use pushline_testkit::{Gateway, PATIENCE, Pushline, folder};
use tokio::time::timeout;

use self::{name_server::NameServer, receiver::SharedReceiver, sockets::MostSockets};
use crate::{BINARY, group, packets, webhook};

/// Webhooks on one receiver.
const WEBHOOKS: usize = 10_000;

/// What their host may have.
const CONNECTIONS: usize = 1000;

/// Webhooks of the same host whose requests the receiver never answers. They would take all connections, and more.
const HANGING: usize = 100;

/// Zones whose name servers are silent.
const DEAD_ZONES: usize = 500;

/// Customers that get their packets while all these zones are being looked up, each by a name of its own.
const NAMES: usize = 1000;

fn customer(name: &str, url: &str, options: &str) -> String {
    webhook(name, url, options) + &group(name, "g", name)
}

/// Starts it with these customers; a host may have this many connections.
async fn start(dir: &Path, customers: &str, connections: usize) -> Pushline {
    let configuration =
        Pushline::configuration(customers).replace("[egress]\n", &format!("[egress]\nconnections_per_host = {connections}\n"));
    Pushline::start(BINARY, dir, &configuration).await
}

#[tokio::test]
async fn ten_thousand_webhooks_share_a_thousand_connections_and_none_starves_beside_a_hundred_that_hang() {
    let (dir, receiver) = (folder(), SharedReceiver::start().await);
    let mut configuration = String::new();
    for number in 0..WEBHOOKS {
        configuration += &customer(&format!("o{number}"), &receiver.url("fine"), "");
    }
    for number in 0..HANGING {
        configuration += &customer(&format!("h{number}"), &receiver.url("hang"), "timeout = \"2s\"\nretries = 0\nmax_packets = 1");
    }
    let pushline = start(dir.path(), &configuration, CONNECTIONS).await;
    let most = MostSockets::to(receiver.port());
    let mut gateway = Gateway::connect(pushline.mqtt, "g").await.unwrap();
    for number in 0..HANGING {
        gateway.publish(&packets(&format!("h{number}/1"), (0..16).map(|packet| format!("h{number} {packet}")))).await.unwrap();
    }
    // One that is far busier than the others, before them.
    gateway.publish(&packets("o0/1", (0..20_000).map(|packet| format!("o0 {packet}")))).await.unwrap();
    for round in 0..3 {
        let all: Vec<_> = (1..WEBHOOKS).map(|number| (format!("o{number}/1"), format!("o{number} {round}").into_bytes())).collect();
        gateway.publish(&all).await.unwrap();
    }
    pushline.until_quiet().await;
    let arrived = receiver.arrived("fine");
    let expected = 20_000 + 3 * (WEBHOOKS - 1);
    assert_eq!((arrived.len(), arrived.iter().collect::<HashSet<_>>().len()), (expected, expected), "each packet comes once");
    let most = most.stop().await;
    assert!((2..=CONNECTIONS).contains(&most), "{most} connections at once");
    let dead = pushline.dead_letters("dead-letters").await;
    assert_eq!(dead.len(), HANGING * 16);
    assert!(dead.iter().all(|letter| letter.cause == "no_response" && letter.attempts == 1), "{:?}", dead.first());
}

#[tokio::test]
async fn beside_five_hundred_dead_zones_no_other_name_loses_an_attempt() {
    let (dir, receiver) = (folder(), SharedReceiver::start().await);
    let Some(server) = NameServer::start().await else {
        println!("NOT TESTED: a name server of the test's own needs root");
        return;
    };
    let mut configuration = String::new();
    for number in 0..DEAD_ZONES {
        configuration += &customer(&format!("d{number}"), &format!("http://www.zone{number}.dead.test/"), "retries = 100");
    }
    for number in 0..NAMES {
        let url = receiver.url_at(&format!("host{number}.live.test"), "fine");
        configuration += &customer(&format!("l{number}"), &url, "retries = 0");
    }
    let binary = server.for_binary(BINARY, dir.path());
    let pushline = Pushline::start(&binary, dir.path(), &Pushline::configuration(&configuration)).await;
    let mut gateway = Gateway::connect(pushline.mqtt, "g").await.unwrap();
    let dead: Vec<_> = (0..DEAD_ZONES).map(|number| (format!("d{number}/1"), b"x".to_vec())).collect();
    gateway.publish(&dead).await.unwrap();
    timeout(PATIENCE, server.until_asked_for("dead.test", DEAD_ZONES)).await.expect("all dead zones are looked up at once");
    let live: Vec<_> = (0..NAMES).map(|number| (format!("l{number}/1"), format!("l{number}").into_bytes())).collect();
    gateway.publish(&live).await.unwrap();
    // The name server holds the query of each dead zone, for longer than the test waits. The only attempt of each other name succeeds: its lookup
    // is its first, too, and waits for none of them.
    pushline.until_metric("pushline_packets_delivered_total", "", |delivered| delivered == NAMES as f64).await;
    assert_eq!(receiver.arrived("fine").into_iter().collect::<HashSet<_>>().len(), NAMES);
    assert_eq!(pushline.metric("pushline_packets_dead_lettered_total", "").await, 0.0, "{}", pushline.log());
    pushline.kill().await;
}
