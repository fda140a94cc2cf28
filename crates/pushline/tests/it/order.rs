//! In what order a webhook's messages start, and which groups of it take turns.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use pushline_testkit::{Arrival, Gateway, PATIENCE, Pushline, ScriptedReceiver, folder};
use tokio::{
    sync::{Semaphore, mpsc, watch},
    time::timeout,
};

use crate::{BINARY, group, packets, webhook};

/// Groups of organisations, all of one webhook with messages of one packet.
async fn start(dir: &std::path::Path, url: &str, options: &str, orgs: &[&str]) -> Pushline {
    let groups: String = orgs.iter().map(|org| group(org, "g", "w")).collect();
    let configuration = format!("{}{groups}", webhook("w", url, &format!("max_packets = 1\n{options}")));
    Pushline::start(BINARY, dir, &Pushline::configuration(&configuration)).await
}

/// Publishes packets `org number`.
async fn publish(gateway: &mut Gateway, org: &str, numbers: std::ops::Range<usize>) {
    gateway.publish(&packets(&format!("{org}/1"), numbers.map(|number| format!("{org} {number}")))).await.unwrap();
}

fn read(payload: &str) -> (String, usize) {
    let (org, number) = payload.split_once(' ').unwrap();
    (org.to_owned(), number.parse().unwrap())
}

/// What a receiver knows of groups whose messages shall come one at a time.
#[derive(Default)]
struct Book {
    /// Each group's message that hasn't settled.
    unsettled: HashMap<String, String>,
    /// Being answered at the moment.
    in_flight: HashSet<String>,
    attempts: HashMap<String, usize>,
    /// First attempts, in order.
    first: HashMap<String, Vec<usize>>,
    wrong: Vec<String>,
    /// Connections that a request has come on.
    connections: HashSet<usize>,
}

/// How an attempt is answered, and whether that settles the message.
fn script(number: usize, attempt: usize) -> (Option<u16>, bool) {
    match (number % 6, attempt) {
        (1, 1 | 2) => (Some(503), false),
        (2, 1) | (5, 1 | 2) => (None, false),
        (3, _) => (Some(500), true),
        (4, 1 | 2) => (Some(503), false),
        (4, _) => (Some(503), true),
        (5, _) => (None, true),
        _ => (Some(200), true),
    }
}

#[tokio::test]
async fn a_strict_groups_messages_are_active_one_at_a_time_retries_included() {
    const ORGS: [&str; 4] = ["o0", "o1", "o2", "o3"];
    const EACH: usize = 36;
    let dir = folder();
    let book = Arc::new(Mutex::new(Book::default()));
    let told = Arc::clone(&book);
    let receiver = ScriptedReceiver::start(move |Arrival { id, payloads, connection, .. }| {
        let (org, number) = read(&payloads[0]);
        let book = Arc::clone(&told);
        let attempt = {
            let mut book = book.lock().unwrap();
            let is_kept = !book.connections.insert(connection);
            let next = book.attempts.get(&id).map_or(1, |attempts| attempts + 1);
            // A kept connection that is closed costs no attempt: the message comes again on a new one.
            let costs_an_attempt = !is_kept || script(number, next).0.is_some();
            let other = book.unsettled.insert(org.clone(), id.clone()).filter(|other| *other != id);
            book.wrong.extend(other.map(|other| format!("{id} ({org} {number}) beside {other}")));
            if !book.in_flight.insert(id.clone()) {
                book.wrong.push(format!("{id} is in flight twice"));
            }
            if costs_an_attempt {
                book.attempts.insert(id.clone(), next);
            }
            if costs_an_attempt && next == 1 {
                book.first.entry(org.clone()).or_default().push(number);
            }
            next
        };
        async move {
            // Other requests that are on their way get the time to come.
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            let (status, settles) = script(number, attempt);
            let mut book = book.lock().unwrap();
            book.in_flight.remove(&id);
            if settles {
                book.unsettled.remove(&org);
            }
            status
        }
    });
    let receiver = receiver.await;
    let options = "order = \"strict\"\nretry_on_status = [503]\nretry_delays = [\"10ms\"]\nconcurrency = 8";
    let pushline = start(dir.path(), &receiver.url(), options, &ORGS).await;
    let mut gateway = Gateway::connect(pushline.mqtt, "g").await.unwrap();
    for org in ORGS {
        publish(&mut gateway, org, 0..EACH).await;
    }
    pushline.until_quiet().await;
    assert_eq!(pushline.dead_letters("dead-letters").await.len(), ORGS.len() * EACH / 6 * 3);
    let book = book.lock().unwrap();
    assert!(book.wrong.is_empty(), "{:#?}", book.wrong);
    for org in ORGS {
        assert_eq!(book.first[org], (0..EACH).collect::<Vec<_>>(), "{org}: in order");
    }
    // 0: once; 1: twice more; 2: once more; 3: not again; 4 and 5: twice more, in vain.
    let attempts: usize = book.attempts.values().sum();
    assert_eq!(attempts, ORGS.len() * EACH / 6 * (1 + 3 + 2 + 1 + 3 + 3));
}

#[tokio::test]
async fn while_a_strict_groups_message_is_unanswered_the_webhooks_other_groups_go_on() {
    let dir = folder();
    let (arrived, mut arrivals) = mpsc::channel(1000);
    let (release, released) = watch::channel(false);
    let receiver = ScriptedReceiver::start(move |Arrival { payloads, .. }| {
        arrived.try_send(payloads[0].clone()).unwrap();
        let mut released = released.clone();
        async move {
            if payloads[0].starts_with("slow") {
                released.wait_for(|released| *released).await.unwrap();
            }
            Some(200)
        }
    });
    let receiver = receiver.await;
    let pushline = start(dir.path(), &receiver.url(), "order = \"strict\"\nconcurrency = 4", &["slow", "a", "b"]).await;
    let mut gateway = Gateway::connect(pushline.mqtt, "g").await.unwrap();
    for org in ["slow", "a", "b"] {
        publish(&mut gateway, org, 0..20).await;
    }
    let mut seen: HashMap<String, Vec<usize>> = HashMap::new();
    let mut take = async |seen: &mut HashMap<String, Vec<usize>>| {
        let (org, number) = read(&timeout(PATIENCE, arrivals.recv()).await.expect("a group goes on").unwrap());
        seen.entry(org).or_default().push(number);
    };
    while ["a", "b"].iter().any(|org| seen.get(*org).is_none_or(|came| came.len() < 20)) {
        take(&mut seen).await;
    }
    pushline.until_metric("pushline_packets_delivered_total", "", |delivered| delivered == 40.0).await;
    assert_eq!(seen["slow"], [0], "its others wait for it");
    release.send_replace(true);
    while seen["slow"].len() < 20 {
        take(&mut seen).await;
    }
    for org in ["slow", "a", "b"] {
        assert_eq!(seen[org], (0..20).collect::<Vec<_>>(), "{org}");
    }
    pushline.until_quiet().await;
}

#[tokio::test]
async fn a_busy_group_leaves_the_quiet_ones_of_its_webhook_their_turns() {
    const QUIET: [&str; 3] = ["q0", "q1", "q2"];
    const EACH: usize = 5;
    let dir = folder();
    let (arrived, mut arrivals) = mpsc::channel(1000);
    let answers = Arc::new(Semaphore::new(0));
    let permits = Arc::clone(&answers);
    let receiver = ScriptedReceiver::start(move |Arrival { payloads, .. }| {
        arrived.try_send(payloads[0].clone()).unwrap();
        let permits = Arc::clone(&permits);
        async move {
            permits.acquire().await.unwrap().forget();
            Some(200)
        }
    });
    let receiver = receiver.await;
    let pushline = start(dir.path(), &receiver.url(), "concurrency = 2", &["busy", "q0", "q1", "q2"]).await;
    let mut gateway = Gateway::connect(pushline.mqtt, "g").await.unwrap();
    publish(&mut gateway, "busy", 0..300).await;
    for _ in 0..2 {
        timeout(PATIENCE, arrivals.recv()).await.unwrap().unwrap();
    }
    for org in QUIET {
        publish(&mut gateway, org, 0..EACH).await;
    }
    // All of them stand in line.
    let all = (300 + QUIET.len() * EACH) as f64;
    pushline.until_metric("pushline_queue_unsettled_packets", "", |unsettled| unsettled == all).await;
    pushline.until_metric("pushline_queue_lag_records", "", |lag| lag == 0.0).await;
    let mut turns: HashMap<String, usize> = HashMap::new();
    // One answer, one start: four groups share them. What was on its way already is the busy one's.
    for _ in 0..4 * EACH + 2 {
        answers.add_permits(1);
        let payload = timeout(PATIENCE, arrivals.recv()).await.expect("the next one starts").unwrap();
        *turns.entry(read(&payload).0).or_default() += 1;
    }
    for org in QUIET {
        assert_eq!(turns.get(org), Some(&EACH), "{org} waits for the busy one: {turns:?}");
    }
    answers.add_permits(1000);
    pushline.until_quiet().await;
}

/// A customer hangs, and is back later. Shown for messages that start one after the other, and for the default, where sixteen may be in flight.
#[tokio::test]
async fn what_a_customer_missed_while_it_hung_comes_in_order_and_nothing_is_left_over() {
    for concurrency in [1, 16] {
        comes_in_order(concurrency).await;
    }
}

async fn comes_in_order(concurrency: usize) {
    const PACKETS: usize = 300;
    let dir = folder();
    let (hangs, came) = (Arc::new(AtomicBool::new(true)), Arc::new(Mutex::new(Vec::new())));
    let (is_hanging, arrived) = (Arc::clone(&hangs), Arc::clone(&came));
    let receiver = ScriptedReceiver::start(move |Arrival { payloads, .. }| {
        let hangs = is_hanging.load(Ordering::SeqCst);
        let number = read(&payloads[0]).1;
        let mut arrived = arrived.lock().unwrap();
        // An answer that came too late for a slow machine is asked for once more.
        if !hangs && !arrived.contains(&number) {
            arrived.push(number);
        }
        async move { if hangs { std::future::pending().await } else { Some(200) } }
    });
    let receiver = receiver.await;
    // Nothing becomes a dead letter while it hangs.
    let options = format!("concurrency = {concurrency}\ntimeout = \"1s\"\nretries = 100");
    let pushline = start(dir.path(), &receiver.url(), &options, &["sick"]).await;
    let mut gateway = Gateway::connect(pushline.mqtt, "g").await.unwrap();
    publish(&mut gateway, "sick", 0..PACKETS / 2).await;
    pushline.until_metric("pushline_webhooks_unresponsive", "", |unresponsive| unresponsive == 1.0).await;
    pushline.until_metric("pushline_deliver_in_flight", "", |in_flight| in_flight <= 1.0).await;
    publish(&mut gateway, "sick", PACKETS / 2..PACKETS).await;
    assert!(came.lock().unwrap().is_empty());
    hangs.store(false, Ordering::SeqCst);
    pushline.until_quiet().await;
    let came = came.lock().unwrap().clone();
    assert_eq!(came.iter().copied().collect::<HashSet<_>>(), (0..PACKETS).collect(), "all of it");
    // Whatever has come before a message has started before it or together with it: the message can't be further ahead than what may be in flight.
    for (place, number) in came.iter().enumerate() {
        assert!(*number < place + concurrency, "{number} came at place {place}, with {concurrency} in flight: {came:?}");
    }
    assert_eq!(pushline.dead_letters("dead-letters").await, []);
    for name in ["pushline_webhooks_unresponsive", "pushline_lanes", "pushline_queue_unsettled_packets"] {
        pushline.until_metric(name, "", |value| value == 0.0).await;
    }
}
