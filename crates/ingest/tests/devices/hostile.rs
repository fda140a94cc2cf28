//! The tables of docs/hostile-device.md, read from the page itself and played on real sockets.

use std::{collections::BTreeSet, fmt::Write as _, net::SocketAddr};

use tokio::{io::AsyncWriteExt, net::TcpStream};

use super::{listen, read_packet};

const PAGE: &str = include_str!("../../../../docs/hostile-device.md");

pub(crate) const PING: &[u8] = b"\xc0\0";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    V3,
    V5,
}

use Version::{V3, V5};

/// A cell of the tables.
pub(crate) struct Cell {
    /// The title above its table.
    pub(crate) section: &'static str,
    pub(crate) row: String,
    pub(crate) version: Version,
    pub(crate) answer: String,
}

/// All cells that aren't empty.
pub(crate) fn cells() -> Vec<Cell> {
    let (mut cells, mut section, mut reasons, mut used) = (Vec::new(), "", BTreeSet::new(), BTreeSet::new());
    for line in PAGE.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            section = title;
        }
        let columns: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        if section == "Empty cells" && columns.len() == 2 && columns[0].len() == 1 {
            reasons.insert(columns[0]);
        }
        let [name, _, v3, v5] = columns[..] else { continue };
        let Some(row) = name.strip_prefix('`') else { continue };
        for (version, answer) in [(V3, v3), (V5, v5)] {
            match answer.strip_prefix('–') {
                Some(reason) => drop(used.insert(reason)),
                None => cells.push(Cell { section, row: row.trim_end_matches('`').to_owned(), version, answer: answer.to_owned() }),
            }
        }
    }
    assert_eq!(used, reasons, "each empty cell has a reason, and each reason is needed");
    assert!(cells.len() > 80, "{}", cells.len());
    cells
}

pub(crate) fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let (mut bytes, mut length) = (vec![first], body.len());
    while length > 0x7f {
        bytes.push(u8::try_from(length & 0x7f).unwrap() | 0x80);
        length >>= 7;
    }
    bytes.push(u8::try_from(length).unwrap());
    [&bytes, body].concat()
}

pub(crate) fn text(text: &[u8]) -> Vec<u8> {
    [&u16::try_from(text.len()).unwrap().to_be_bytes()[..], text].concat()
}

/// Properties in MQTT 5, nothing in MQTT 3.1.1.
pub(crate) fn properties(version: Version, properties: &[u8]) -> Vec<u8> {
    if version == V5 { [&[u8::try_from(properties.len()).unwrap()], properties].concat() } else { vec![] }
}

/// A CONNECT with these flags and properties, and with these bytes behind them.
pub(crate) fn connect_of(name: &[u8], level: u8, flags: u8, rest: &[u8]) -> Vec<u8> {
    packet(0x10, &[&text(name)[..], &[level, flags, 0, 60], rest].concat())
}

pub(crate) fn connect(version: Version, flags: u8, props: &[u8], rest: &[u8]) -> Vec<u8> {
    let level = if version == V3 { 4 } else { 5 };
    connect_of(b"MQTT", level, flags, &[&properties(version, props)[..], rest].concat())
}

/// The bytes of a first packet.
pub(crate) fn first_packet(row: &str, v: Version) -> Vec<u8> {
    let id = text(b"hostile");
    let will = |flags: u8, topic: &[u8], props: &[u8]| {
        connect(v, 6 | flags, b"", &[&id[..], &properties(v, props), &text(topic), &text(b"bye")].concat())
    };
    match row {
        "connect" => connect(v, 2, b"", &id),
        "bridge" => connect_of(b"MQTT", 0x84, 2, &id),
        "bridge-of-3.1" => connect_of(b"MQIsdp", 0x83, 2, &id),
        "unknown-level" => connect_of(b"MQTT", 6, 2, &id),
        "not-mqtt" => b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
        "no-connect" => behind_connect("qos-1", v),
        "bytes-behind-connect" => connect(v, 2, b"", &[&id[..], b"x"].concat()),
        "connect-too-large" => connect(v, 2, b"", &[0; 100_000]),
        "user-without-flag" => connect(v, 2, b"", &[id, text(b"user")].concat()),
        "password-without-user" => connect(v, 0x42, b"", &[id, text(b"password")].concat()),
        "connect-ends-early" => connect(v, 2, b"", b"\0\x09hostile"),
        "reserved-flag" => connect(v, 3, b"", &id),
        "nul-in-client-id" => connect(v, 2, b"", &text(b"a\0b")),
        "client-id-not-utf8" => connect(v, 2, b"", &text(b"\xff")),
        "client-id-longest" => connect(v, 2, b"", &text(&[b'x'; 30])),
        "client-id-too-long" => connect(v, 2, b"", &text(&[b'x'; 31])),
        "empty-client-id" => connect(v, 2, b"", &text(b"")),
        "session" => connect(v, 0, b"\x11\0\0\x01\0", &id),
        "empty-client-id-with-session" => connect(v, 0, b"", &text(b"")),
        "will-qos-without-will" => connect(v, 2 | 1 << 3, b"", &id),
        "will-of-qos-2" => will(2 << 3, b"mti/1", b""),
        "will-of-qos-3" => will(3 << 3, b"mti/1", b""),
        "will-with-wildcard" => will(0, b"mti/+", b""),
        "will-expires-at-once" => will(0, b"mti/1", b"\x02\0\0\0\0"),
        "authentication-data-alone" => connect(v, 2, b"\x16\0\x01d", &id),
        "authentication-method" => connect(v, 2, b"\x15\0\x01m", &id),
        "receive-maximum-0" => connect(v, 2, b"\x21\0\0", &id),
        "maximum-packet-size-0" => connect(v, 2, b"\x27\0\0\0\0", &id),
        "maximum-packet-size-5" => connect(v, 2, b"\x27\0\0\0\x05", &id),
        "maximum-packet-size-4" => connect(v, 2, b"\x27\0\0\0\x04", &id),
        _ => panic!("the row {row} has no bytes"),
    }
}

/// The bytes of a packet behind CONNECT.
pub(crate) fn behind_connect(row: &str, v: Version) -> Vec<u8> {
    let publish = |first: u8, topic: &[u8], props: &[u8], payload: &[u8]| {
        let id: &[u8] = if first & 6 == 0 { b"" } else { b"\0\x07" };
        packet(first, &[&text(topic)[..], id, &properties(v, props), payload].concat())
    };
    let filters = |first: u8, rest: &[u8]| packet(first, &[&b"\0\x09"[..], &properties(v, b""), rest].concat());
    match row {
        "qos-0" => publish(0x30, b"mti/1", b"", b"A"),
        "qos-1" => publish(0x32, b"mti/1", b"", b"A"),
        "qos-1-again" => publish(0x3a, b"mti/1", b"", b"A"),
        "unrouted" => publish(0x32, b"nobody/1", b"", b"A"),
        "system-topic" => publish(0x32, b"$SYS/broker/connection/a/state", b"", b"1"),
        "expires-at-once" => publish(0x32, b"mti/1", b"\x02\0\0\0\0", b"A"),
        "qos-2" => publish(0x34, b"mti/1", b"", b"A"),
        "qos-2-again" => publish(0x3c, b"mti/1", b"", b"A"),
        "qos-2-unrouted" => publish(0x34, b"nobody/1", b"", b"A"),
        "qos-2-system-topic" => publish(0x34, b"$SYS/a", b"", b"A"),
        "qos-2-too-large" => publish(0x34, b"mti/1", b"", &[b'x'; 1001]),
        "qos-2-packet-id-0" => packet(0x34, &[&text(b"mti/1")[..], b"\0\0", &properties(v, b""), b"A"].concat()),
        "release-of-nothing" => packet(0x62, b"\0\x07"),
        "release-with-wrong-flags" => packet(0x60, b"\0\x07"),
        "release-of-packet-id-0" => packet(0x62, b"\0\0"),
        "receipt-of-nothing" => packet(0x50, b"\0\x07"),
        "completion-of-nothing" => packet(0x70, b"\0\x07"),
        "qos-3" => publish(0x36, b"mti/1", b"", b"A"),
        "qos-0-again" => publish(0x38, b"mti/1", b"", b"A"),
        "packet-id-0" => packet(0x32, &[&text(b"mti/1")[..], b"\0\0", &properties(v, b""), b"A"].concat()),
        "topic-with-wildcard" => publish(0x32, b"mti/+", b"", b"A"),
        "topic-empty" => publish(0x32, b"", b"", b"A"),
        "topic-with-nul" => publish(0x32, b"mti/\0", b"", b"A"),
        "topic-not-utf8" => publish(0x32, b"mti/\xff", b"", b"A"),
        "topic-longer-than-packet" => packet(0x30, b"\0\x09mti"),
        "payload-empty" => publish(0x32, b"mti/1", b"", b""),
        "payload-largest" => publish(0x32, b"mti/1", b"", &[b'x'; 1000]),
        "topic-longest" => publish(0x32, &[b'x'; 65_535], b"", b"A"),
        "length-longer-than-needed" => {
            let mut bytes = publish(0x32, b"mti/1", b"", b"A");
            bytes[1] |= 0x80;
            bytes.insert(2, 0);
            bytes
        }
        "payload-too-large" => publish(0x32, b"mti/1", b"", &[b'x'; 1001]),
        "packet-too-large" => b"\x30\xff\xff\xff\x7f".to_vec(),
        "length-of-five-bytes" => b"\x30\xff\xff\xff\xff\x7f".to_vec(),
        "topic-alias" => publish(0x32, b"mti/1", b"\x23\0\x01", b"A"),
        "subscription-identifier" => publish(0x32, b"mti/1", b"\x0b\x01", b"A"),
        "response-topic-with-wildcard" => publish(0x32, b"mti/1", b"\x08\0\x03a/#", b"A"),
        "property-twice" => publish(0x32, b"mti/1", b"\x03\0\x01a\x03\0\x01a", b"A"),
        "property-of-another-packet" => publish(0x32, b"mti/1", b"\x11\0\0\0\x01", b"A"),
        "properties-longer-than-packet" => packet(0x30, &[&text(b"mti/1")[..], b"\x09\x01\x01"].concat()),
        "subscribe" => filters(0x82, b"\0\x01#\x02"),
        "subscribe-without-filter" => filters(0x82, b""),
        "subscribe-for-qos-3" => filters(0x82, b"\0\x01#\x03"),
        "subscribe-with-wrong-flags" => filters(0x80, b"\0\x01#\x01"),
        "unsubscribe" => filters(0xa2, b"\0\x01#"),
        "ping" => PING.to_vec(),
        "ping-with-a-body" => packet(0xc0, b"x"),
        "second-connect" => first_packet("connect", v),
        "answer-to-nothing" => packet(0x40, b"\0\x07"),
        "packet-of-servers" => packet(0x20, b"\0\0"),
        "authentication" => packet(0xf0, b"\0\0"),
        "type-0" => packet(0x00, b""),
        "disconnect" => packet(0xe0, b""),
        "disconnect-with-expiry" => packet(0xe0, b"\0\x05\x11\0\0\0\x01"),
        "disconnect-malformed" => packet(0xe0, b"\0\x06\x11\0\0\0\x01"),
        "publish-behind-disconnect" => [packet(0xe0, b""), publish(0x32, b"mti/1", b"", b"A")].concat(),
        _ => panic!("the row {row} has no bytes"),
    }
}

/// What the listener answers, in the words of the page.
pub(crate) async fn answer(stream: &mut TcpStream, version: Version) -> String {
    let Some((first, body)) = read_packet(stream).await else { return "closed".into() };
    let code = |code: u8| if code < 3 { code.to_string() } else { format!("{code:#x}") };
    let name = |first| match first {
        0x40 => "PUBACK",
        0x50 => "PUBREC",
        _ => "PUBCOMP",
    };
    match (first, &body[..], version) {
        (0x20, [_, reason, ..], _) => format!("CONNACK {}", code(*reason)),
        (0xe0, [reason, ..], _) => format!("DISCONNECT {}", code(*reason)),
        (0x40 | 0x50 | 0x70, [0, 7], _) => name(first).into(),
        (0x40 | 0x50 | 0x70, [0, 7, reason], V5) => format!("{} {}", name(first), code(*reason)),
        (0x90, [0, 9, reason], V3) | (0x90, [0, 9, 0, reason], V5) => format!("SUBACK {}", code(*reason)),
        (0xb0, [0, 9], V3) => "UNSUBACK".into(),
        (0xb0, [0, 9, 0, reason], V5) => format!("UNSUBACK {}", code(*reason)),
        (0xd0, [], _) => "PINGRESP".into(),
        _ => format!("{first:#x} {body:x?}"),
    }
}

/// Plays a cell, and returns the listener's answer.
async fn play(listener: SocketAddr, cell: &Cell) -> String {
    let mut stream = TcpStream::connect(listener).await.unwrap();
    let bytes = if cell.section == "Behind CONNECT" {
        stream.write_all(&first_packet("connect", cell.version)).await.unwrap();
        assert_eq!(answer(&mut stream, cell.version).await, "CONNACK 0");
        behind_connect(&cell.row, cell.version)
    } else {
        first_packet(&cell.row, cell.version)
    };
    // A write to a closed connection may fail: the answer tells.
    drop(stream.write_all(&bytes).await);
    let stays_open = cell.answer == "silence"
        || cell.answer == "CONNACK 0"
        || ["PUBACK", "PUBREC", "PUBCOMP", "SUBACK", "UNSUBACK", "PINGRESP"].iter().any(|word| cell.answer.starts_with(word));
    let mut heard = String::new();
    if cell.answer != "silence" {
        heard = answer(&mut stream, cell.version).await;
    }
    if stays_open {
        drop(stream.write_all(PING).await);
        let pong = answer(&mut stream, cell.version).await;
        if cell.answer == "silence" && pong == "PINGRESP" {
            return "silence".into();
        }
        if pong != "PINGRESP" {
            write!(heard, ", then {pong}").unwrap();
        }
    } else if heard != "closed" {
        let rest = answer(&mut stream, cell.version).await;
        if rest != "closed" {
            write!(heard, ", then {rest}").unwrap();
        }
    }
    heard
}

#[tokio::test]
async fn each_cell_of_the_hostile_devices_table_gets_its_answer() {
    let listening = listen(|options| {
        options.max_payload_bytes = 1000;
        options.limits.client_id_bytes = 30;
    })
    .await;
    let mut wrong = String::new();
    for cell in cells().into_iter().filter(|cell| ["The first packet", "Behind CONNECT"].contains(&cell.section)) {
        let heard = play(listening.address, &cell).await;
        if heard != cell.answer {
            writeln!(wrong, "{} in {:?}: {heard}, expected {}", cell.row, cell.version, cell.answer).unwrap();
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}
