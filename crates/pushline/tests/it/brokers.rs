//! Packets that come from real brokers: from Mosquitto, and what holds through restarts and harmed connections also from HiveMQ.

mod chaos;
mod makes;

use std::time::Duration;

use pushline_testkit::{CertificateAuthority, Gateway, Inbox, Mosquitto, Pushline, folder, get, mosquitto_pub, payloads};

use crate::{BINARY, group, packets, webhook};

/// A configuration without a listener.
fn configuration(brokers: &str, more: &str) -> String {
    Pushline::configuration(more).replace("[[mqtt.listeners]]\naddress = \"127.0.0.1:0\"\n", brokers)
}

/// `[[mqtt.brokers]]` of a server, with more fields.
fn broker(address: std::net::SocketAddr, more: &str) -> String {
    format!("[[mqtt.brokers]]\nurl = \"mqtt://{address}\"\nclient_id = \"p\"\n{more}\n")
}

/// Waits until all connections to brokers are up.
async fn until_connected(pushline: &Pushline, connections: f64) {
    pushline.until_metric("pushline_ingest_broker_connections", "", |up| up == connections).await;
}

#[tokio::test]
async fn packets_come_from_brokers_of_either_version_beside_the_listener() {
    let (dir, first, second) = (folder(), folder(), folder());
    let mut inbox = Inbox::start().await;
    let brokers = (Mosquitto::start(first.path(), "").await, Mosquitto::start(second.path(), "").await);
    let more = [
        broker(brokers.0.address, "shared_group = \"pushline\"\nconnections = 3"),
        broker(brokers.1.address, "version = \"3.1.1\""),
        webhook("w", &inbox.url(), ""),
        group("mti", "g", "w"),
    ];
    let pushline = Pushline::start(BINARY, dir.path(), &Pushline::configuration(&more.concat())).await;
    until_connected(&pushline, 4.0).await;
    let mut expected = Vec::new();
    for (name, server) in [("first", brokers.0.address), ("second", brokers.1.address), ("devices", pushline.mqtt)] {
        let mut gateway = Gateway::connect(server, name).await.unwrap();
        let sent: Vec<String> = (0..500).map(|number| format!("{name} {number}")).collect();
        for (topic, sent) in [(format!("mti/{name}"), &sent[..250]), (format!("/mti/{name}"), &sent[250..])] {
            gateway.publish(&packets(&topic, sent.iter().map(String::as_str))).await.unwrap();
        }
        expected.extend(sent);
    }
    let mut came: Vec<String> = inbox.packets(1500).await.iter().flat_map(payloads).collect();
    came.sort();
    expected.sort();
    assert_eq!(came, expected);
    assert!(inbox.rest(Duration::from_millis(300)).await.is_empty());
    assert_eq!(pushline.metric("pushline_ingest_packets_total", "source=\"broker\"").await, 1000.0);
    assert_eq!(pushline.metric("pushline_ingest_resent_packets_total", "").await, 0.0);
    pushline.terminate().await;
}

#[tokio::test]
async fn a_packet_that_can_not_be_delivered_is_acknowledged_and_the_next_one_goes_on() {
    for version in ["5", "3.1.1"] {
        let (dir, data) = (folder(), folder());
        let mut inbox = Inbox::start().await;
        let mosquitto = Mosquitto::start(data.path(), "max_inflight_messages 1").await;
        let retained = mosquitto_pub(mosquitto.address, &["-q", "1", "-r", "-t", "mti/9", "-m", "retained"]).await;
        assert!(retained.0, "{}", retained.1);
        let more = format!("{}{}", webhook("w", &inbox.url(), "max_body_bytes = \"1KiB\""), group("mti", "g", "w"));
        let from = broker(
            mosquitto.address,
            &format!("version = \"{version}\"\nmax_payload_bytes = \"100KiB\"\ntopics = [\"{{org}}/{{iccid}}/#\"]"),
        );
        // The largest payload of the listener is what a dead letter can hold.
        let listener = "[[mqtt.listeners]]\naddress = \"127.0.0.1:0\"\nmax_payload_bytes = \"200KiB\"\n";
        let pushline = Pushline::start(BINARY, dir.path(), &configuration(&(from + listener), &more)).await;
        until_connected(&pushline, 1.0).await;
        let large = data.path().join("large");
        let largest = data.path().join("largest");
        std::fs::write(&large, vec![b'x'; 150 << 10]).unwrap();
        std::fs::write(&largest, vec![b'x'; 2 << 20]).unwrap();
        let (large, largest) = (large.to_str().unwrap(), largest.to_str().unwrap());
        for options in [
            &["-t", "mti/1/a", "-f", large][..],
            &["-t", "mti/1/a", "-f", largest],
            &["-t", "not a device/1/a", "-m", "bad topic"],
            &["-t", "x/1/a", "-m", "unknown organisation"],
            &["-t", "mti/1/a", "-m", ""],
            &["-t", "mti/1/a", "-m", "at last"],
        ] {
            let published = mosquitto_pub(mosquitto.address, &[&["-q", "2"], options].concat()).await;
            assert!(published.0, "{}", published.1);
        }
        let came: Vec<String> = inbox.packets(2).await.iter().flat_map(payloads).collect();
        assert_eq!(came, ["", "at last"], "MQTT {version}");
        let result = async |result: &str| pushline.metric("pushline_ingest_packets_total", &format!("\"{result}\"")).await;
        assert_eq!(result("too_large").await, 1.0);
        assert_eq!(result("dropped_too_large").await, 1.0);
        assert_eq!(result("unrouted").await, 2.0);
        assert_eq!(result("appended").await, 2.0);
        // Only MQTT 5 can ask for none.
        let retained = if version == "5" { 0.0 } else { 1.0 };
        assert_eq!(result("retained").await, retained, "MQTT {version}");
        let causes: Vec<String> = pushline.dead_letters("unrouted").await.into_iter().map(|letter| letter.cause).collect();
        assert_eq!(causes, ["too_large", "unrouted", "unrouted"]);
        pushline.terminate().await;
    }
}

#[tokio::test]
async fn a_broker_that_is_away_from_the_start_is_told_and_one_that_comes_back_goes_on() {
    let (dir, data) = (folder(), folder());
    let mut inbox = Inbox::start().await;
    let mut mosquitto = Mosquitto::start(data.path(), "").await;
    mosquitto.stop().await;
    let more = format!("{}{}", webhook("w", &inbox.url(), ""), group("mti", "g", "w"));
    let pushline = Pushline::start(BINARY, dir.path(), &configuration(&broker(mosquitto.address, ""), &more)).await;
    pushline.until_metric("pushline_ingest_broker_disconnections_total", "lost", |count| count >= 1.0).await;
    let (status, reason) = get(pushline.admin, "/readyz").await.unwrap();
    assert_eq!(status, 503);
    assert!(reason.contains(&format!("mqtt://{} has been away since the start", mosquitto.address)), "{reason}");
    for round in ["first", "second"] {
        mosquitto.start_again().await;
        until_connected(&pushline, 1.0).await;
        assert_eq!(get(pushline.admin, "/readyz").await.unwrap().0, 200);
        let published = mosquitto_pub(mosquitto.address, &["-q", "1", "-t", "mti/1", "-m", round]).await;
        assert!(published.0, "{}", published.1);
        assert_eq!(payloads(&inbox.next().await), [round]);
        mosquitto.stop().await;
        until_connected(&pushline, 0.0).await;
    }
    let log = pushline.terminate().await;
    assert_eq!(log.matches("connected to the MQTT broker").count(), 2, "{log}");
    assert_eq!(log.matches("connection to the MQTT broker lost").count(), 2, "{log}");
}

#[tokio::test]
async fn a_broker_with_tls_is_trusted_by_its_name_and_a_changed_client_certificate_counts_from_the_next_connection_on() {
    let (dir, data) = (folder(), folder());
    let (authority, other) = (CertificateAuthority::new(), CertificateAuthority::new());
    let file = |name: &str| data.path().join(name).display().to_string();
    let write = |name: &str, (certificate, key): (String, String)| {
        std::fs::write(file(&format!("{name}.pem")), certificate).unwrap();
        std::fs::write(file(&format!("{name}.key")), key).unwrap();
    };
    std::fs::write(file("ca.pem"), authority.pem()).unwrap();
    write("broker", authority.pem_pair("broker.example"));
    // The broker doesn't know the one that signed it.
    write("client", other.pem_pair("pushline"));
    let server_tls =
        format!("cafile {}\ncertfile {}\nkeyfile {}\nrequire_certificate true", file("ca.pem"), file("broker.pem"), file("broker.key"));
    let mosquitto = Mosquitto::start(data.path(), &server_tls).await;
    let mut inbox = Inbox::start().await;
    let tls = |server_name: &str| {
        format!(
            "tls = {{ ca_file = {:?}, cert_file = {:?}, key_file = {:?}, server_name = \"{server_name}\" }}",
            file("ca.pem"),
            file("client.pem"),
            file("client.key")
        )
    };
    let right = broker(mosquitto.address, &tls("broker.example"));
    let wrong = broker(mosquitto.address, &tls("another.example")).replace("client_id = \"p\"", "client_id = \"wrong\"");
    let more = format!("{}{}", webhook("w", &inbox.url(), ""), group("mti", "g", "w"));
    let pushline = Pushline::start(BINARY, dir.path(), &configuration(&(right + &wrong).replace("mqtt://", "mqtts://"), &more)).await;
    pushline.until_metric("pushline_ingest_broker_disconnections_total", "lost", |count| count >= 4.0).await;
    assert_eq!(pushline.metric("pushline_ingest_broker_connections", "").await, 0.0);
    write("client", authority.pem_pair("pushline"));
    until_connected(&pushline, 1.0).await;
    let options = ["--cafile", &file("ca.pem"), "--cert", &file("client.pem"), "--key", &file("client.key"), "--insecure"];
    let published = mosquitto_pub(mosquitto.address, &[&options[..], &["-q", "1", "-t", "mti/1", "-m", "ABC"]].concat()).await;
    assert!(published.0, "{}", published.1);
    assert_eq!(payloads(&inbox.next().await), ["ABC"]);
    let log = pushline.terminate().await;
    assert!(log.contains("another.example") || log.contains("NotValidForName"), "{log}");
}
