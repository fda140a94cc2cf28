//! How a process ends: what it waits for, and what not.

use std::time::Duration;

use pushline_testkit::{Arrival, Gateway, PATIENCE, Pushline, ScriptedReceiver, folder};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};

use crate::{BINARY, group, packets, webhook};

/// A process whose shutdown waits for longer than a test does, and a customer that closes so many connections and hangs from then on. With what arrives there.
async fn start(dir: &std::path::Path, closes: usize) -> (Pushline, mpsc::Receiver<Arrival>, ScriptedReceiver) {
    let (arrived, arrivals) = mpsc::channel(1000);
    let receiver = ScriptedReceiver::start(move |arrival: Arrival| {
        let hangs = arrival.connection > closes;
        arrived.try_send(arrival).unwrap();
        async move { if hangs { std::future::pending().await } else { None } }
    });
    let receiver = receiver.await;
    let configuration = format!("{}{}", webhook("w", &receiver.url(), "retry_delays = [\"10ms\"]"), group("mti", "g", "w"));
    let pushline = Pushline::start(BINARY, dir, &Pushline::configuration(&configuration).replace("\"10s\"", "\"10m\"")).await;
    Gateway::connect(pushline.mqtt, "g").await.unwrap().publish(&packets("mti/1", ["a"])).await.unwrap();
    (pushline, arrivals, receiver)
}

async fn next(arrivals: &mut mpsc::Receiver<Arrival>) -> Arrival {
    timeout(PATIENCE, arrivals.recv()).await.expect("an attempt arrives").unwrap()
}

/// SIGTERM, and waits until the shutdown has begun.
async fn begin_to_stop(pushline: &Pushline) {
    pushline.signal(Signal::TERM);
    let begun = async {
        while !pushline.log().contains("no more packets are accepted") {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, begun).await.expect("it begins to shut down");
}

/// Sends signals until the process has ended: the first of them may come within a second of the one that began the shutdown.
async fn stopped_at_once(pushline: Pushline) -> (bool, String) {
    let pid = i32::try_from(pushline.pid()).ok().and_then(Pid::from_raw).expect("a process has an id");
    let mut ended = std::pin::pin!(pushline.ended());
    loop {
        tokio::select! {
            ended = &mut ended => return ended,
            () = sleep(Duration::from_millis(100)) => kill_process(pid, Signal::TERM).expect("a child that wasn't waited for can be signalled"),
        }
    }
}

#[tokio::test]
async fn an_unresponsive_webhook_is_not_waited_for_and_has_its_message_again_after_the_start() {
    let dir = folder();
    let (pushline, mut arrivals, _receiver) = start(dir.path(), 1).await;
    let first = next(&mut arrivals).await;
    assert_eq!(next(&mut arrivals).await.id, first.id, "the second attempt, which hangs for 90 s");
    pushline.until_metric("pushline_webhooks_unresponsive", "", |unresponsive| unresponsive == 1.0).await;
    assert_eq!(pushline.metric("pushline_deliver_in_flight", "").await, 1.0);
    let log = pushline.terminate().await;
    assert!(!log.contains("the grace is over"), "{log}");
    let pushline = Pushline::start_again(BINARY, dir.path()).await;
    assert_eq!(next(&mut arrivals).await.id, first.id);
    pushline.kill().await;
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once_and_nothing_is_lost() {
    let dir = folder();
    let (pushline, mut arrivals, _receiver) = start(dir.path(), 0).await;
    let first = next(&mut arrivals).await;
    begin_to_stop(&pushline).await;
    let (ended_well, log) = stopped_at_once(pushline).await;
    assert!(!ended_well && log.contains("stopped at once by a second signal") && !log.contains("no more messages are in flight"), "{log}");
    let pushline = Pushline::start_again(BINARY, dir.path()).await;
    let again = next(&mut arrivals).await;
    assert_eq!((again.id, again.payloads), (first.id, first.payloads));
    pushline.kill().await;
}

#[tokio::test]
async fn two_signals_within_a_moment_are_one() {
    let dir = folder();
    let (pushline, mut arrivals, receiver) = start(dir.path(), 0).await;
    next(&mut arrivals).await;
    begin_to_stop(&pushline).await;
    pushline.signal(Signal::TERM);
    // Ends the attempt that the shutdown waits for.
    drop(receiver);
    let (ended_well, log) = pushline.ended().await;
    assert!(ended_well && log.contains("no more messages are in flight"), "{log}");
}
