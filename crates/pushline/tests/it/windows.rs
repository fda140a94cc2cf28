//! Windows and chunks (document rule 1), with `mosquitto_pub` and a client library of another make.

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use pushline_testkit::{Gateway, Inbox, Push, Pushline, folder, mosquitto_pub, payloads};
use rumqttc::{AsyncClient, Event, MqttOptions, Packet, QoS};
use tokio::time::{Instant, sleep};

use crate::{BINARY, group, packets, start_with_inbox, webhook};

fn shape(push: &Push) -> (usize, bool) {
    (payloads(push).len(), push.body.starts_with(b"["))
}

/// Starts one group for each burst, publishes each burst at once, and tells each group's messages.
async fn bursts(counts: &[usize]) -> Vec<Vec<(usize, bool)>> {
    let dir = folder();
    let mut inbox = Inbox::start().await;
    let groups: String = (0..counts.len()).map(|number| group(&format!("o{number}"), "g", "w")).collect();
    let pushline =
        Pushline::start(BINARY, dir.path(), &Pushline::configuration(&format!("{}{groups}", webhook("w", &inbox.url(), "")))).await;
    let mut gateway = Gateway::connect(pushline.mqtt, "g").await.unwrap();
    for (number, &count) in counts.iter().enumerate() {
        gateway.publish(&packets(&format!("o{number}/1"), (0..count).map(|place| format!("{number} {place}")))).await.unwrap();
    }
    let mut messages = vec![Vec::new(); counts.len()];
    let mut next = vec![0; counts.len()];
    for push in inbox.packets(counts.iter().sum()).await {
        let group: usize = payloads(&push)[0].split(' ').next().unwrap().parse().unwrap();
        messages[group].push((shape(&push), payloads(&push)));
        next[group] += 1;
    }
    messages
        .into_iter()
        .enumerate()
        .map(|(group, mut its)| {
            // With sixteen in flight they may arrive in any order; together they are the burst.
            its.sort_by_key(|(_, payloads)| payloads[0].split(' ').nth(1).unwrap().parse::<usize>().unwrap());
            let all: Vec<String> = its.iter().flat_map(|(_, payloads)| payloads.clone()).collect();
            assert_eq!(all, (0..counts[group]).map(|place| format!("{group} {place}")).collect::<Vec<_>>(), "groups never mix");
            its.into_iter().map(|(shape, _)| shape).collect()
        })
        .collect()
}

#[tokio::test]
async fn one_two_ten_eleven_and_twenty_five_packets_at_once() {
    let expected: [&[(usize, bool)]; 5] =
        [&[(1, false)], &[(2, true)], &[(10, true)], &[(10, true), (1, true)], &[(10, true), (10, true), (5, true)]];
    assert_eq!(bursts(&[1, 2, 10, 11, 25]).await, expected);
}

#[tokio::test]
async fn packets_715_ms_apart_share_an_array_and_1_2_s_apart_do_not() {
    let dir = folder();
    let (pushline, mut inbox) = start_with_inbox(dir.path(), "").await;
    let publish = |payload| {
        let server = pushline.mqtt;
        async move { assert!(mosquitto_pub(server, &["-q", "1", "-t", "mti/1", "-m", payload]).await.0) }
    };
    for tries in 1.. {
        let began = Instant::now();
        publish("a").await;
        sleep(Duration::from_millis(715)).await;
        publish("b").await;
        let took = began.elapsed();
        let pushes = inbox.packets(2).await;
        // They came within one window for sure; a machine that paused for longer made another case of it.
        if took < Duration::from_secs(1) {
            let together: Vec<_> = pushes.iter().map(|push| (shape(push), payloads(push))).collect();
            assert_eq!(together, [((2, true), vec!["a".into(), "b".into()])], "{took:?}");
            break;
        }
        assert!(tries < 20, "the machine never published two packets within a window: {took:?}");
    }
    publish("c").await;
    sleep(Duration::from_millis(1200)).await;
    publish("d").await;
    assert_eq!((shape(&inbox.next().await), shape(&inbox.next().await)), ((1, false), (1, false)));
}

#[tokio::test]
async fn a_thousand_groups_at_once_keep_their_windows() {
    let dir = folder();
    let mut inbox = Inbox::start().await;
    let groups: String = (0..1000).map(|number| group(&format!("o{number}"), "g", "w")).collect();
    let configuration = Pushline::configuration(&format!("{}{groups}", webhook("w", &inbox.url(), "")));
    let pushline = Pushline::start(BINARY, dir.path(), &configuration).await;
    let mut gateway = Gateway::connect(pushline.mqtt, "g").await.unwrap();
    // Three packets of each group, one round after the other.
    let all: Vec<(String, Vec<u8>)> =
        (0..3).flat_map(|round| (0..1000).map(move |number| (format!("o{number}/1"), format!("{number} {round}").into_bytes()))).collect();
    gateway.publish(&all).await.unwrap();
    let mut by_group: BTreeMap<String, Vec<Push>> = BTreeMap::new();
    for push in inbox.packets(3000).await {
        let groups: HashSet<String> = payloads(&push).iter().map(|payload| payload.split(' ').next().unwrap().to_owned()).collect();
        assert_eq!(groups.len(), 1, "groups never mix");
        by_group.entry(groups.into_iter().next().unwrap()).or_default().push(push);
    }
    assert_eq!(by_group.len(), 1000);
    for (group, pushes) in by_group {
        let together: usize = pushes.iter().map(|push| payloads(push).len()).sum();
        assert_eq!(together, 3, "{group}");
    }
}

#[tokio::test]
async fn a_client_of_another_make_has_each_packet_acknowledged_and_pushed() {
    let dir = folder();
    let (pushline, mut inbox) = start_with_inbox(dir.path(), "").await;
    let mut options = MqttOptions::new("rumqttc", "127.0.0.1", pushline.mqtt.port());
    options.set_keep_alive(Duration::from_secs(5)).set_max_packet_size(1 << 20, 1 << 20);
    let (client, mut events) = AsyncClient::new(options, 100);
    for number in 0..40 {
        client.publish("mti/897612653856781234", QoS::AtLeastOnce, false, format!("{number}")).await.unwrap();
    }
    let mut acknowledged = 0;
    while acknowledged < 40 {
        if let Event::Incoming(Packet::PubAck(_)) = events.poll().await.unwrap() {
            acknowledged += 1;
        }
    }
    let arrived: HashSet<String> = inbox.packets(40).await.iter().flat_map(payloads).collect();
    assert_eq!(arrived, (0..40).map(|number| number.to_string()).collect());
}
