//! Load from a real broker while processes are stopped and killed and the network is harmed.
//!
//! The broker acknowledges packets to gateways and owes them to Pushline's session. All that it acknowledged must be pushed. What it sends again, since our
//! acknowledgement didn't reach it, is another record, and is counted.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use pushline_testkit::{
    ChaosProxy, Direction, Fault, Gateway, Inbox, Kafka, Ledger, Mosquitto, PATIENCE, Push, Pushline, folder, payloads,
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use super::{
    broker, configuration,
    makes::{Broker, HiveMq},
    until_connected,
};
use crate::{BINARY, amount, group, packets, webhook};

/// Gateways that publish at QoS 1 until they are stopped.
struct Gateways {
    stop: Arc<AtomicBool>,
    running: JoinSet<()>,
    acknowledged: Arc<Ledger>,
}

impl Gateways {
    fn start(count: usize, server: SocketAddr) -> Self {
        let mut this = Self { stop: Arc::default(), running: JoinSet::new(), acknowledged: Arc::default() };
        for name in 0..count {
            this.running.spawn(publish(name, server, Arc::clone(&this.acknowledged), Arc::clone(&this.stop)));
        }
        this
    }

    /// Waits until so many packets more were acknowledged.
    async fn more(&self, packets: usize) {
        let (wanted, deadline) = (self.acknowledged.count() + packets, Instant::now() + PATIENCE);
        while self.acknowledged.count() < wanted {
            assert!(Instant::now() < deadline, "{} packets of {wanted} were acknowledged", self.acknowledged.count());
            sleep(Duration::from_millis(5)).await;
        }
    }

    async fn stop(self) -> Arc<Ledger> {
        self.stop.store(true, Ordering::Relaxed);
        self.running.join_all().await;
        self.acknowledged
    }
}

/// A gateway gives each packet a payload of its own. What wasn't acknowledged it doesn't send again.
async fn publish(name: usize, server: SocketAddr, acknowledged: Arc<Ledger>, stop: Arc<AtomicBool>) {
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        let Ok(mut gateway) = Gateway::connect(server, &format!("gateway-{name}")).await else {
            sleep(Duration::from_millis(5)).await;
            continue;
        };
        while !stop.load(Ordering::Relaxed) {
            let batch: Vec<String> = (number..number + fastrand::usize(1..40)).map(|number| format!("{name} {number}")).collect();
            number += batch.len();
            let before = usize::try_from(gateway.acknowledged()).unwrap();
            let published = gateway.publish(&packets(&format!("o{}/{name}", name % 4), batch.iter().map(String::as_str))).await;
            let now = usize::try_from(gateway.acknowledged()).unwrap();
            acknowledged.acknowledged(batch.into_iter().take(now - before));
            if published.is_err() {
                break;
            }
            sleep(Duration::from_millis(fastrand::u64(0..10))).await;
        }
    }
}

/// Takes pushes until nothing is missing, and as long as more come.
async fn until_complete(inbox: &mut Inbox, ledger: &Ledger) -> Vec<Push> {
    let deadline = Instant::now() + PATIENCE;
    let mut pushes = Vec::new();
    loop {
        for push in inbox.rest(Duration::from_millis(500)).await {
            ledger.arrived(&push);
            pushes.push(push);
        }
        if ledger.missing().is_empty() || Instant::now() > deadline {
            ledger.check();
            return pushes;
        }
    }
}

fn groups() -> String {
    (0..4).map(|number| group(&format!("o{number}"), "g", "w")).collect()
}

/// The session outlives each process.
const PLAIN_SESSION: &str = "session_expiry = \"1h\"";

/// The same, and a shared group shares its packets among two connections.
const SHARED_SESSIONS: &str = "session_expiry = \"1h\"\nshared_group = \"pushline\"\nconnections = 2";

#[tokio::test(flavor = "multi_thread")]
async fn each_record_is_pushed_under_one_id_while_mosquitto_restarts_and_the_network_is_cut_and_stalled() {
    broker_restarts_and_the_network_is_harmed::<Mosquitto>(amount(2, 20)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "the long part `brokers`: HiveMQ comes from Maven Central and starts in many seconds"]
async fn each_record_is_pushed_under_one_id_while_hivemq_restarts_and_the_network_is_cut_and_stalled() {
    broker_restarts_and_the_network_is_harmed::<HiveMq>(3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mosquitto_loses_nothing_while_pushline_is_killed_and_started() {
    pushline_is_killed_and_started::<Mosquitto>().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "the long part `brokers`: HiveMQ comes from Maven Central and starts in many seconds"]
async fn hivemq_loses_nothing_while_pushline_is_killed_and_started() {
    pushline_is_killed_and_started::<HiveMq>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_kafka_mosquitto_loses_nothing_while_ingest_and_deliver_are_killed_the_broker_restarts_and_the_network_is_harmed() {
    over_kafka::<Mosquitto>(amount(2, 20)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "the long part `brokers`: HiveMQ comes from Maven Central and starts in many seconds"]
async fn over_kafka_hivemq_loses_nothing_while_ingest_and_deliver_are_killed_the_broker_restarts_and_the_network_is_harmed() {
    over_kafka::<HiveMq>(3).await;
}

/// Cuts and stalls the connections to the broker while packets come.
async fn harm_the_network(proxy: &ChaosProxy, gateways: &Gateways) {
    let direction = if fastrand::bool() { Direction::ToClient } else { Direction::ToServer };
    // Connections that have passed more are cut at once, new ones in their middle.
    proxy.set(direction, Fault::Cut { after: fastrand::usize(200..5000) });
    gateways.more(300).await;
    proxy.set(direction, Fault::None);
    gateways.more(300).await;
    proxy.set(direction, Fault::Stall);
    gateways.more(300).await;
    proxy.set(direction, Fault::None);
}

/// The session is a plain one: with a shared one Mosquitto 2.0.11 loses packets when it restarts (docs/devices.md, What the broker must allow).
async fn broker_restarts_and_the_network_is_harmed<B: Broker>(rounds: usize) {
    let (dir, data) = (folder(), folder());
    let mut inbox = Inbox::start().await;
    let mut server = B::start(data.path()).await;
    let proxy = ChaosProxy::start(server.address()).await;
    let more = format!("{}{}", webhook("w", &inbox.url(), "window = \"200ms\""), groups());
    let pushline = Pushline::start(BINARY, dir.path(), &configuration(&broker(proxy.address(), PLAIN_SESSION), &more)).await;
    until_connected(&pushline, 1.0).await;
    let gateways = Gateways::start(8, server.address());
    for _ in 0..rounds {
        gateways.more(300).await;
        harm_the_network(&proxy, &gateways).await;
        server.stop().await;
        server.start_again().await;
    }
    let ledger = gateways.stop().await;
    let mut pushes = until_complete(&mut inbox, &ledger).await;
    pushline.until_quiet().await;
    pushes.extend(inbox.rest(Duration::from_millis(500)).await);
    let records: usize = pushes.iter().map(|push| payloads(push).len()).sum();
    let appended = pushline.metric("pushline_ingest_packets_total", "\"appended\"").await;
    let resent = pushline.metric("pushline_ingest_resent_packets_total", "").await;
    println!("{} packets acknowledged, {appended} records, {resent} sent again, {} came twice", ledger.count(), ledger.twice());
    assert_eq!(records as f64, appended, "each record is pushed once");
    assert!(ledger.twice() as f64 <= resent, "what came twice was sent again by the broker");
    pushline.terminate().await;
}

async fn pushline_is_killed_and_started<B: Broker>() {
    for version in ["5", "3.1.1"] {
        let (dir, data) = (folder(), folder());
        let mut inbox = Inbox::start().await;
        let server = B::start(data.path()).await;
        let more = format!("{}{}", webhook("w", &inbox.url(), "window = \"200ms\""), groups());
        let from = broker(server.address(), &format!("{SHARED_SESSIONS}\nversion = \"{version}\""));
        let mut pushline = Pushline::start(BINARY, dir.path(), &configuration(&from, &more)).await;
        until_connected(&pushline, 2.0).await;
        let gateways = Gateways::start(8, server.address());
        for round in 0..amount(3, 30) {
            gateways.more(fastrand::usize(100..1000)).await;
            if round % 3 == 2 {
                drop(pushline.terminate().await)
            } else {
                pushline.kill().await
            }
            gateways.more(fastrand::usize(1..500)).await;
            pushline = Pushline::start_again(BINARY, dir.path()).await;
        }
        let ledger = gateways.stop().await;
        until_complete(&mut inbox, &ledger).await;
        println!("MQTT {version}: {} packets acknowledged, {} came twice", ledger.count(), ledger.twice());
        pushline.terminate().await;
    }
}

async fn over_kafka<B: Broker>(rounds: usize) {
    let (kafka, dir, data) = (Kafka::shared().await, folder(), folder());
    let mut inbox = Inbox::start().await;
    let mut server = B::start(data.path()).await;
    let proxy = ChaosProxy::start(server.address()).await;
    let more = format!("{}{}", webhook("w", &inbox.url(), "window = \"200ms\""), groups());
    let over_kafka = crate::kafka::configuration(kafka.brokers(), &kafka.prefix(), 4, &more);
    let configuration = over_kafka.replace("[[mqtt.listeners]]\naddress = \"127.0.0.1:0\"\n", &broker(proxy.address(), PLAIN_SESSION));
    let mut ingest = crate::kafka::start("ingest", dir.path(), &configuration).await;
    let mut deliver = crate::kafka::start("deliver", dir.path(), &configuration).await;
    until_connected(&ingest, 1.0).await;
    let gateways = Gateways::start(8, server.address());
    for _ in 0..rounds {
        gateways.more(fastrand::usize(100..1000)).await;
        ingest.kill().await;
        gateways.more(fastrand::usize(1..500)).await;
        ingest = crate::kafka::start("ingest", dir.path(), &configuration).await;
        harm_the_network(&proxy, &gateways).await;
        deliver.kill().await;
        deliver = crate::kafka::start("deliver", dir.path(), &configuration).await;
        server.stop().await;
        server.start_again().await;
    }
    let ledger = gateways.stop().await;
    until_complete(&mut inbox, &ledger).await;
    let resent = ingest.metric("pushline_ingest_resent_packets_total", "").await;
    println!("{} packets acknowledged, {} came twice, {resent} sent again to the last ingest", ledger.count(), ledger.twice());
    ingest.terminate().await;
    deliver.terminate().await;
}
