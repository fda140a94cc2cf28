//! Sessions and QoS 2 as a client sees them (docs/sessions.md).

use std::{net::SocketAddr, time::Duration};

use tokio::{io::AsyncWriteExt, net::TcpStream};

use super::{listen, read_packet};

/// A CONNECT of MQTT 3.1.1 of client `d`.
const CLEAN_V3: &[u8] = b"\x10\x0d\0\x04MQTT\x04\x02\0\x3c\0\x01d";
const RESUME_V3: &[u8] = b"\x10\x0d\0\x04MQTT\x04\x00\0\x3c\0\x01d";

/// A CONNECT of MQTT 5 of client `d` with a Session Expiry Interval.
fn connect_v5(clean_start: bool, expiry: u32) -> Vec<u8> {
    let flags = if clean_start { 2 } else { 0 };
    [&b"\x10\x13\0\x04MQTT\x05"[..], &[flags, 0, 0x3c, 5, 0x11], &expiry.to_be_bytes(), b"\0\x01d"].concat()
}

/// Connects and returns the CONNACK's body.
async fn connect(listener: SocketAddr, bytes: &[u8]) -> (TcpStream, Vec<u8>) {
    let mut stream = TcpStream::connect(listener).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let Some((0x20, body)) = read_packet(&mut stream).await else { panic!("CONNACK comes first") };
    assert_eq!(body[1], 0, "{body:x?}");
    (stream, body)
}

/// Sends bytes and returns what comes back, packet by packet.
async fn say(stream: &mut TcpStream, bytes: &[u8], answers: usize) -> Vec<(u8, Vec<u8>)> {
    stream.write_all(bytes).await.unwrap();
    let mut all = Vec::new();
    for _ in 0..answers {
        all.push(read_packet(stream).await.expect("an answer comes"));
    }
    all
}

/// A PUBLISH at QoS 2 to `mti/1`, in MQTT 3.1.1.
fn publish(id: u8) -> Vec<u8> {
    [&b"\x34\x0a\0\x05mti/1\0"[..], &[id, b'A']].concat()
}

const PUBREC: u8 = 0x50;
const PUBCOMP: u8 = 0x70;

#[tokio::test]
async fn session_present_is_true_exactly_when_the_session_goes_on() {
    let listener = listen(|_| ()).await;
    for (what, bytes, is_present) in [
        ("never seen", RESUME_V3.to_vec(), 0),
        ("seen", RESUME_V3.to_vec(), 1),
        ("clean", CLEAN_V3.to_vec(), 0),
        ("after clean", RESUME_V3.to_vec(), 0),
        ("the session of a client that speaks MQTT 5 now", connect_v5(false, 100), 1),
        ("clean start", connect_v5(true, 100), 0),
        ("after clean start", connect_v5(false, 0), 1),
        ("after a connection without expiry", connect_v5(false, 100), 0),
    ] {
        let (stream, connack) = connect(listener.address, &bytes).await;
        assert_eq!(connack[0], is_present, "{what}");
        drop(stream);
    }
}

/// The Session Expiry Interval of a CONNACK.
fn expiry_of(connack: &[u8]) -> u32 {
    assert_eq!(connack[3], 0x11, "{connack:x?}");
    u32::from_be_bytes(connack[4..8].try_into().unwrap())
}

#[tokio::test]
async fn connack_has_the_expiry_that_counts() {
    let listener = listen(|options| (options.limits.session_expiry, options.limits.sessions) = (Duration::from_secs(1000), 1)).await;
    for (wanted, granted) in [(100, 100), (u32::MAX, 1000), (0, 0)] {
        assert_eq!(expiry_of(&connect(listener.address, &connect_v5(true, wanted)).await.1), granted);
    }
    let (_first, connack) = connect(listener.address, &connect_v5(false, 100)).await;
    assert_eq!(expiry_of(&connack), 100);
    let other = connect_v5(false, 100).strip_suffix(b"d").unwrap().to_vec();
    let (_second, connack) = connect(listener.address, &[other, b"e".to_vec()].concat()).await;
    assert_eq!(expiry_of(&connack), 0, "there is one session already");
}

#[tokio::test]
async fn a_packet_that_a_session_holds_is_acknowledged_on_the_next_connection_and_not_stored_again() {
    let listener = listen(|_| ()).await;
    let (mut first, _) = connect(listener.address, RESUME_V3).await;
    let answers = say(&mut first, &[publish(7), publish(8), b"\x62\x02\0\x08".to_vec()].concat(), 3).await;
    assert_eq!(answers, [(PUBREC, vec![0, 7]), (PUBREC, vec![0, 8]), (PUBCOMP, vec![0, 8])]);
    // The first connection is still open.
    let (mut second, connack) = connect(listener.address, RESUME_V3).await;
    assert_eq!(connack[0], 1);
    let again = say(&mut second, &[publish(7), publish(8), b"\x62\x02\0\x07\x62\x02\0\x07".to_vec()].concat(), 4).await;
    assert_eq!(again, [(PUBREC, vec![0, 7]), (PUBREC, vec![0, 8]), (PUBCOMP, vec![0, 7]), (PUBCOMP, vec![0, 7])]);
    assert_eq!(read_packet(&mut first).await, None, "the second one took the session over");
    assert_eq!(listener.packets().await, 3, "7, 8, and another 8");
    let (mut clean, connack) = connect(listener.address, CLEAN_V3).await;
    assert_eq!(connack[0], 0);
    say(&mut clean, &publish(8), 1).await;
    assert_eq!(listener.packets().await, 4, "a clean session holds nothing");
}

#[tokio::test]
async fn disconnect_may_change_the_expiry_of_a_session_that_has_one() {
    let listener = listen(|_| ()).await;
    let disconnect = |expiry: u32| [&b"\xe0\x07\0\x05\x11"[..], &expiry.to_be_bytes()].concat();
    let (mut stream, _) = connect(listener.address, &connect_v5(false, 100)).await;
    stream.write_all(&disconnect(0)).await.unwrap();
    assert_eq!(read_packet(&mut stream).await, None);
    let (mut stream, connack) = connect(listener.address, &connect_v5(false, 0)).await;
    assert_eq!(connack[0], 0, "the session ended with DISCONNECT");
    stream.write_all(&disconnect(100)).await.unwrap();
    assert_eq!(read_packet(&mut stream).await, Some((0xe0, vec![0x82, 0])), "a session without expiry gets none");
}

#[tokio::test]
async fn a_client_of_mqtt_5_with_more_in_flight_than_receive_maximum_is_refused() {
    let listener = listen(|options| options.limits.receive_maximum = 2).await;
    let (mut stream, connack) = connect(listener.address, &connect_v5(true, 0)).await;
    assert!(connack.windows(3).any(|window| window == b"\x21\0\x02"), "{connack:x?}");
    // In one write, so that none is acknowledged before the last one is read.
    let of = |first: u8, id: u8| [&[first], &b"\x0b\0\x05mti/1\0"[..], &[id, 0, b'A']].concat();
    stream.write_all(&[of(0x32, 1), of(0x34, 2), of(0x34, 3)].concat()).await.unwrap();
    let mut last = None;
    while let Some(packet) = read_packet(&mut stream).await {
        last = Some(packet);
    }
    assert_eq!(last, Some((0xe0, vec![0x93, 0])));
}
