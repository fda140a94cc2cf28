//! What came in is what went out: the identity of the metrics on a quiet system.

use pushline_testkit::{Behaviour, Gateway, Inbox, Pushline, folder};

use crate::{BINARY, group, packets, webhook};

#[tokio::test]
async fn what_came_in_is_delivered_a_dead_letter_or_unsettled() {
    let dir = folder();
    let fine = Inbox::start().await;
    let failing = Inbox::behaving(Behaviour { status: 500, every: 2, ..Behaviour::default() }).await;
    let hanging = Inbox::behaving(Behaviour { hang: true, ..Behaviour::default() }).await;
    let configuration = format!(
        "{}{}{}{}{}{}[[groups]]\norg = \"bare\"\nname = \"g\"\ndefault = true\n",
        webhook("fine", &fine.url(), ""),
        webhook("failing", &failing.url(), ""),
        webhook("hanging", &hanging.url(), ""),
        group("a", "g", "fine"),
        group("b", "g", "failing"),
        group("c", "g", "hanging"),
    );
    let mut pushline = Pushline::start(BINARY, dir.path(), &Pushline::configuration(&configuration).replace("\"10s\"", "\"100ms\"")).await;
    let mut before = 0.0;
    for round in 0..3 {
        let mut gateway = Gateway::connect(pushline.mqtt, "g").await.unwrap();
        for org in ["a", "b", "c", "bare", "none"] {
            gateway.publish(&packets(&format!("{org}/1"), (0..37).map(|number| number.to_string()))).await.unwrap();
        }
        // Nothing moves any more but what hangs: 37 packets a round, for 90 s.
        pushline.until_metric("pushline_queue_unsettled_packets", "", |unsettled| unsettled == before + 37.0).await;
        let all = pushline.metrics().await;
        let sum = |name: &str, label: &str| -> f64 {
            all.iter().filter(|(key, _)| key.split('{').next() == Some(name) && key.contains(label)).map(|(_, value)| value).sum()
        };
        let came_in = sum("pushline_queue_unsettled_packets_at_start", "")
            + ["appended", "unrouted", "no_webhook"]
                .map(|result| sum("pushline_ingest_packets_total", &format!("\"{result}\"")))
                .iter()
                .sum::<f64>();
        let went_out = sum("pushline_packets_delivered_total", "")
            + sum("pushline_packets_dead_lettered_total", "")
            + sum("pushline_queue_unsettled_packets", "");
        assert_eq!(came_in, went_out, "round {round}");
        assert_eq!(sum("pushline_packets_dead_lettered_total", "unrouted"), 37.0);
        assert_eq!(sum("pushline_packets_dead_lettered_total", "no_webhook"), 37.0);
        before += 37.0;
        pushline.terminate().await;
        pushline = Pushline::start_again(BINARY, dir.path()).await;
        assert_eq!(pushline.metric("pushline_queue_unsettled_packets_at_start", "").await, before);
    }
}
