//! A long backlog for a dead customer, and a kill in its middle.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use pushline_testkit::{Behaviour, Gateway, Inbox, Push, Pushline, folder, payloads};
use tokio::time::timeout;

use crate::{BINARY, amount, group, packets, webhook};

/// How long a start may take that doesn't read the backlog: every frame on the disk is checked, nothing is read beyond that.
const READY: Duration = Duration::from_secs(20);

/// What a checkpoint that is saved calls settled: it may not come again, under its id or under another.
#[derive(Default)]
struct Settled {
    ids: HashSet<String>,
    payloads: HashSet<String>,
}

impl Settled {
    fn accepted(&mut self, pushes: &[Push]) {
        for push in pushes {
            self.ids.insert(id(push));
            self.payloads.extend(payloads(push));
        }
    }

    fn check(&self, pushes: &[Push]) {
        for push in pushes {
            assert!(!self.ids.contains(&id(push)), "{} had settled, and comes again", id(push));
            let again = payloads(push).into_iter().find(|payload| self.payloads.contains(payload));
            assert_eq!(again, None, "it had settled, and comes again in {}", id(push));
        }
    }
}

fn id(push: &Push) -> String {
    push.header("webhook-id").to_owned()
}

/// Numbers that tell each packet from every other.
fn sick(number: &mut u64, count: usize) -> Vec<(String, Vec<u8>)> {
    let first = *number;
    *number += count as u64;
    packets("sick/1", (first..*number).map(|number| format!("sick {number}")))
}

/// Where live reading began, as the process told it.
fn head(pushline: &Pushline) -> u64 {
    let log = pushline.log();
    let line = log.lines().find(|line| line.contains("partition started")).unwrap();
    line.split("live_offset=").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap()
}

/// What has settled by now, once a checkpoint that was begun later is saved: what one customer accepted, and what of the other is dead letters.
async fn settled(pushline: &Pushline, fine: &mut Inbox, before: Vec<Push>) -> Settled {
    let mut settled = Settled::default();
    settled.accepted(&before);
    settled.accepted(&fine.rest(Duration::ZERO).await);
    let accepted = settled.payloads.len() as f64;
    pushline.until_metric("pushline_packets_delivered_total", "", |delivered| delivered >= accepted).await;
    let dead = pushline.dead_letters("dead-letters").await;
    pushline.until_metric("pushline_packets_dead_lettered_total", "no_response", |count| count >= dead.len() as f64).await;
    settled.ids.extend(dead.iter().filter_map(|letter| letter.message_id.clone()));
    settled
        .payloads
        .extend(dead.iter().map(|letter| String::from_utf8(base64_simd::STANDARD.decode_to_vec(&letter.payload).unwrap()).unwrap()));
    assert!(accepted >= 100.0 && dead.len() >= 10, "{accepted} accepted, {} dead letters: this shows little", dead.len());
    // The first may have begun before.
    let saves = pushline.metric("pushline_checkpoint_saves_total", "").await;
    pushline.until_metric("pushline_checkpoint_saves_total", "", |now| now >= saves + 2.0).await;
    settled
}

#[tokio::test]
async fn a_backlog_for_a_dead_customer_survives_a_kill_in_its_middle_and_the_others_flow_at_once() {
    let backlog = amount(200_000, 2_000_000);
    let dir = folder();
    let mut fine = Inbox::start().await;
    let mut hanging = Inbox::behaving(Behaviour { hang: true, ..Behaviour::default() }).await;
    let configuration = format!(
        "{}{}{}{}",
        webhook("fine", &fine.url(), "window = \"100ms\""),
        webhook("hanging", &hanging.url(), "timeout = \"300ms\"\nretries = 1"),
        group("fine", "g", "fine"),
        group("sick", "g", "hanging")
    );
    let pushline = Pushline::start(BINARY, dir.path(), &Pushline::configuration(&configuration)).await;
    let mut gateway = Gateway::connect(pushline.mqtt, "g").await.unwrap();
    // The first half, with packets of the other customer all over it.
    let (part, mut number) = (backlog / 200, 0);
    for place in 0..100 {
        gateway.publish(&sick(&mut number, part)).await.unwrap();
        gateway.publish(&packets("fine/1", [format!("before {place}")])).await.unwrap();
    }
    let before = fine.packets(100).await;
    pushline.until_metric("pushline_packets_dead_lettered_total", "no_response", |packets| packets >= 10.0).await;

    // Killed in the middle of the other half.
    let more = tokio::spawn(async move {
        let mut place = 0;
        while gateway.publish(&sick(&mut number, part)).await.is_ok() {
            drop(gateway.publish(&packets("fine/1", [format!("during {place}")])).await);
            place += 1;
        }
        (gateway.acknowledged(), number)
    });
    pushline.until_metric("pushline_ingest_packets_total", "appended", |appended| appended >= 0.75 * backlog as f64).await;
    let settled = settled(&pushline, &mut fine, before).await;
    pushline.kill().await;
    let (acknowledged, mut number) = more.await.unwrap();
    // What came since then may come again.
    let unsaved: Vec<Push> = fine.rest(Duration::from_millis(100)).await;
    hanging.rest(Duration::from_millis(100)).await;

    let began = Instant::now();
    let pushline = timeout(READY, Pushline::start_again(BINARY, dir.path())).await.expect("it is ready before it has read the backlog");
    let ready = began.elapsed();
    assert!(head(&pushline) >= backlog as u64 / 2, "it reads the backlog anew, from {}", head(&pushline));
    let mut gateway = Gateway::connect(pushline.mqtt, "g").await.unwrap();
    gateway.publish(&packets("fine/1", ["after"])).await.unwrap();
    let mut after = Vec::new();
    while !after.last().is_some_and(|push| payloads(push).contains(&"after".to_owned())) {
        after.push(fine.next().await);
    }
    let flow = began.elapsed();
    let waiting = pushline.metric("pushline_queue_unsettled_packets", "").await;
    assert!(waiting > backlog as f64 / 2.0, "the others waited for the backlog: only {waiting} are left of it");
    settled.check(&after);
    settled.check(&[hanging.next().await]);
    println!(
        "{acknowledged} packets acknowledged, {} messages settled and {} not saved: ready {ready:.1?} after the start, the others flow after {flow:.1?}, {} came again",
        settled.ids.len(),
        unsaved.len(),
        after.len() - 1
    );
    // Nothing is lost: what has neither come nor is a dead letter waits.
    let came: HashSet<String> =
        unsaved.iter().flat_map(payloads).chain(settled.payloads.iter().filter(|payload| !payload.starts_with("sick")).cloned()).collect();
    let dead = pushline.dead_letters("dead-letters").await.len() as u64;
    let unsettled = pushline.metric("pushline_queue_unsettled_packets_at_start", "").await;
    assert!(unsettled + (came.len() as u64 + dead) as f64 >= acknowledged as f64, "{unsettled} {} {dead} of {acknowledged}", came.len());

    // The backlog goes on growing beside the others.
    while gateway.acknowledged() < (backlog as u64).saturating_sub(acknowledged) {
        gateway.publish(&sick(&mut number, part)).await.unwrap();
    }
    gateway.publish(&packets("fine/1", ["at the end"])).await.unwrap();
    let last = fine.next().await;
    assert_eq!(payloads(&last), ["at the end"]);
    settled.check(&[last]);
    settled.check(&hanging.rest(Duration::ZERO).await);
    pushline.kill().await;
}
