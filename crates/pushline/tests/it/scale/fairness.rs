//! Webhooks that share a host (docs/responses.md, Fairness): some paths of it hang, and the others don't wait for them.

use std::collections::HashSet;

use pushline_testkit::{Gateway, PATIENCE, folder};
use tokio::time::{sleep, timeout};

use super::{customer, receiver::SharedReceiver, start};
use crate::packets;

/// What the host may have. The hanging webhooks would take three times as many.
const CONNECTIONS: usize = 40;
const HANGING: usize = 8;
const HEALTHY: usize = 60;

/// Messages of each webhook: as many as it may have in flight.
const MESSAGES: usize = 16;

#[tokio::test]
async fn webhooks_of_a_host_get_all_of_theirs_while_others_of_it_hang() {
    let (dir, receiver) = (folder(), SharedReceiver::start().await);
    let mut configuration = String::new();
    for number in 0..HANGING {
        configuration += &customer(&format!("h{number}"), &receiver.url("hang"), "timeout = \"1h\"\nmax_packets = 1");
    }
    for number in 0..HEALTHY {
        configuration += &customer(&format!("o{number}"), &receiver.url("fine"), "max_packets = 1");
    }
    let pushline = start(dir.path(), &configuration, CONNECTIONS).await;
    let mut gateway = Gateway::connect(pushline.mqtt, "g").await.unwrap();
    let of =
        |kind: &str, number: usize| packets(&format!("{kind}{number}/1"), (0..MESSAGES).map(|message| format!("{kind}{number} {message}")));
    for number in 0..HANGING {
        gateway.publish(&of("h", number)).await.unwrap();
    }
    pushline.until_metric("pushline_deliver_in_flight", "", |in_flight| in_flight == (HANGING * MESSAGES) as f64).await;
    for number in 0..HEALTHY {
        gateway.publish(&of("o", number)).await.unwrap();
    }
    let all_arrived = async {
        while receiver.arrived("fine").len() < HEALTHY * MESSAGES {
            sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    let is_in_time = timeout(PATIENCE, all_arrived).await.is_ok();
    let arrived = receiver.arrived("fine");
    assert!(is_in_time, "{} packets came", arrived.len());
    assert_eq!(arrived.iter().collect::<HashSet<_>>().len(), HEALTHY * MESSAGES);
    // A healthy one's last response may be on its way.
    pushline.until_metric("pushline_deliver_in_flight", "", |in_flight| in_flight == (HANGING * MESSAGES) as f64).await;
    assert_eq!(pushline.metric("pushline_webhooks_unresponsive", "").await, 0.0, "the others still hang");
    pushline.kill().await;
}
