//! The listener on raw sockets: what clients get that send what they shouldn't, in the protocol's own words.

use std::{net::SocketAddr, process::Stdio, time::Duration};

use pushline_testkit::{Gateway, Inbox, Pushline, folder, get, mosquitto_pub};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::{BINARY, command, group, packets, start_with_inbox, webhook};

const CONNECT_V3: &[u8] = b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01d";
const CONNECT_V5: &[u8] = b"\x10\x0e\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x01d";

/// What the server says to these bytes until it closes the connection, or says nothing for a while.
async fn talk(server: SocketAddr, bytes: &[u8]) -> (Vec<u8>, bool) {
    let mut stream = TcpStream::connect(server).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    loop {
        match timeout(Duration::from_millis(700), stream.read_buf(&mut answer)).await {
            Ok(Ok(0) | Err(_)) => return (answer, true),
            Ok(Ok(_)) => {}
            Err(_) => return (answer, false),
        }
    }
}

/// What follows the CONNACK.
fn after_connack(answer: &[u8]) -> &[u8] {
    assert_eq!((answer[0], answer[3]), (0x20, 0), "{answer:x?}");
    &answer[2 + usize::from(answer[1])..]
}

#[tokio::test]
async fn what_is_wrong_is_refused_with_the_protocols_own_reason() {
    let dir = folder();
    let (pushline, _inbox) = start_with_inbox(dir.path(), "").await;
    for (what, bytes, reason) in [
        ("malformed", &b"\x30\x05\x00\x09o/1"[..], 0x81),
        ("a second CONNECT", CONNECT_V5, 0x82),
        ("a wildcard in a topic name", b"\x30\x08\x00\x05mti/+\x00", 0x90),
        ("a topic alias", b"\x30\x0b\x00\x05mti/1\x03\x23\x00\x01", 0x94),
        ("too large", b"\x30\xff\xff\xff\x7f", 0x95),
    ] {
        let (answer, closed) = talk(pushline.mqtt, &[CONNECT_V5, bytes].concat()).await;
        assert_eq!((after_connack(&answer), closed), (&[0xe0, 2, reason, 0][..], true), "{what}");
        let (answer, closed) = talk(pushline.mqtt, &[CONNECT_V3, bytes].concat()).await;
        if what != "a topic alias" {
            assert_eq!((after_connack(&answer), closed), (&[][..], true), "{what}: MQTT 3.1.1 is just closed");
        }
    }
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"\x00\x00", b"\xff\xff\xff\xff\xff\xff", b"\x30\x00"] {
        let (answer, closed) = talk(pushline.mqtt, garbage).await;
        assert_eq!((answer.as_slice(), closed), (&[][..], true), "{garbage:x?}");
    }
    let (answer, closed) = talk(pushline.mqtt, b"\x10\x0e\x00\x04MQTT\x06\x02\x00\x3c\x00\x00\x01d").await;
    assert_eq!((answer.as_slice(), closed), (&[0x20, 2, 0, 1][..], true), "an unknown version");
    for malformed in [&b"\x10\x07\x00\x04MQTT\x05"[..], b"\x10\x0e\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x05d"] {
        let (answer, closed) = talk(pushline.mqtt, malformed).await;
        assert_eq!((answer.as_slice(), closed), (&[0x20, 3, 0, 0x81, 0][..], true), "an MQTT 5 client hears it in its own words");
    }
    assert!(pushline.metric("pushline_ingest_packets_total", "refused_malformed").await >= 2.0);
}

#[tokio::test]
async fn connack_says_what_mqtt_5_clients_cannot_have() {
    let dir = folder();
    let refusing = Pushline::configuration("").replace("[[mqtt.listeners]]\n", "[[mqtt.listeners]]\nsubscriptions = \"refuse\"\n");
    let pushline = Pushline::start(BINARY, dir.path(), &refusing).await;
    let (answer, _) = talk(pushline.mqtt, CONNECT_V5).await;
    let properties = &answer[5..];
    for (name, property) in [("no wildcards", &[0x28, 0][..]), ("no shared subscriptions", &[0x2a, 0])] {
        assert!(properties.windows(property.len()).any(|window| window == property), "{name}: {properties:x?}");
    }
    assert_eq!(answer[2], 0, "no session is present");
    // An empty client id is given one; MQTT 3.1.1 without a clean session is refused.
    let (answer, _) = talk(pushline.mqtt, b"\x10\x0d\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x00").await;
    assert!(answer.windows(9).any(|window| window == b"pushline-"));
    let (answer, closed) = talk(pushline.mqtt, b"\x10\x0d\x00\x04MQTT\x05\x00\x00\x3c\x00\x00\x00").await;
    assert!(!closed && answer.windows(9).any(|window| window == b"pushline-"), "without a clean start too: {answer:x?}");
    let (answer, closed) = talk(pushline.mqtt, b"\x10\x0c\x00\x04MQTT\x04\x00\x00\x3c\x00\x00").await;
    assert_eq!((answer.as_slice(), closed), (&[0x20, 2, 0, 2][..], true));
}

#[tokio::test]
async fn subscribe_is_granted_and_ping_is_answered_as_each_version_provides() {
    let dir = folder();
    let (pushline, _inbox) = start_with_inbox(dir.path(), "").await;
    let v3 = [CONNECT_V3, b"\x82\x06\x00\x07\x00\x01a\x01", b"\xa2\x05\x00\x08\x00\x01a", b"\xc0\x00"].concat();
    let (answer, closed) = talk(pushline.mqtt, &v3).await;
    assert_eq!((after_connack(&answer), closed), (&b"\x90\x03\x00\x07\x01\xb0\x02\x00\x08\xd0\x00"[..], false));
    let v5 = [CONNECT_V5, b"\x82\x07\x00\x07\x00\x00\x01a\x01", b"\xa2\x06\x00\x08\x00\x00\x01a", b"\xc0\x00"].concat();
    let (answer, closed) = talk(pushline.mqtt, &v5).await;
    assert_eq!((after_connack(&answer), closed), (&b"\x90\x04\x00\x07\x00\x01\xb0\x04\x00\x08\x00\x00\xd0\x00"[..], false));
}

#[tokio::test]
async fn a_second_connection_of_a_client_id_takes_the_session_over() {
    let dir = folder();
    let (pushline, _inbox) = start_with_inbox(dir.path(), "").await;
    let mut first = TcpStream::connect(pushline.mqtt).await.unwrap();
    first.write_all(CONNECT_V5).await.unwrap();
    let mut connack = [0; 2];
    first.read_exact(&mut connack).await.unwrap();
    let (answer, closed) = talk(pushline.mqtt, CONNECT_V5).await;
    assert_eq!((after_connack(&answer), closed), (&[][..], false));
    let mut rest = Vec::new();
    first.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest[usize::from(connack[1])..], [0xe0, 2, 0x8e, 0]);
}

#[tokio::test]
async fn a_client_that_is_silent_for_one_and_a_half_keep_alives_is_closed() {
    let dir = folder();
    let (pushline, _inbox) = start_with_inbox(dir.path(), "").await;
    let mut stream = TcpStream::connect(pushline.mqtt).await.unwrap();
    // Keep-alive of one second.
    stream.write_all(b"\x10\x0e\x00\x04MQTT\x05\x02\x00\x01\x00\x00\x01k").await.unwrap();
    let mut answer = Vec::new();
    timeout(Duration::from_secs(20), stream.read_to_end(&mut answer)).await.unwrap().unwrap();
    assert_eq!(after_connack(&answer), [0xe0, 2, 0x8d, 0]);
}

#[tokio::test]
async fn what_nobody_wants_is_kept_and_acknowledged() {
    let dir = folder();
    let (pushline, _inbox) = start_with_inbox(dir.path(), "").await;
    let publish = b"\x32\x0d\x00\x08nobody/1\x00\x07\x00";
    let (answer, _) = talk(pushline.mqtt, &[CONNECT_V5, publish].concat()).await;
    assert_eq!(after_connack(&answer), [0x40, 3, 0, 7, 0x10]);
    assert!(mosquitto_pub(pushline.mqtt, &["-q", "1", "-t", "no/pattern/here", "-m", "x"]).await.0);
    let unrouted = pushline.dead_letters("unrouted").await;
    assert_eq!(unrouted.iter().map(|letter| letter.cause.as_str()).collect::<Vec<_>>(), ["unrouted", "unrouted"]);
}

#[tokio::test]
async fn qos_0_is_pushed_too_and_thousands_in_flight_are_acknowledged_in_order() {
    let dir = folder();
    let (pushline, mut inbox) = start_with_inbox(dir.path(), "").await;
    let mut gateway = Gateway::connect(pushline.mqtt, "g").await.unwrap();
    gateway.publish_unacknowledged("mti/1", b"zero").await.unwrap();
    assert_eq!(pushline_testkit::payloads(&inbox.next().await), ["zero"]);
    // The gateway takes an acknowledgement out of order for a mistake: it counts them by their order alone, so read the ids raw.
    let mut bytes = CONNECT_V3.to_vec();
    for id in 1..=2000u16 {
        bytes.extend(b"\x32\x0a\x00\x05mti/1");
        bytes.extend(id.to_be_bytes());
        bytes.push(b'x');
    }
    let (answer, _) = talk(pushline.mqtt, &bytes).await;
    let ids: Vec<u16> = after_connack(&answer).chunks(4).map(|ack| u16::from_be_bytes([ack[2], ack[3]])).collect();
    assert_eq!(ids, (1..=2000).collect::<Vec<u16>>());
    gateway.publish(&packets("mti/1", (0..5000).map(|number| number.to_string()))).await.unwrap();
    inbox.packets(7000).await;
}

#[tokio::test]
async fn whoever_connects_and_says_nothing_holds_up_no_shutdown() {
    let dir = folder();
    let (pushline, _inbox) = start_with_inbox(dir.path(), "").await;
    let _silent = TcpStream::connect(pushline.mqtt).await.unwrap();
    // It is accepted once a later one has its answer.
    talk(pushline.mqtt, CONNECT_V3).await;
    let log = pushline.terminate().await;
    assert!(!log.contains("didn't end in time"), "{log}");
}

/// A gateway with a store sends what isn't acknowledged again first thing, for ever: at least the operator sees it.
#[tokio::test]
async fn a_client_that_is_refused_is_named_in_the_log_and_at_the_admin_address() {
    let dir = folder();
    let (pushline, _inbox) = start_with_inbox(dir.path(), "").await;
    let connect = b"\x10\x13\0\x04MQTT\x04\x02\0\x3c\0\x07gateway";
    let mut large = b"\x32\xe7\xa7\x12\0\x05mti/1\0\x07".to_vec();
    large.resize(large.len() + 300_000 - 2, b'x');
    for _ in 0..3 {
        talk(pushline.mqtt, &[&connect[..], &large].concat()).await;
    }
    let (status, refused) = get(pushline.admin, "/devices/refused").await.unwrap();
    let line: serde_json::Value = serde_json::from_str(refused.trim()).unwrap();
    assert_eq!(
        (status, &line["client_id"], &line["reason"], &line["topic"], &line["times"]),
        (200, &"gateway".into(), &"too_large".into(), &"mti/1".into(), &3.into())
    );
    assert!(line["detail"].as_str().unwrap().contains("max_payload_bytes = 262144"), "{line}");
    let log = pushline.log();
    assert_eq!(log.lines().filter(|line| line.contains("client refused") && line.contains("client=gateway")).count(), 1, "{log}");
}

#[tokio::test]
async fn an_operator_sees_who_is_connected_and_disconnects_one() {
    let dir = folder();
    let (pushline, _inbox) = start_with_inbox(dir.path(), "").await;
    let mut gateway = TcpStream::connect(pushline.mqtt).await.unwrap();
    gateway.write_all(CONNECT_V5).await.unwrap();
    let mut connack = [0; 2];
    gateway.read_exact(&mut connack).await.unwrap();
    let (_, devices) = get(pushline.admin, "/devices?limit=5").await.unwrap();
    let line: serde_json::Value = serde_json::from_str(devices.trim()).unwrap();
    assert_eq!((&line["client_id"], &line["user"]), (&"d".into(), &serde_json::Value::Null));
    let mut admin = TcpStream::connect(pushline.admin).await.unwrap();
    admin
        .write_all(b"POST /devices/disconnect?client_id=d HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    admin.read_to_string(&mut answer).await.unwrap();
    assert!(answer.ends_with("disconnected 1 clients\n"), "{answer}");
    let mut rest = Vec::new();
    gateway.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest[usize::from(connack[1])..], [0xe0, 2, 0x98, 0]);
    assert_eq!(get(pushline.admin, "/devices?colour=red").await.unwrap().0, 400);
}

/// What a client with a store does: all that isn't acknowledged, in order. Here the first packet is too large.
#[tokio::test]
async fn by_option_a_packet_that_is_too_large_is_a_dead_letter_and_the_gateway_goes_on() {
    let dir = folder();
    let mut inbox = Inbox::start().await;
    let more = format!("{}{}", webhook("w", &inbox.url(), ""), group("mti", "line", "w"));
    let keeping = "[[mqtt.listeners]]\ntoo_large = \"dead_letter\"\n";
    let pushline = Pushline::start(BINARY, dir.path(), &Pushline::configuration(&more).replace("[[mqtt.listeners]]\n", keeping)).await;
    let mut large = b"\x32\xe7\xa7\x12\0\x05mti/1\0\x07".to_vec();
    large.resize(large.len() + 300_000 - 2, b'x');
    let (answer, closed) = talk(pushline.mqtt, &[CONNECT_V3, &large, b"\x32\x0a\0\x05mti/1\0\x08A"].concat()).await;
    assert_eq!((after_connack(&answer), closed), (&b"\x40\x02\0\x07\x40\x02\0\x08"[..], false));
    assert_eq!(pushline_testkit::payloads(&inbox.next().await), ["A"]);
    let unrouted = pushline.dead_letters("unrouted").await;
    assert_eq!((unrouted[0].cause.as_str(), unrouted[0].payload.len()), ("too_large", 299_998usize.div_ceil(3) * 4));
}

/// As docs/listeners.md shows it.
#[tokio::test]
async fn a_user_whose_password_was_hashed_is_let_in_and_another_listener_is_open() {
    let dir = folder();
    let mut hashing = command().arg("hash-password").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    hashing.stdin.take().unwrap().write_all(b"secret\n").await.unwrap();
    let hash = String::from_utf8(hashing.wait_with_output().await.unwrap().stdout).unwrap();
    std::fs::write(dir.path().join("users"), format!("gateway:{}", hash.trim())).unwrap();
    let two = "[[mqtt.listeners]]\nusers_file = \"users\"\naddress = \"127.0.0.1:0\"\n[[mqtt.listeners]]\n";
    let pushline = Pushline::start(BINARY, dir.path(), &Pushline::configuration("").replace("[[mqtt.listeners]]\n", two)).await;
    let publish = ["-q", "1", "-t", "mti/1", "-m", "A"];
    let as_user = |password: &'static str| [&publish[..], &["-u", "gateway", "-P", password]].concat();
    assert!(mosquitto_pub(pushline.mqtt, &as_user("secret")).await.0);
    for options in [&as_user("wrong")[..], &publish] {
        assert!(!mosquitto_pub(pushline.mqtt, options).await.0);
    }
    let log = pushline.log();
    let listening: Vec<&str> =
        log.lines().filter_map(|line| line.split_once("listening for devices address=")).map(|(_, rest)| rest).collect();
    let address = listening[1].split_whitespace().next().unwrap().parse().unwrap();
    assert!(mosquitto_pub(address, &publish).await.0, "{listening:?}");
}
