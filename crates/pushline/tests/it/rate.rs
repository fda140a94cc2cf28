//! A webhook's rate (docs/delivery.md, Rate limit).

use pushline_testkit::{Gateway, Inbox, Pushline, folder, payloads};

use crate::{BINARY, group, packets, webhook};

/// Messages of another webhook, one after the other, while the second message of the slow one may not start.
const MEANWHILE: usize = 30;

fn webhooks(slow: &Inbox, fast: &Inbox, rate: &str) -> String {
    let slow = webhook("slow", &slow.url(), &format!("max_packets = 1\nwindow = \"10ms\"\n{rate}"));
    slow + &webhook("fast", &fast.url(), "window = \"10ms\"") + &group("slow", "g", "slow") + &group("fast", "g", "fast")
}

#[tokio::test]
async fn a_message_beyond_the_rate_waits_while_other_webhooks_go_on_and_goes_out_when_the_rate_is_taken_away() {
    let (dir, mut slow, mut fast) = (folder(), Inbox::start().await, Inbox::start().await);
    let configuration = Pushline::configuration(&webhooks(&slow, &fast, "rate = \"1/h\""));
    let pushline = Pushline::start(BINARY, dir.path(), &configuration).await;
    let mut gateway = Gateway::connect(pushline.mqtt, "g").await.unwrap();
    gateway.publish(&packets("slow/1", ["first", "second"])).await.unwrap();
    assert_eq!(payloads(&slow.next().await), ["first"]);
    for number in 0..MEANWHILE {
        gateway.publish(&packets("fast/1", [number.to_string()])).await.unwrap();
        assert_eq!(payloads(&fast.next().await), [number.to_string()]);
    }
    assert!(slow.rest(std::time::Duration::ZERO).await.is_empty(), "the second may start in an hour");
    pushline.until_metric("pushline_deliver_in_flight", "", |in_flight| in_flight == 0.0).await;

    std::fs::write(dir.path().join("pushline.toml"), Pushline::configuration(&webhooks(&slow, &fast, ""))).unwrap();
    pushline.hang_up();
    assert_eq!(payloads(&slow.next().await), ["second"]);
}
