//! Servers that behave badly: each way with its outcome and its number of attempts (document rules 2 and 3).

use pushline_testkit::{DeadLetterLine, Gateway, Hostile, HostileReceiver, Pushline, folder};

use crate::{BINARY, group, packets, webhook};

#[tokio::test]
async fn each_hostile_behaviour_has_its_outcome_and_its_number_of_attempts() {
    let dir = folder();
    let options = "timeout = \"1s\"\nretry_delays = [\"50ms\", \"100ms\"]";
    let (mut receivers, mut configuration) = (Vec::new(), String::new());
    for (number, hostile) in Hostile::ALL.into_iter().enumerate() {
        let receiver = HostileReceiver::start(hostile).await;
        configuration += &webhook(&format!("w{number}"), &receiver.url(), options);
        receivers.push((hostile, receiver));
    }
    for number in 0..Hostile::ALL.len() {
        configuration += &group(&format!("o{number}"), "g", &format!("w{number}"));
    }
    let pushline = Pushline::start(BINARY, dir.path(), &Pushline::configuration(&configuration)).await;
    let mut gateway = Gateway::connect(pushline.mqtt, "g").await.unwrap();
    for number in 0..Hostile::ALL.len() {
        gateway.publish(&packets(&format!("o{number}/1"), [format!("{:?}", Hostile::ALL[number])])).await.unwrap();
    }
    pushline.until_quiet().await;

    let dead = pushline.dead_letters("dead-letters").await;
    for (hostile, receiver) in &receivers {
        let (expected, attempts) = hostile.expected();
        let payload = base64(format!("{hostile:?}").as_bytes());
        let letter: Option<&DeadLetterLine> = dead.iter().find(|letter| letter.payload == payload);
        let found = letter.map(|letter| (letter.cause.as_str(), letter.status));
        assert_eq!(found, expected, "{hostile:?}");
        letter.iter().for_each(|letter| assert_eq!(letter.attempts, attempts, "{hostile:?}"));
        let seen = receiver.attempts();
        match hostile {
            Hostile::Refuses => assert!(seen.is_empty()),
            _ => assert_eq!(seen.into_values().collect::<Vec<_>>(), [attempts], "{hostile:?}: one message, under one id"),
        }
        if *hostile == Hostile::HugeError {
            assert_eq!(letter.unwrap().response, "x".repeat(2048), "the first 2 KiB are kept");
        }
    }
    assert_eq!(pushline.metric("pushline_packets_delivered_total", "").await, 5.0);
    assert_eq!(pushline.metric("pushline_packets_dead_lettered_total", "error_response").await, 4.0);
    assert_eq!(pushline.metric("pushline_packets_dead_lettered_total", "no_response").await, 9.0);
}

#[tokio::test]
async fn a_connection_whose_server_never_read_the_last_request_is_not_used_again() {
    let dir = folder();
    let receiver = HostileReceiver::start(Hostile::NeverReads).await;
    // Larger than what two sockets take in between.
    let options = "max_packets = 1\nmax_body_bytes = \"32MiB\"";
    let configuration = format!("{}{}", webhook("w", &receiver.url(), options), group("mti", "g", "w"));
    let configuration =
        Pushline::configuration(&configuration).replace("[mqtt.listener]\n", "[mqtt.listener]\nmax_payload_bytes = \"32MiB\"\n");
    let pushline = Pushline::start(BINARY, dir.path(), &configuration).await;
    let mut gateway = Gateway::connect(pushline.mqtt, "g").await.unwrap();
    gateway.publish(&packets("mti/1", [vec![b'x'; 20 << 20]])).await.unwrap();
    pushline.until_metric("pushline_packets_dead_lettered_total", "error_response", |count| count == 1.0).await;
    gateway.publish(&packets("mti/1", ["small"])).await.unwrap();
    pushline.until_metric("pushline_packets_dead_lettered_total", "error_response", |count| count == 2.0).await;
    assert_eq!(receiver.attempts().len(), 2, "each on a connection of its own");
    pushline.kill().await;
}

#[tokio::test]
async fn an_address_that_may_not_be_dialled_is_a_dead_letter_without_retry() {
    let dir = folder();
    let configuration = format!(
        "{}{}{}{}",
        webhook("w", "http://127.0.0.1:9/", ""),
        webhook("v", "http://[::ffff:169.254.169.254]/", ""),
        group("mti", "g", "w"),
        group("oti", "g", "v")
    );
    let configuration = Pushline::configuration(&configuration).replace("allow = [\"127.0.0.0/8\"]", "allow = []");
    let pushline = Pushline::start(BINARY, dir.path(), &configuration).await;
    let mut gateway = Gateway::connect(pushline.mqtt, "g").await.unwrap();
    gateway.publish(&[("mti/1".into(), b"a".to_vec()), ("oti/1".into(), b"b".to_vec())]).await.unwrap();
    pushline.until_metric("pushline_packets_dead_lettered_total", "blocked_address", |count| count == 2.0).await;
    for letter in pushline.dead_letters("dead-letters").await {
        assert_eq!((letter.cause.as_str(), letter.attempts), ("blocked_address", 1));
        assert!(letter.response.contains("[egress] allow"), "{}", letter.response);
    }
}

fn base64(bytes: &[u8]) -> String {
    base64_simd::STANDARD.encode_to_string(bytes)
}
