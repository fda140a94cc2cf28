//! A customer's server delays no other customer.

use std::{collections::HashSet, time::Duration};

use pushline_testkit::{Behaviour, Gateway, Inbox, PATIENCE, Pushline, Receiver, folder, payloads};
use tokio::time::{sleep, timeout};

use crate::{BINARY, group, packets, webhook};

const HANGS: Behaviour = Behaviour { status: 200, delay: Duration::ZERO, hang: true, every: 1 };

#[tokio::test]
async fn a_hanging_customer_costs_one_connection_and_gets_what_waited_in_order_when_it_is_back() {
    let dir = folder();
    let mut fine = Inbox::start().await;
    let hanging = Receiver::start(([127, 0, 0, 1], 0).into(), HANGS, drop).await.unwrap();
    let address = hanging.address();
    let healthy: String = (0..30).map(|number| group(&format!("o{number}"), "g", "fine")).collect();
    let options = "timeout = \"1s\"\nconcurrency = 8\norder = \"strict\"";
    let configuration = format!(
        "{}{}{healthy}{}",
        webhook("fine", &fine.url(), "window = \"100ms\""),
        webhook("hanging", &format!("http://{address}/"), options),
        group("sick", "g", "hanging")
    );
    let pushline = Pushline::start(BINARY, dir.path(), &Pushline::configuration(&configuration)).await;
    let mut gateway = Gateway::connect(pushline.mqtt, "g").await.unwrap();
    gateway.publish(&packets("sick/1", (0..300).map(|number| format!("{number:03}")))).await.unwrap();
    pushline.until_metric("pushline_webhooks_unresponsive", "", |unresponsive| unresponsive == 1.0).await;
    for number in 0..30 {
        gateway.publish(&packets(&format!("o{number}/1"), (0..40).map(|packet| format!("{number} {packet}")))).await.unwrap();
    }
    let arrived: HashSet<String> = fine.packets(1200).await.iter().flat_map(payloads).collect();
    assert_eq!(arrived.len(), 1200, "the others have all of theirs");
    // Once the others have their answers, only the connection of the unresponsive one is left.
    pushline.until_metric("pushline_deliver_in_flight", "", |in_flight| in_flight <= 1.0).await;

    // It is back, at the same address.
    drop(hanging);
    let (sender, mut back) = tokio::sync::mpsc::channel(1000);
    let receive = move |push| sender.try_send(push).unwrap();
    let back_again = async {
        loop {
            // The port is free once the last connection of the old one is closed.
            match Receiver::start(address, Behaviour::default(), receive.clone()).await {
                Ok(receiver) => break receiver,
                Err(_) => sleep(Duration::from_millis(20)).await,
            }
        }
    };
    let _back = timeout(PATIENCE, back_again).await.expect("the port becomes free");
    pushline.until_quiet().await;
    let mut came = Vec::new();
    while let Ok(push) = back.try_recv() {
        came.extend(payloads(&push));
    }
    let dead = pushline.dead_letters("dead-letters").await;
    assert_eq!(came.len() + dead.len(), 300, "{} came, {} are dead letters", came.len(), dead.len());
    assert!(!came.is_empty() && came.is_sorted(), "in order of starting");
    pushline.until_metric("pushline_webhooks_unresponsive", "", |unresponsive| unresponsive == 0.0).await;
    pushline.until_metric("pushline_lanes", "", |lanes| lanes == 0.0).await;
}

#[tokio::test]
async fn a_thousand_hanging_webhooks_stay_within_the_memory_budget_and_a_new_customer_is_served() {
    const WEBHOOKS: usize = 1000;
    let dir = folder();
    let mut fine = Inbox::start().await;
    let hanging = Receiver::start(([127, 0, 0, 1], 0).into(), HANGS, drop).await.unwrap();
    let url = format!("http://{}/", hanging.address());
    let mut configuration = webhook("fine", &fine.url(), "") + &group("fine", "g", "fine");
    for number in 0..WEBHOOKS {
        configuration += &webhook(&format!("w{number}"), &url, "concurrency = 4");
        configuration += &group(&format!("o{number}"), "g", &format!("w{number}"));
    }
    let pushline = Pushline::start(BINARY, dir.path(), &Pushline::configuration(&configuration)).await;
    let mut gateway = Gateway::connect(pushline.mqtt, "g").await.unwrap();
    // 800 MB, six times the memory budget.
    let payload = "p".repeat(20_000);
    for _ in 0..40 {
        let round: Vec<(String, Vec<u8>)> = (0..WEBHOOKS).map(|number| (format!("o{number}/1"), payload.clone().into_bytes())).collect();
        gateway.publish(&round).await.unwrap();
    }
    gateway.publish(&packets("fine/1", ["hello"])).await.unwrap();
    assert_eq!(payloads(&fine.next().await), ["hello"]);
    // The memory budget (128 MiB), an open message for each webhook (200 kB each: a begun message is finished), what isn't durable yet (64 MiB), the log's
    // tail (16 MiB), and two hundred for four thousand connections and the process itself.
    let resident = pushline.resident();
    assert!(resident < (128 + 191 + 64 + 16 + 200) << 20, "{} MiB resident", resident >> 20);
    assert!(pushline.metric("pushline_lanes", "behind").await > 0.0);
    pushline.kill().await;
}
